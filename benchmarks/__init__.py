"""Measurements that back the numbers in the documentation; see ``python -m benchmarks``."""
