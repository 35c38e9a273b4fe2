"""What a report shows of each kind of result file. A kind is a module with `blocks`, of one file's measurements."""
