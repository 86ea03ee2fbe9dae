"""Base samples until Z is precise: what stopping does to the mean of Zhat, by enumeration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from fdpg_ref import relative_standard_error
from lm.config import PartitionConfig
from lm.target.offline import FIRST

DOCS = Path(__file__).parents[2] / "docs"


def stops(n: int, k: int) -> bool:
    """Return whether k successes of n are precise enough, as `lm.target.fit` decides it."""
    if k == 0:
        return False
    with np.errstate(divide="ignore"):
        error = relative_standard_error(np.log((np.arange(n) < k).astype(float)))
    asked = PartitionConfig.error
    return float(error) <= asked and 1 / k <= asked


def moments(rate: float, most: int) -> tuple[float, float]:
    """Return the mean of Zhat after stopping, and its deviation, over all numbers of successes."""
    n, mean, square = FIRST, 0.0, 0.0
    law = binom.pmf(np.arange(n + 1), n, rate)
    while True:
        # From the least number of successes on which the error is small enough, it ends.
        least = 0 if n == most else next((k for k in range(n + 1) if stops(n, k)), n + 1)
        share = np.arange(n + 1) / n
        mean += float((law * share)[least:].sum())
        square += float((law * share**2)[least:].sum())
        if n == most:
            return mean, float(np.sqrt(square - mean**2))
        law[least:] = 0.0
        more = min(n, most - n)
        law = np.convolve(law, binom.pmf(np.arange(more + 1), more, rate))
        n += more


@pytest.mark.parametrize("rate", [0.436, 0.6])
def test_stopping_makes_z_a_little_too_large(rate):
    """It ends earlier after a Zhat that is large: 1 % at worst, a quarter of its spread."""
    mean, deviation = moments(rate, most=2 * 2 * FIRST)
    bias = mean / rate - 1
    assert 0.003 < bias < 0.0101
    assert bias * rate < 0.25 * deviation


def test_a_number_of_samples_has_no_such_bias():
    mean, _ = moments(0.436, most=FIRST)
    # Sums of some hundred probabilities in float64.
    assert mean == pytest.approx(0.436, rel=1e-12)


@pytest.mark.parametrize("page", ["recipes.md", "concepts/partition.md"])
def test_the_pages_say_so(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert "no longer unbiased" in text
    assert "1 %" in text
