"""Claims about whole sequences and their tokens."""
