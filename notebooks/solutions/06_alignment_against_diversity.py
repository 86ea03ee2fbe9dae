"""Solutions of the sixth notebook, one section a cell; ``make notebooks`` puts them in place."""

import math

import numpy as np


# %% exercise-1
def regret(measures):
    """Compare with the least of each column; a column without a finite number says nothing."""
    logs = np.log(measures)
    least = logs.min(axis=-2, keepdims=True)
    known = np.isfinite(least)
    return np.where(known, logs - np.where(known, least, 0.0), np.nan)


# %% exercise-2
def paired_bootstrap(first, second, *, draws, rng):
    """Draw tasks, then seeds within each drawn task, of the differences."""
    difference = first - second
    tasks, seeds = difference.shape
    task = rng.integers(tasks, size=(draws, tasks, 1))
    seed = rng.integers(seeds, size=(draws, tasks, seeds))
    return difference[task, seed].mean(axis=(1, 2))


# %% exercise-3
def coverage_at(counts, n, k):
    """Count the subsets of k samples that miss a name."""
    missed = [math.comb(n - int(c), k) / math.comb(n, k) for c in counts]
    return 1.0 - np.mean(missed)
