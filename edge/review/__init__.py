"""What people say of verdicts: their marks together. docs/review.md."""
