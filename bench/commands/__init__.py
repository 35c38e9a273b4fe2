"""`heatline bench`, a file per subcommand."""
