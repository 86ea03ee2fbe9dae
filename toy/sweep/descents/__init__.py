"""Descents and exact minima of batches of problems."""
