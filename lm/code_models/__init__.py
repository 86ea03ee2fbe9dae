"""Models of Python functions: the standard library's short ones, a tokenizer, and the training."""
