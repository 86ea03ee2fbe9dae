"""The estimator: signals and coefficients of the gradient, and values of the divergence.

    grad D_f(pi||p) = E_q[ w (g'(pi/p) - b) grad log pi ],   w = pi/q, b a baseline

`score_signal` returns g'(pi/p); `score_coefficients` returns the whole factor c of grad log pi. The
gradient is the mean of c times the score over samples: multiply by a closed-form score matrix, or
use autograd on ``mean(stop_gradient(c) * log_policy)``. Source: Go et al. (2023), arXiv 2302.08215,
Theorem 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING

from array_api_compat import array_namespace, device, is_numpy_array

from fdpg_ref._internal import checks
from fdpg_ref._internal.groups import choose, rows_of
from fdpg_ref._internal.typing import Array
from fdpg_ref.baselines import leave_one_out
from fdpg_ref.diagnostics import Estimate, mean_and_standard_error
from fdpg_ref.divergences import FORWARD_KL, REVERSE_KL, FDivergence
from fdpg_ref.numerics import expm1, forward_kl_of_masses, log_ratio, phi
from fdpg_ref.partition import importance_log_partition, leave_one_out_log_partition

if TYPE_CHECKING:
    from jaxtyping import Float

# Elements of an intermediate array: in float64 just below the 128 KiB from which malloc maps fresh
# pages, and a handful of them fit a level-2 cache.
_BLOCK = 15_000
# What `group_coefficients` makes from the samples of a group, by name.
_LOG_PARTITIONS: dict[str, Callable[[Array, Array], Array]] = {
    "leave_one_out": leave_one_out_log_partition,
    "same_batch": lambda *masses: importance_log_partition(*masses)[..., None],
}
_BASELINES: dict[str, Callable[[Array], Array]] = {"leave_one_out": leave_one_out}


def score_signal(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return the signal g'(pi/p) at each sample, the slope at infinity where p(x) = 0.

    Parameters
    ----------
    log_policy : (..., n) array, nats
        log pi at the samples.
    log_target : (..., n) array, nats
        log p = log P - log Z at the samples, normalised; -inf where the target excludes a sample.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (..., n) array
        Zero where the policy meets the target, positive where it has too much mass. Infinite where
        p(x) = 0 and the slope at infinity is (reverse KL, Pearson, Jeffreys).

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import PEARSON_CHI2, score_signal
    >>> policy, target = np.log([0.25, 0.75]), np.log([0.5, 0.5])
    >>> score_signal(policy, target, divergence=PEARSON_CHI2).round(4)  # 2 (pi/p - 1)
    array([-1.,  1.])
    """
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    checks.require_same_shape(log_policy=log_policy, log_target=log_target)

    # A NaN of the policy stays NaN, also where the target excludes the sample.
    excluded = (log_target == -inf) & ~xp.isnan(log_policy)
    zero = xp.zeros_like(log_policy)
    u = xp.where(excluded, zero, log_policy) - xp.where(excluded, zero, log_target)
    outside = xp.full_like(log_policy, divergence.slope_at_infinity)
    return xp.where(excluded, outside, divergence.signal(u))


def score_coefficients(
    signal: Float[Array, "*batch n"],
    *,
    baseline: Float[Array, "*batch n"] | float = 0.0,
    log_weights: Float[Array, "*batch n"] | None = None,
) -> Array:
    """Return c_i = w_i (signal_i - baseline_i): grad D_f is the mean of c_i grad log pi(x_i).

    Parameters
    ----------
    signal : (..., n) array
        From `score_signal`.
    baseline : float or array
        A number, one per context (..., 1), or one per sample (..., n). A constant, the
        leave-one-out mean and a running mean of past batches leave the gradient unbiased.
    log_weights : (..., n) array, nats, optional
        log w = log pi - log q, for samples of a proposal q. On-policy it is zero or left out.

    Returns
    -------
    (..., n) array
        The coefficients, exactly zero where the weight is (a sample that the policy cannot draw).

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit; for a wrong or mixed dtype or library.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import leave_one_out, score_coefficients
    >>> signal = np.array([1.0, 2.0, 6.0])
    >>> score_coefficients(signal, baseline=leave_one_out(signal))  # less 4, 3.5 and 1.5
    array([-3. , -1.5,  4.5])
    >>> score_coefficients(signal, log_weights=np.log([1.0, 0.5, 2.0])).round(4)
    array([ 1.,  1., 12.])
    """
    xp = checks.namespace(signal=signal, baseline=baseline)
    checks.require_baseline_shape(baseline, signal)
    centred = signal - baseline
    if log_weights is None:
        return centred

    checks.namespace(signal=signal, log_weights=log_weights)
    checks.require_same_shape(signal=signal, log_weights=log_weights)
    # 0 * inf would be NaN where an impossible sample meets an infinite slope.
    impossible = log_weights == -inf
    zero = xp.zeros_like(centred)
    weights = xp.exp(xp.where(impossible, zero, log_weights))
    return xp.where(impossible, zero, weights * xp.where(impossible, zero, centred))


def group_coefficients(
    log_score_ratio: Float[Array, "*batch n"],
    groups: Sequence[Hashable] | None = None,
    *,
    divergence: FDivergence,
    log_z: Float[Array, "*batch n"] | float | str,
    baseline: Float[Array, "*batch n"] | float | str = "leave_one_out",
    log_weights: Float[Array, "*batch n"] | None = None,
) -> Array:
    """Return the coefficients c_i of samples that are grouped by prompt, for a training engine.

    Engines that train by advantages take -c_i. Only log P - log pi is asked for: with the k1
    penalty in the reward it is the return of a sample over beta, (r - beta log(pi/a)) / beta.

    Parameters
    ----------
    log_score_ratio : (..., n) array, nats
        log P - log pi at the samples, +inf excepted; -inf where the target excludes a sample.
    groups : sequence of n labels, optional
        The prompt of each sample, for arrays of shape (n,); groups may differ in size. Left out,
        the last axis holds the samples of one prompt.
    divergence : FDivergence
        Which f.
    log_z : float or array, nats, or {"leave_one_out", "same_batch"}
        log Z: a number, one per prompt (..., 1) or per sample (..., n), such as a column or the
        past of the prompt; or how to estimate it from the samples of the group.
    baseline : float or array, or "leave_one_out"
        As in `score_coefficients`, or the mean signal of the other samples of the group, which is
        biased with a Z from the group (`python -m toy verify`), but for reverse KL and same_batch.
    log_weights : (..., n) array, nats, optional
        log w = log pi - log q, for samples of a proposal q, such as another engine's sampler.

    Returns
    -------
    (..., n) array
        The coefficients. All zero in a group without any target mass where Z or the baseline
        comes from the group itself: then nothing tells its samples apart. Infinite or NaN where
        the peers of a sample, but not the sample, are without mass, or the divergence is infinite.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, unknown names, or a group of one that has no peers; for a wrong
        or mixed dtype or library.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import FORWARD_KL, group_coefficients
    >>> passed = np.array([1.0, 0.0, 0.0, 0.0])  # a verifier's verdicts, on-policy
    >>> with np.errstate(divide="ignore"):
    ...     log_score_ratio = np.log(passed)
    >>> group_coefficients(  # a base pass rate of 1/2: two prompts of two samples
    ...     log_score_ratio, ["a", "a", "b", "b"], divergence=FORWARD_KL, log_z=np.log(0.5)
    ... )
    array([-2.,  2.,  0.,  0.])
    """
    arrays = {"log_score_ratio": log_score_ratio, "log_z": log_z, "baseline": baseline}
    arrays["log_weights"] = 0.0 if log_weights is None else log_weights
    xp = checks.namespace(**{name: x for name, x in arrays.items() if not isinstance(x, str)})
    checks.require_sample_axis("log_score_ratio", log_score_ratio)
    per_sample = {k: x for k, x in arrays.items() if getattr(x, "shape", ()) != ()}
    if groups is None:
        return _of_one_axis(divergence, **arrays)

    # Groups of one size share a call, as the rows of one array.
    by_size: dict[int, list[list[int]]] = {}
    for rows in rows_of(groups, **per_sample):
        by_size.setdefault(len(rows), []).append(rows)
    order, found = [], []
    for size, members in by_size.items():
        flat = [row for rows in members for row in rows]
        index = xp.asarray(flat, device=device(log_score_ratio))
        taken = {k: xp.reshape(xp.take(x, index), (-1, size)) for k, x in per_sample.items()}
        found.append(xp.reshape(_of_one_axis(divergence, **(arrays | taken)), (-1,)))
        order += flat

    back = xp.asarray(sorted(range(len(order)), key=order.__getitem__), device=device(found[0]))
    return xp.take(xp.concat(found), back)


def exact_divergence(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return D_f(pi||p), the sum of p g(pi/p) over the last axis, which holds every outcome.

    For normalised distributions: the rounding of their logarithms leaves a mass mismatch of
    rounding size, which is taken out of the log-ratio. A larger mismatch is a mistake of the caller
    and is *not* detected here (the core reads no values).

    Parameters
    ----------
    log_policy, log_target : (..., n) arrays, nats
        Log-probabilities of all outcomes; -inf on either side or on both is legal.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (...) array, nats
        The divergence, >= 0, +inf where mass has an infinite price.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import TOTAL_VARIATION, exact_divergence
    >>> policy, target = np.log([0.25, 0.75]), np.log([0.5, 0.5])
    >>> float(exact_divergence(policy, target, divergence=TOTAL_VARIATION).round(4))
    0.25
    """
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    checks.require_same_shape(log_policy=log_policy, log_target=log_target)
    checks.require_sample_axis("log_policy", log_policy)

    # -inf - (-inf) is NaN; with a finite stand-in, zero mass on both sides is a ratio of one.
    lowest = xp.full_like(log_policy[..., :1], -1e15)

    def ratio(log_policy: Array, log_target: Array) -> tuple[Array, Array]:
        u = xp.maximum(log_policy, lowest) - xp.maximum(log_target, lowest)
        return u, xp.abs(u) < 1

    def change(log_policy: Array, log_target: Array) -> Array:
        # pi - p from u keeps the digits that exp(log_policy) - exp(log_target) would cancel.
        u, near = ratio(log_policy, log_target)
        policy, target = xp.exp(log_policy), xp.exp(log_target)
        return xp.where(near, target * expm1(xp.where(near, u, xp.zeros_like(u))), policy - target)

    mass = _sum_blocks(xp.exp, log_target)
    shift = xp.log1p(_sum_blocks(change, log_policy, log_target) / mass)

    def terms(log_policy: Array, log_target: Array) -> Array:
        u, near = ratio(log_policy, log_target)
        # Where u is small its last digits carry the answer: p is taken out of the density, which
        # then sees u - shift itself. Elsewhere p is left in, lest the density overflow.
        shifted = xp.where(near, u, log_policy) - shift
        density = divergence.density(shifted, xp.where(near, xp.zeros_like(u), log_target))
        return density * xp.where(near, xp.exp(log_target), xp.ones_like(u))

    return xp.squeeze(_sum_blocks(terms, log_policy, log_target) / mass, axis=-1)


def exact_divergence_from_probabilities(
    policy: Float[Array, "*batch n"],
    target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return D_f(pi||p) from *linear* probabilities, accurate also where they nearly agree.

    A relative difference of 1e-12 gives a KL divergence of 5e-25. This function returns it with a
    relative error near 1e-16; from logarithms, their rounding alone would cost 1e-5.

    Parameters
    ----------
    policy, target : (..., n) arrays
        Probabilities of all outcomes; zeros are legal.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (...) array, nats
        The divergence, as `exact_divergence`.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(policy=policy, target=target)
    checks.require_same_shape(policy=policy, target=target)
    checks.require_sample_axis("policy", policy)

    # The two KL divergences have a kernel for linear masses.
    # Compared by value: torch.compile does not guard on the identity of an argument.
    if divergence == FORWARD_KL:
        return _exact_kl(policy, target)
    if divergence == REVERSE_KL:
        return _exact_kl(target, policy)

    shift, mass = _mass_mismatch(policy, target)
    scale = xp.exp(-shift)

    def terms(policy: Array, target: Array) -> Array:
        # In units of the larger mass, the logarithms are 0 and -abs(u): no digit of u is lost.
        u = log_ratio(policy, target) - shift
        u = xp.where(policy == target, -shift, u)
        zero = xp.zeros_like(u)
        density = divergence.density(xp.minimum(u, zero), xp.minimum(-u, zero))
        # An infinite price times a mass would send NaN back through the mass.
        infinite = density == inf
        value = xp.where(infinite, zero, density) * xp.maximum(policy * scale, target)
        return xp.where(infinite, density, value)

    return xp.squeeze(_sum_blocks(terms, policy, target) / mass, axis=-1)


def divergence_terms(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return p g(pi/p) / q at each sample of q: nonnegative, each with expectation D_f(pi||p).

    q must cover pi and p; mass outside its support is missed.

    Parameters
    ----------
    log_policy, log_target, log_proposal : (..., n) arrays, nats
        log pi, log p (normalised) and log q at samples of q.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (..., n) array, nats
        The terms, whose mean estimates the divergence without bias.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    checks.namespace(log_policy=log_policy, log_target=log_target, log_proposal=log_proposal)
    checks.require_same_shape(
        log_policy=log_policy, log_target=log_target, log_proposal=log_proposal
    )
    # Dividing both by q before taking p g(pi/p), which is homogeneous, keeps tiny masses from
    # underflowing: a sequence of 800 nats is ordinary.
    return divergence.density(log_policy - log_proposal, log_target - log_proposal)


def estimate_divergence(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Estimate:
    """Return the importance-sampling estimate of D_f(pi||p) and its standard error.

    Parameters
    ----------
    log_policy, log_target, log_proposal : (..., n) arrays, nats
        log pi, log p (normalised) and log q at n >= 2 independent samples of q.
    divergence : FDivergence
        Which f.

    Returns
    -------
    Estimate
        The mean of `divergence_terms`, unbiased and never negative, with its standard error.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes, a single sample; for a wrong or mixed dtype or library.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import PEARSON_CHI2, estimate_divergence
    >>> policy, target = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    >>> drawn = [0, 1]  # samples of the policy itself
    >>> estimate = estimate_divergence(
    ...     policy[drawn], target[drawn], policy[drawn], divergence=PEARSON_CHI2
    ... )
    >>> float(estimate.mean.round(4))  # of 1/2 and 1/6
    0.3333
    >>> float(estimate.standard_error.round(4))
    0.1667
    """
    return mean_and_standard_error(
        divergence_terms(log_policy, log_target, log_proposal, divergence=divergence)
    )


def _of_one_axis(
    divergence: FDivergence,
    log_score_ratio: Array,
    log_z: Array | float | str,
    baseline: Array | float | str,
    log_weights: Array | float,
) -> Array:
    """Return the coefficients of samples whose last axis is one group."""
    xp = array_namespace(log_score_ratio)
    on_policy = xp.zeros_like(log_score_ratio)
    weights = on_policy if isinstance(log_weights, (int, float)) else log_weights
    checks.require_same_shape(log_score_ratio=log_score_ratio, log_weights=weights)

    # Where the group itself is asked and all of it is without mass, any finite ratio will do.
    massless = xp.all(log_score_ratio == -inf, axis=-1, keepdims=True)
    mute = massless & (isinstance(log_z, str) or isinstance(baseline, str))
    log_score_ratio = xp.where(mute, on_policy, log_score_ratio)

    # P/q is P/pi times pi/q.
    if isinstance(log_z, str):
        estimate = choose("log_z", log_z, _LOG_PARTITIONS)
        log_z = estimate(log_score_ratio + weights, on_policy)
    checks.require_baseline_shape(log_z, log_score_ratio, name="log_z")
    signal = score_signal(on_policy, log_score_ratio - log_z, divergence=divergence)

    if isinstance(baseline, str):
        baseline = choose("baseline", baseline, _BASELINES)(signal)
    coefficients = score_coefficients(signal, baseline=baseline, log_weights=weights)
    return xp.where(mute, on_policy, coefficients)


def _exact_kl(policy: Array, target: Array) -> Array:
    """Return KL(p||pi) of the normalised masses.

    With c the log of the ratio of the two total masses, sum p phi(u - c) is exactly
    sum p phi(u) - phi(c) sum p, so the mismatch costs no second pass over the outcomes.
    """
    xp = array_namespace(policy, target)
    shift, mass = _mass_mismatch(policy, target)
    total = _sum_blocks(forward_kl_of_masses, policy, target)
    value = xp.squeeze(total / mass - phi(shift), axis=-1)
    unbounded = xp.any((policy == 0) & (target > 0), axis=-1)
    return xp.where(unbounded, xp.full_like(value, inf), xp.maximum(value, xp.zeros_like(value)))


def _mass_mismatch(policy: Array, target: Array) -> tuple[Array, Array]:
    """Return the log of the ratio of the two total masses, and that of the target."""
    xp = array_namespace(policy, target)
    mass = xp.sum(target, axis=-1, keepdims=True)
    # The difference of the sums would be rounded to 1e-16, the sum of exact differences is not.
    change = _sum_blocks(lambda q, p: q - p, policy, target)
    return xp.log1p(change / mass), mass


def _sum_blocks(function: Callable[..., Array], *arrays: Array) -> Array:
    """Return the sum of function(*arrays) over the last axis, which is kept with length one.

    numpy writes every intermediate array to memory, and is several times as fast on blocks that
    stay in the cache. A library that fuses operations, or launches them, is faster on the whole.
    """
    xp = array_namespace(*arrays)
    if not is_numpy_array(arrays[0]):
        return xp.sum(function(*arrays), axis=-1, keepdims=True)
    blocks = range(0, arrays[0].shape[-1], _BLOCK)
    terms = (function(*(x[..., i : i + _BLOCK] for x in arrays)) for i in blocks)
    sums = [xp.sum(block, axis=-1, keepdims=True) for block in terms]
    return xp.sum(xp.concat(sums, axis=-1), axis=-1, keepdims=True)
