"""Random problems, in batches of one shape."""
