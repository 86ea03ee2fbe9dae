"""Shape, dtype and library errors: each names both offending values, before any arithmetic."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from support.libraries import Library

import fdpg_ref
from fdpg_ref import JENSEN_SHANNON

JS = {"divergence": JENSEN_SHANNON}
# Every public function of two arrays of one shape, by the names of its first two arguments.
PAIRS = {
    "score_signal": (("log_policy", "log_target"), lambda a, b: fdpg_ref.score_signal(a, b, **JS)),
    "score_coefficients": (
        ("signal", "log_weights"),
        lambda a, b: fdpg_ref.score_coefficients(a, log_weights=b),
    ),
    "exact_divergence": (
        ("log_policy", "log_target"),
        lambda a, b: fdpg_ref.exact_divergence(a, b, **JS),
    ),
    "exact_divergence_from_probabilities": (
        ("policy", "target"),
        lambda a, b: fdpg_ref.exact_divergence_from_probabilities(a, b, **JS),
    ),
    "divergence_terms": (
        ("log_policy", "log_target"),
        lambda a, b: fdpg_ref.divergence_terms(a, b, a, **JS),
    ),
    "estimate_divergence": (
        ("log_policy", "log_proposal"),
        lambda a, b: fdpg_ref.estimate_divergence(a, a, b, **JS),
    ),
    "log_ratio": (("policy", "target"), fdpg_ref.log_ratio),
    "reward_tilted": (
        ("log_base", "reward"),
        lambda a, b: fdpg_ref.reward_tilted(a, b, beta=1.0),
    ),
    "importance_log_partition": (
        ("log_score", "log_proposal"),
        fdpg_ref.importance_log_partition,
    ),
    "leave_one_out_log_partition": (
        ("log_score", "log_proposal"),
        fdpg_ref.leave_one_out_log_partition,
    ),
    "init_partition": (("log_score", "log_proposal"), fdpg_ref.init_partition),
}
SINGLES = [
    fdpg_ref.exact_log_partition,
    fdpg_ref.leave_one_out,
    fdpg_ref.batch_mean,
    fdpg_ref.init_running_baseline,
    fdpg_ref.effective_sample_size,
    fdpg_ref.largest_share,
    fdpg_ref.relative_standard_error,
    fdpg_ref.mean_and_standard_error,
]
SINGLES_IDS = [function.__name__ for function in SINGLES]


@pytest.fixture(params=list(PAIRS))
def pair_function(request: pytest.FixtureRequest):
    return PAIRS[request.param]


def both(*values: object) -> str:
    """Return a pattern that finds the values in this order."""
    return ".*".join(str(v).replace("(", r"\(").replace(")", r"\)") for v in values)


def test_unequal_shapes_name_both(pair_function, xp: Library):
    (first, second), call = pair_function
    a, b = xp.array([0.5, 0.5]), xp.array([[0.5, 0.25, 0.25]])
    with pytest.raises(ValueError, match=both(first, "(2,)", second, "(1, 3)")):
        call(a, b)


def test_broadcasting_is_refused(pair_function):
    _, call = pair_function
    with pytest.raises(ValueError, match="shape"):
        call(np.full((3, 2), 0.5), np.full((1, 2), 0.5))


def test_mixed_dtypes_name_both(pair_function):
    (first, second), call = pair_function
    with pytest.raises(TypeError, match=both(first, "float64", second, "float32")):
        call(np.array([0.5, 0.5]), np.array([0.5, 0.5], dtype=np.float32))


def test_mixed_libraries_name_both(pair_function):
    (first, second), call = pair_function
    with pytest.raises(TypeError, match=both(first, "numpy", second, "torch")):
        call(np.array([0.5, 0.5]), torch.tensor([0.5, 0.5], dtype=torch.float64))
    with pytest.raises(TypeError, match=both(first, "array_api_strict", second, "numpy")):
        call(array_api_strict.asarray([0.5, 0.5]), np.array([0.5, 0.5]))


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(np.ones(2, dtype=np.float16), id="numpy-float16"),
        pytest.param(torch.ones(2, dtype=torch.float16), id="torch-float16"),
        pytest.param(torch.ones(2, dtype=torch.bfloat16), id="torch-bfloat16"),
    ],
)
def test_half_precision_is_refused_with_the_reason(pair_function, half):
    (first, _), call = pair_function
    with pytest.raises(TypeError, match=rf"{first} has dtype .*float16.*before the log-softmax"):
        call(half, half)


@pytest.mark.parametrize("bad", [np.arange(2), torch.arange(2)], ids=["numpy", "torch"])
def test_integers_are_refused(pair_function, bad):
    (first, _), call = pair_function
    with pytest.raises(TypeError, match=rf"{first} has dtype .*int64.*float32 or float64"):
        call(bad, bad)


@pytest.mark.parametrize("function", SINGLES, ids=SINGLES_IDS)
def test_one_array_functions_check_it_too(function):
    with pytest.raises(TypeError, match="float16"):
        function(np.ones(3, dtype=np.float16))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        function(np.array(1.0))
    with pytest.raises(TypeError, match="list"):
        function([0.5, 0.5])


@pytest.mark.parametrize("function", SINGLES, ids=SINGLES_IDS)
def test_no_samples_are_refused(function):
    with pytest.raises(ValueError, match=r"\(2, 0\).*0 sample"):
        function(np.ones((2, 0)))


@pytest.mark.parametrize(
    "function",
    [fdpg_ref.leave_one_out, fdpg_ref.mean_and_standard_error, fdpg_ref.relative_standard_error],
)
def test_a_single_sample_has_no_peers(function):
    with pytest.raises(ValueError, match=r"\(2, 1\).*at least 2"):
        function(np.ones((2, 1)))


@pytest.mark.parametrize("shape", [(3,), (4,), (2, 4), (4, 2), (1, 3), (3, 1, 1)])
def test_baselines_must_be_scalars_per_context_or_per_sample(shape, xp: Library):
    signal = xp.array(np.ones((2, 3)))
    with pytest.raises(ValueError, match=both("baseline", shape, "(2, 3)")):
        fdpg_ref.score_coefficients(signal, baseline=xp.array(np.ones(shape)))


@pytest.mark.parametrize("shape", [(), (2, 1), (2, 3)])
def test_legal_baselines(shape, xp: Library):
    signal = xp.array(np.ones((2, 3)))
    result = fdpg_ref.score_coefficients(signal, baseline=xp.array(np.full(shape, 0.25)))
    assert result.shape == (2, 3)
    assert float(result[1, 2]) == 0.75


@pytest.mark.parametrize(
    ("base", "features", "last", "match"),
    [
        ((4,), (5, 2), (2,), both("(5, 2)", "(4,)")),
        ((5,), (5, 2), (3,), both("(5, 2)", "(3,)")),
        ((5,), (5,), (1,), both("(5,)", "(5,)")),
    ],
)
def test_feature_shapes(base, features, last, match):
    arrays = np.full(base, -1.0), np.ones(features), np.ones(last)
    for function in (fdpg_ref.exponential_family, fdpg_ref.fit_multipliers):
        with pytest.raises(ValueError, match=match):
            _ = function(*arrays)


def test_running_states_check_the_new_batch():
    state = fdpg_ref.init_partition(np.zeros(3), np.zeros(3))
    with pytest.raises(TypeError, match="float32"):
        _ = fdpg_ref.update_partition(state, np.zeros(3, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=both("(3,)", "(2,)")):
        _ = fdpg_ref.update_partition(state, np.zeros(3), np.zeros(2))
    baseline = fdpg_ref.init_running_baseline(np.zeros(3))
    with pytest.raises(TypeError, match="float32"):
        _ = fdpg_ref.update_running_baseline(baseline, np.zeros(3, np.float32))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_dtype_that_goes_in_comes_out(precision, pair_function):
    _, call = pair_function
    for a in (
        np.array([0.25, 0.75], precision),
        torch.tensor([0.25, 0.75], dtype=getattr(torch, precision)),
    ):
        result = call(a, a)
        for part in result if isinstance(result, tuple) else (result,):
            if not isinstance(part, float):  # the weight of a running state
                assert str(part.dtype).removeprefix("torch.") == precision


def test_python_numbers_alone_are_no_arrays():
    with pytest.raises(TypeError, match=r"none of log_policy, log_target.* is an array: numpy"):
        _ = fdpg_ref.score_signal(-1.0, -2.0, divergence=fdpg_ref.FORWARD_KL)
    with pytest.raises(TypeError, match="none of signal"):
        _ = fdpg_ref.score_coefficients(1.0)


def test_a_parameter_of_numpy_widens_no_array():
    half, a = np.float64(0.5), np.log(np.array([0.25, 0.75], np.float32))
    found = [fdpg_ref.reward_tilted(a, a, beta=half)]
    for divergence in (
        fdpg_ref.alpha_divergence(np.float64(0.3)),
        fdpg_ref.skew_jensen_shannon(half, unit_curvature=True),
        fdpg_ref.find_divergence("alpha_0.5"),
    ):
        found += [
            fdpg_ref.score_signal(a, a, divergence=divergence),
            fdpg_ref.exact_divergence(a, a, divergence=divergence),
        ]
    state = fdpg_ref.init_running_baseline(a)
    found.append(fdpg_ref.update_running_baseline(state, a, forgetting=half).mean)
    partition = fdpg_ref.init_partition(a, a)
    found.append(fdpg_ref.update_partition(partition, a, a, forgetting=half).log_z)
    assert [part.dtype for part in found] == [np.float32] * len(found)


def test_named_errors_are_value_errors():
    assert issubclass(fdpg_ref.InfiniteDivergence, ValueError)
    assert issubclass(fdpg_ref.UnattainableMoments, ValueError)
