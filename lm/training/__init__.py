"""What the loop in `lm.train` works with."""
