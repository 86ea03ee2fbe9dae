"""Targets as unnormalised log-scores log P(x); -inf excludes x.

    reward-tilted        log a + r / beta              RLHF, control as inference
    constrained          log a + log b,  b in {0, 1}   GDC, pointwise
    exponential family   log a + lambda . phi          GDC, distributional: E_p[phi] = mu

`fit_multipliers` finds the multipliers lambda of the last one.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fdpg_ref._internal import checks
from fdpg_ref._internal.newton import DualPoint, Separated, minimise_dual
from fdpg_ref._internal.typing import Array
from fdpg_ref.numerics import log_softmax, logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class MultiplierFit(NamedTuple):
    """Multipliers of an exponential family and the certificate that they are right.

    Attributes
    ----------
    multipliers : (k,) array, nats per unit of feature
        lambda.
    log_z : () array, nats
        Log partition function of ``log_base + features . multipliers``.
    moments : (k,) array
        E_p[phi] as reached.
    gradient_norm : float
        Largest abs(E_p[phi] - mu), each in spreads of the (decorrelated) features over the support.
    iterations : int
        Newton steps.
    dual_values : tuple of float, nats
        log E_a exp(lambda . (phi - mu)) along the way: it falls from 0 to -KL(p||a).
    margin : float
        A lower bound, in spreads, of the distance between the moments and the edge of those that
        the features can reach. Positive: the moments are attainable.
    moment_errors : tuple of float
        The largest abs(E_p[phi] - mu) along the way, in spreads: it ends at ``gradient_norm``.
    """

    multipliers: Array
    log_z: Array
    moments: Array
    gradient_norm: float
    iterations: int
    dual_values: tuple[float, ...]
    margin: float
    moment_errors: tuple[float, ...]


def reward_tilted(
    log_base: Float[Array, "*batch n"], reward: Float[Array, "*batch n"], *, beta: float
) -> Array:
    """Return log P = log a + r / beta, the target of RL with a KL penalty.

    E_pi[r] - beta KL(pi||a) = beta log Z - beta KL(pi||p) for every policy, so maximising the left
    side means descending reverse KL to p. Source: Korbak et al. (2022), arXiv 2206.00761.

    Parameters
    ----------
    log_base : (..., n) array, nats
        Log-probabilities of the base model a.
    reward : (..., n) array
        Rewards; -inf excludes a sample.
    beta : float
        Strength of the penalty, > 0, in units of reward per nat.

    Returns
    -------
    (..., n) array, nats
        Unnormalised log-scores.

    Raises
    ------
    ValueError
        If beta is not positive, or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import reward_tilted
    >>> reward_tilted(np.array([-1.0, -2.0]), np.array([0.0, 1.0]), beta=0.5)
    array([-1.,  0.])
    """
    checks.namespace(log_base=log_base, reward=reward)
    checks.require_same_shape(log_base=log_base, reward=reward)
    if not beta > 0:
        raise ValueError(
            f"beta is {beta}: it must be positive (a reward r tilts the base by r/beta)"
        )
    return log_base + reward / checks.plain_number(beta)


def constrained(log_base: Float[Array, "*batch n"], satisfied: Bool[Array, "*batch n"]) -> Array:
    """Return log P = log a where the constraint is satisfied, -inf elsewhere.

    Its partition function is a(satisfied); it is the limit beta -> 0 of a tilt by the reward b.
    Source: Khalifa et al. (2021), arXiv 2012.11635.

    Parameters
    ----------
    log_base : (..., n) array, nats
        Log-probabilities of the base model a.
    satisfied : (..., n) boolean array
        b(x): whether x meets the constraint.

    Returns
    -------
    (..., n) array, nats
        Unnormalised log-scores with holes.

    Raises
    ------
    ValueError, TypeError
        If the shapes differ; if ``satisfied`` is not boolean.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import constrained
    >>> log_score = constrained(np.log([0.5, 0.3, 0.2]), np.array([True, False, True]))
    >>> np.exp(log_score).round(4)  # Z is their sum, 0.7
    array([0.5, 0. , 0.2])
    """
    xp = checks.namespace(log_base=log_base)
    if not hasattr(satisfied, "dtype") or satisfied.dtype != xp.bool:
        found = getattr(satisfied, "dtype", type(satisfied).__name__)
        raise TypeError(f"satisfied has dtype {found}: it must be a boolean array of that library")
    checks.require_same_shape(log_base=log_base, satisfied=satisfied)
    return xp.where(satisfied, log_base, xp.full_like(log_base, -inf))


def exponential_family(
    log_base: Float[Array, "*batch n"],
    features: Float[Array, "*batch n k"],
    multipliers: Float[Array, " k"],
) -> Array:
    """Return log P = log a + lambda . phi, the closest distribution to a under moment constraints.

    With the multipliers of `fit_multipliers`, p = P/Z is the distribution with E_p[phi] = mu that
    has the least KL(p||a). Source: Csiszar (1975); Khalifa et al. (2021), arXiv 2012.11635.

    Parameters
    ----------
    log_base : (..., n) array, nats
        Log-probabilities of the base model a.
    features : (..., n, k) array
        phi(x).
    multipliers : (k,) array, nats per unit of feature
        lambda.

    Returns
    -------
    (..., n) array, nats
        Unnormalised log-scores.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import exponential_family
    >>> features = np.array([[1.0, 0.0], [1.0, 1.0]])
    >>> exponential_family(np.array([-1.0, -2.0]), features, np.array([0.5, 3.0]))
    array([-0.5,  1.5])
    """
    xp = checks.namespace(log_base=log_base, features=features, multipliers=multipliers)
    checks.require_feature_shapes(log_base, features, multipliers)
    return log_base + xp.sum(features * multipliers, axis=-1)


def fit_multipliers(
    log_base: Float[Array, " n"],
    features: Float[Array, "n k"],
    moments: Float[Array, " k"],
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
) -> MultiplierFit:
    """Return the multipliers lambda for which E_p[phi] = mu under p ~ a exp(lambda . phi).

    Damped Newton on the convex dual log E_a exp(lambda . phi) - lambda . mu, whose gradient is
    E_p[phi] - mu and whose Hessian is Cov_p[phi]; in float64, whatever the inputs. This function
    reads values (it iterates until converged).

    Parameters
    ----------
    log_base : (n,) array, nats
        Log-probabilities a(x) of all outcomes; or zeros, if the n outcomes are a sample from a.
    features : (n, k) array
        phi(x). Columns may depend linearly on each other if their moments agree.
    moments : (k,) array
        mu, the wanted values of E_p[phi].
    tolerance : float
        Largest error of a moment, in spreads of the features over the support.
    max_iterations : int
        Newton steps at most.

    Returns
    -------
    MultiplierFit
        lambda, log Z and the certificate. Arrays have the dtype of the inputs.

    Raises
    ------
    UnattainableMoments
        If no finite multipliers exist: a moment outside or on the edge of the range of its feature
        on the support, or moments that contradict each other.
    MultipliersNotConverged
        If ``max_iterations`` did not suffice.
    ValueError, TypeError
        For NaN or infinite features or moments, a base without support, wrong shapes or dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import fit_multipliers
    >>> fit = fit_multipliers(np.log([0.75, 0.25]), np.array([[0.0], [1.0]]), np.array([0.5]))
    >>> np.exp(fit.multipliers).round(4)  # three times as likely
    array([3.])
    >>> float(np.exp(fit.log_z).round(4))  # 0.75 + 3 * 0.25
    1.5
    """
    xp = checks.namespace(log_base=log_base, features=features, moments=moments)
    checks.require_feature_shapes(log_base, features, moments)
    _require_finite_problem(xp, log_base, features, moments)

    # Centre the features on the moments, in float64.
    wide = [xp.astype(x, xp.float64) for x in (log_base, features, moments)]
    log_a = log_softmax(wide[0])
    support = (log_a > -inf)[:, None]
    centred = xp.where(support, wide[1] - wide[2], xp.zeros_like(wide[1]))
    _require_inside_ranges(xp, wide[1], wide[2], support)

    # Minimise the dual in directions of unit spread; a direction without end proves that no
    # multipliers exist.
    basis = _independent_directions(xp, centred, support)
    z = centred @ basis
    try:
        point, values, errors = minimise_dual(
            log_a, z, tolerance=tolerance, max_iterations=max_iterations
        )
    except Separated as proof:
        _raise_unattainable(basis @ proof.direction)

    # A minimum on the edge of the attainable moments is where rounding stopped, not an answer.
    margin = _margin(xp, point, z)
    if margin <= tolerance:
        _raise_unattainable(basis @ point.nu)

    # Return to the units of the features, and measure the moments that are reached.
    multipliers = xp.astype(basis @ point.nu, log_base.dtype)
    log_score = exponential_family(log_base, features, multipliers)
    reached = xp.sum(xp.exp(log_softmax(log_score))[:, None] * features, axis=0)
    steps, log_z = len(values) - 1, logsumexp(log_score)
    return MultiplierFit(
        multipliers, log_z, reached, errors[-1], steps, values, margin, moment_errors=errors
    )


def _require_finite_problem(xp: Any, log_base: Array, features: Array, moments: Array) -> None:
    for name, x in (("features", features), ("moments", moments)):
        if not bool(xp.all(xp.isfinite(x))):
            raise ValueError(
                f"{name} hold NaN or infinite values: fit_multipliers needs finite ones"
            )
    if bool(xp.any(xp.isnan(log_base) | (log_base == inf))):
        raise ValueError(
            "log_base holds NaN or +inf: log-probabilities are at most 0, -inf included"
        )
    if not bool(xp.any(log_base > -inf)):
        raise ValueError("log_base is -inf everywhere: a base without support cannot be tilted")


def _require_inside_ranges(xp: Any, features: Array, moments: Array, support: Array) -> None:
    lowest = xp.min(xp.where(support, features, xp.full_like(features, inf)), axis=0)
    highest = xp.max(xp.where(support, features, xp.full_like(features, -inf)), axis=0)
    for k in range(moments.shape[0]):
        low, high, moment = float(lowest[k]), float(highest[k]), float(moments[k])
        if low < moment < high or low == moment == high:
            continue
        raise checks.UnattainableMoments(
            f"moment {k} is {moment:g}, but feature {k} ranges over [{low:g}, {high:g}] on the "
            "support of the base: finite multipliers reach only moments strictly inside; for a "
            "constraint that must always hold use constrained()"
        )


def _independent_directions(xp: Any, centred: Array, support: Array) -> Array:
    """Return a (k, r) basis in which the features have unit spread and no dependence.

    A direction in which all outcomes of the support agree leaves nothing to tilt: it is dropped if
    the moments agree too, and proves them contradictory otherwise.
    """
    count = xp.sum(xp.astype(support, centred.dtype))
    mean = xp.sum(centred, axis=0) / count
    deviation = xp.where(support, centred - mean, xp.zeros_like(centred))
    scale = xp.max(xp.abs(deviation), axis=0)
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    unit = deviation / scale

    # Principal directions, each scaled to unit spread.
    eigenvalues, vectors = xp.linalg.eigh(unit.T @ unit / count)
    kept = []
    for j in range(eigenvalues.shape[0]):
        direction = vectors[:, j] / scale
        spread = float(eigenvalues[j]) ** 0.5 if float(eigenvalues[j]) > 0 else 0.0
        # Rounding leaves spreads of about 1e-8 where there is none: eigenvalues are squares.
        if spread > 1e-7:
            kept.append(direction / spread)
        elif abs(float(mean @ direction)) > 1e-7:
            _raise_unattainable(direction)
    return xp.stack(kept, axis=1) if kept else vectors[:, :0]


def _margin(xp: Any, point: DualPoint, z: Array) -> float:
    """Return a lower bound of the distance from the moments to the edge of the attainable ones.

    Let d be the distance to the edge along a unit direction v, so that Y = d - v . z >= 0 on the
    support. Where the moments are met, E_p[Y] = d, and Var_p[v . z] <= d R with R the largest Y:
    hence d >= Var / R, and R is at most twice the largest norm of z.
    """
    if z.shape[1] == 0:
        return inf
    least_variance = float(xp.min(xp.linalg.eigh(point.hessian)[0]))
    return least_variance / (2 * float(xp.max(xp.linalg.vector_norm(z, axis=-1))))


def _raise_unattainable(direction: Array) -> NoReturn:
    weights = [float(direction[k]) for k in range(direction.shape[0])]
    largest = max(abs(w) for w in weights)
    combination = " ".join(
        f"{w / largest:+.3g}*feature[{k}]" for k, w in enumerate(weights) if abs(w) > 1e-6 * largest
    )
    raise checks.UnattainableMoments(
        f"no finite multipliers reach these moments together: they ask for a mean of {combination} "
        "that no outcome of the base's support exceeds; ask for less extreme moments, or use "
        "constrained() for a condition that must always hold"
    )
