"""``python -m lm sweep sweep.yaml``: many runs, each of them once, and one table of what they gave.

A sweep names sizes, tasks, methods, learning rates, variants and seeds, and blocks that combine
them. Every combination is a run of `lm.train` in a process of one thread; a finished one is a file
that is never computed again, so a sweep that is stopped or killed continues where it was.
"""
