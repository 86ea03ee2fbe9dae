"""The stored tables, and what is read from them."""
