"""The bridge from the core's coefficients to autograd."""

from __future__ import annotations

from torch import Tensor


def surrogate_loss(log_policy: Tensor, coefficients: Tensor) -> Tensor:
    """Return the scalar whose gradient is the estimate (1/n) sum_i c_i grad log pi(x_i).

    Its value means nothing: only its gradient does. The coefficients are detached here, whatever
    the caller did, because they depend on log pi themselves and the theorem has no term for that
    (mathematics: Go et al. 2023, arXiv 2302.08215, Theorem 1).

    Parameters
    ----------
    log_policy
        Shape (n,): differentiable log-probabilities of the samples under the policy, in nats.
    coefficients
        Shape (n,): what `fdpg_ref.score_coefficients` returned.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ValueError
        The shapes differ: broadcasting would silently mix the samples.

    Examples
    --------
    >>> import torch
    >>> from lm.surrogate import surrogate_loss
    >>> log_policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    >>> surrogate_loss(log_policy, torch.tensor([3.0, -4.0])).backward()
    >>> log_policy.grad.tolist()
    [1.5, -2.0]
    """
    if log_policy.shape != coefficients.shape:
        raise ValueError(
            f"log_policy has shape {tuple(log_policy.shape)} but coefficients have shape "
            f"{tuple(coefficients.shape)}; one coefficient per sample is needed"
        )
    return (coefficients.detach() * log_policy).mean()
