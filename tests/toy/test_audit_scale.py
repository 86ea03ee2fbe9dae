"""Audits of losses in any unit: their squares vanish or overflow, their signal may be flat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toy.audit.audits import AuditError, assert_descends, audit
from toy.audit.losses import k1, k2
from toy.audit.oracle import compare, problems


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-13, 1e12, 1e160, 1e300])
def test_the_scale_of_a_loss_is_no_matter(scale):
    """Squares of these gradients vanish or overflow, which fits anything or nothing."""

    def named(log_policy, log_reference):
        return scale * k2(log_policy, log_reference)

    def unnamed(log_policy, log_reference):
        return scale * (log_policy - log_reference) ** 4

    def nothing(log_policy, log_reference):
        return scale * k1(log_policy, log_reference)

    found = audit(named)
    assert found.comparison.best_match == "reverse_kl"
    assert found.comparison.scale == pytest.approx(scale, rel=1e-10)
    assert max(found.batch_change.values()) < 1e-12
    assert_descends(named, "reverse_kl")
    with pytest.raises(AssertionError, match="should descend forward_kl"):
        assert_descends(named, "forward_kl")
    for loss, shape, zero in ((unnamed, "increasing", False), (nothing, "flat", True)):
        report = audit(loss)
        assert report.signal is not None
        assert report.signal.shape == shape
        assert report.comparison.zero_gradient is zero
        assert report.comparison.best_match is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_compared_with_nothing(bad):
    gradients = [torch.ones_like(problem.policy).flatten() for problem in problems()]
    gradients[1][2] = bad
    with pytest.raises(AuditError, match=f"a gradient is {bad}"):
        _ = compare(gradients, problems())


def test_values_whose_sum_overflows_are_an_error():
    with pytest.raises(AuditError, match="too large for their sum"):
        _ = audit(lambda p, r: 1.7e308 + 0 * p, batch_size=2)


def test_what_is_flat_on_the_grid_is_said_of_the_grid_alone():
    def of_likely_texts(log_policy, log_reference):
        """Zero on the grid, where no outcome has a mass of 0.3."""
        return torch.where(log_reference > -1.2, k2(log_policy, log_reference), 0 * log_policy)

    sentence = audit(of_likely_texts).sentence
    assert "named divergences to the reference: f'(t) does not change for log-ratios" in sentence
    assert "nor any other f-divergence" not in sentence
