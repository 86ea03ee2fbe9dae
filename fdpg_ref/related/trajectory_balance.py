"""Losses on the log-ratio that can be differentiated on any samples, one for each f-divergence.

Let h_f(u) = int_0^u g'(e^s) ds, so that h_f >= 0 is convex in u and zero only where u = 0 (for a
strictly convex f). At a *fixed* sampling distribution q,

    grad E_q[h_f(log pi - log p)] = E_q[g'(pi/p) grad log pi].

With q = pi that is grad D_f(pi||p). So a convex penalty of u, differentiated in the loss, descends
the f-divergence with f'(e^u) = h'(u), and each penalty has exactly one such f. With any other q
that covers p, the loss keeps its minimiser pi = p, where u = 0 everywhere, but its gradient is not
that of D_f. An unknown Z shifts u by a constant. Minimise over log Z as well; or, for reverse KL,
where h = u^2/2, replace the mean square by the variance, which a shift does not change. Source:
Fawkes and Hartford (2026), arXiv 2605.15417; VarGrad: Richter et al. (2020), arXiv 2010.10436.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from fdpg_ref._internal import checks
from fdpg_ref._internal.quadrature import integral
from fdpg_ref._internal.typing import Array

if TYPE_CHECKING:
    from jaxtyping import Float

    from fdpg_ref.divergences import FDivergence


def log_ratio_penalty(log_ratio: Float[Array, "..."], *, divergence: FDivergence) -> Array:
    """Return h_f(u) = int_0^u g'(e^s) ds, whose derivative is the signal.

    Forward KL: u - 1 + e^-u; reverse KL: u^2/2; total variation: abs(u)/2; Pearson: 2 (e^u - 1 -
    u).

    Parameters
    ----------
    log_ratio : array, nats
        u = log pi - log p, finite; log P - log Z with a trainable log Z is allowed.
    divergence : FDivergence
        Which f.

    Returns
    -------
    array, nats
        The penalty, >= 0, by Gauss-Legendre quadrature (320 evaluations of the signal); its
        autograd derivative is the signal to the same accuracy, about 1e-12 for abs(u) <= 300.
    """
    checks.namespace(log_ratio=log_ratio)
    return integral(divergence.signal, log_ratio, log_ratio * 0)


def vargrad_loss(log_ratio: Float[Array, "*batch n"]) -> Array:
    """Return half the sample variance of u, the trajectory-balance loss of reverse KL without Z.

    At fixed samples of pi its expected gradient is exactly grad KL(pi||p), for every n >= 2: sample
    by sample, it is the signal u with the leave-one-out baseline.

    Parameters
    ----------
    log_ratio : (..., n) array, nats
        u = log pi - log P at n >= 2 samples; a constant such as log Z drops out.

    Returns
    -------
    (...) array, nats^2
        sum (u - mean u)^2 / (2 (n - 1)).

    Raises
    ------
    ValueError, TypeError
        For a single sample; for a wrong dtype.
    """
    checks.namespace(log_ratio=log_ratio)
    n = checks.require_sample_axis("log_ratio", log_ratio, at_least=2)
    xp = array_namespace(log_ratio)
    centred = log_ratio - xp.mean(log_ratio, axis=-1, keepdims=True)
    return xp.sum(centred**2, axis=-1) / (2 * (n - 1))
