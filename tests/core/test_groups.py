"""Coefficients of samples grouped by prompt: slow loops over groups, and what has no mass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import Library, to_numpy

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    TOTAL_VARIATION,
    alpha_divergence,
    group_coefficients,
)

INF = math.inf
# Asymmetric and large log P - log pi; three prompts of 2, 3 and 4 samples, in no order.
RATIOS = [0.3, -2.1, 4.0, 1.7, -0.4, 3.1, 0.9, -5.0, 2.2]
GROUPS = ["b", "a", "c", "a", "b", "c", "b", "c", "c"]
WEIGHTS = [0.5, -0.25, 0.125, -1.0, 0.75, 0.0, -0.5, 0.25, -0.125]


def slow(values: list[float], log_weights: list[float], name: str, log_z: str | float):
    """Return the coefficients of one group by a loop over Python floats."""
    peers = [[j for j in range(len(values)) if j != i] for i in range(len(values))]
    masses = [math.exp(r + w) for r, w in zip(values, log_weights, strict=True)]
    signals = []
    for i, ratio in enumerate(values):
        own = peers[i] if log_z == "leave_one_out" else range(len(values))
        estimate = math.fsum(masses[j] for j in own) / len(own)
        t = math.exp(-ratio) * (estimate if isinstance(log_z, str) else math.exp(log_z))
        signals.append(float(DIVERGENCES[name].signal(np.asarray(math.log(t)))))
    return [
        math.exp(log_weights[i]) * (own - math.fsum(signals[j] for j in peers[i]) / len(peers[i]))
        for i, own in enumerate(signals)
    ]


@pytest.mark.parametrize("log_z", ["leave_one_out", "same_batch", 0.7])
@pytest.mark.parametrize("name", ["jensen_shannon", "reverse_kl", "forward_kl", "pearson_chi2"])
def test_groups_are_the_pieces_one_by_one(xp: Library, name: str, log_z):
    given_weights = xp.array(WEIGHTS)
    values = to_numpy(
        group_coefficients(
            xp.array(RATIOS),
            GROUPS,
            divergence=DIVERGENCES[name],
            log_z=log_z,
            log_weights=given_weights,
        )
    )
    for group in "abc":
        rows = [i for i, label in enumerate(GROUPS) if label == group]
        expected = slow([RATIOS[i] for i in rows], [WEIGHTS[i] for i in rows], name, log_z)
        # Ratios of up to 9 nats carry their rounding into t; a centred signal cancels its peers.
        allowed = 40 * xp.eps * max(map(abs, expected))
        np.testing.assert_allclose(values[rows], expected, rtol=40 * xp.eps, atol=allowed)


def test_rows_of_an_array_are_groups_too(xp: Library):
    rows = xp.array([RATIOS[:3], RATIOS[3:6]])
    column = xp.array([[0.5], [-0.25]])
    wide = group_coefficients(rows, divergence=JENSEN_SHANNON, log_z=column)
    flat = group_coefficients(
        xp.array(RATIOS[:6]),
        [7, 7, 7, 2, 2, 2],
        divergence=JENSEN_SHANNON,
        log_z=xp.array([0.5] * 3 + [-0.25] * 3),
    )
    np.testing.assert_array_equal(to_numpy(wide).ravel(), to_numpy(flat))


@given(order=st.permutations(range(9)))
def test_the_order_of_samples_changes_nothing(order: list[int]):
    values = group_coefficients(
        np.array(RATIOS), GROUPS, divergence=JENSEN_SHANNON, log_z="leave_one_out"
    )
    moved = group_coefficients(
        np.array(RATIOS)[order],
        [GROUPS[i] for i in order],
        divergence=JENSEN_SHANNON,
        log_z="leave_one_out",
    )
    # A sum of four terms in another order.
    np.testing.assert_allclose(moved, values[order], rtol=1e-13, atol=1e-14)


def test_alpha_family_and_a_baseline_of_your_own(xp: Library):
    alpha = alpha_divergence(0.3)
    values = group_coefficients(xp.array([1.0, -INF]), divergence=alpha, log_z=0.25, baseline=0.5)
    expected = [(math.exp(-0.75 * -0.7) - 1) / -0.7 - 0.5, 1 / 0.7 - 0.5]
    np.testing.assert_allclose(to_numpy(values), expected, rtol=8 * xp.eps)


# ------------------------------------------------------------------ groups without mass


@pytest.mark.parametrize("log_z", ["leave_one_out", "same_batch", 0.5])
@pytest.mark.parametrize("divergence", [FORWARD_KL, REVERSE_KL, JENSEN_SHANNON, TOTAL_VARIATION])
def test_a_group_without_mass_has_a_gradient_of_zero(xp: Library, divergence, log_z):
    ratios = xp.array([-INF, 0.4, -INF, 1.3, -INF, 0.2])
    values = group_coefficients(ratios, [0, 1, 0, 1, 0, 1], divergence=divergence, log_z=log_z)
    assert to_numpy(values)[::2].tolist() == [0.0, 0.0, 0.0]
    assert np.all(np.isfinite(to_numpy(values)))
    assert np.all(to_numpy(values)[1::2] != 0)


def test_without_a_baseline_of_the_group_what_is_outside_costs_its_price(xp: Library):
    """A mean of zero over such groups would be a bias: the plain estimator needs this term."""
    values = group_coefficients(
        xp.array([-INF, -INF]), divergence=JENSEN_SHANNON, log_z=-1.5, baseline=0.0
    )
    np.testing.assert_allclose(to_numpy(values), [math.log(2) / 2] * 2, rtol=2 * xp.eps)


@pytest.mark.parametrize("successes", [1, 2, 3])
def test_one_two_and_all_successes_are_finite_with_z_as_a_column(xp: Library, successes: int):
    ratios = xp.array([0.1] * successes + [-INF] * (3 - successes))
    values = to_numpy(group_coefficients(ratios, divergence=FORWARD_KL, log_z=math.log(0.2)))
    # 1 - 1/t with 1/t = e^0.1 / 0.2 for a success and 0 for a failure.
    gain = math.exp(0.1) / 0.2
    expected = [-gain * (3 - successes) / 2] * successes + [gain * successes / 2] * (3 - successes)
    np.testing.assert_allclose(values, expected, rtol=16 * xp.eps, atol=16 * xp.eps)


def test_a_single_success_has_no_z_from_its_peers(xp: Library):
    """No finite coefficient exists: the caller sees it, nothing is put in its place."""
    ratios = xp.array([0.1, -INF, -INF])
    with np.errstate(all="ignore"):
        values = group_coefficients(ratios, divergence=FORWARD_KL, log_z="leave_one_out")
    assert not np.any(np.isfinite(to_numpy(values)))


def test_nan_is_never_taken_for_missing_mass(xp: Library):
    values = group_coefficients(
        xp.array([math.nan, -INF]), divergence=JENSEN_SHANNON, log_z="leave_one_out"
    )
    assert np.isnan(to_numpy(values)[0])


# ------------------------------------------------------------------ mistakes of the caller


@pytest.mark.parametrize(
    ("groups", "words", "message"),
    [
        ([0, 0, 1], {}, "1 sample\\(s\\)"),
        ([0, 0], {}, "log_score_ratio has shape \\(3,\\) but there are 2 groups"),
        ([0, 0, 0], {"log_z": "past"}, "log_z is 'past': .* leave_one_out, same_batch"),
        ([0, 0, 0], {"baseline": "mean"}, "baseline is 'mean': .* leave_one_out"),
        ([0, 0, 0], {"log_z": np.zeros(2)}, "log_z has shape \\(2,\\) but there are 3 groups"),
        (None, {"log_z": np.zeros(2)}, "log_z has shape \\(2,\\)"),
        (None, {"log_weights": np.zeros(2)}, "log_weights has shape \\(2,\\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(groups, words, message):
    settings = {"log_z": "leave_one_out", "divergence": JENSEN_SHANNON} | words
    with pytest.raises(ValueError, match=message):
        _ = group_coefficients(np.zeros(3), groups, **settings)


def test_an_array_of_labels_is_refused():
    """Elements of a tensor are equal to none but themselves: every sample would be a group."""
    with pytest.raises(TypeError, match=r"groups is a Tensor: .*tolist"):
        _ = group_coefficients(
            torch.zeros(2),
            torch.zeros(2),  # pyright: ignore[reportArgumentType]
            divergence=JENSEN_SHANNON,
            log_z="same_batch",
        )
