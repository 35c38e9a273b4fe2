"""What shows and stores the work of a line beside it: pictures, evidence, marks, and the page with its metrics."""
