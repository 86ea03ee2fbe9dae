"""Checks that read values: what the core leaves to its users.

Every error names the offending value or text and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lm.errors import RunError
from lm.policy.protocol import Policy
from lm.policy.samples import Samples

# Nats, for a sequence of one token whose logits are of the usual size. A log-probability is a logit
# less another number of its size, so that rounding moves it by some roundoffs of that size. One of
# 10 is 6e-7 in float32 (2^-24 x 10), of which the layers make 1e-6: 50 times that is allowed. It is
# 0.02 in bfloat16 (2^-9 x 10) and 0.005 in float16 (2^-11 x 10), and layer after layer rounds to 16
# bits: some 20 times that is allowed.
# float64 is wider than its own rounding, for Llama's norms compute in float32 whatever the weights.
# `Policy.rounding` multiplies this for a model of larger logits or more layers. What 16 bits are
# allowed holds a rounding of 8 already: SmolLM2, of 8.2, shows 0.10 of the 0.4 (and 1.9e-4 of
# 4.1e-4 in float32). With 8 times 0.4 a temperature of 0.7 instead of 1 would pass for rounding.
USUAL_SIZE, USUAL_LAYERS = 10.0, 6
HELD_ALREADY = {"bfloat16": 8.0, "float16": 8.0}
SAME_LAW_TOLERANCE = {"float64": 5e-6, "float32": 5e-5, "bfloat16": 0.4, "float16": 0.08}
# The largest log-probability that rounding can produce.
ABOVE_ZERO = 1e-4
LIKELY_CAUSE = "A learning rate that is too high is the usual cause"
EDGE_OF_THE_CUT = (
    "If it is -inf, sampling.top_k, top_p or min_p kept a token when sampling and cut it when "
    "scoring, as two tokens were equally probable to rounding. It is rare; precision float64 "
    "makes it rarer, sampling.temperature alone or off_policy true excludes it"
)


def check_log_prob(
    name: str,
    log_prob: Tensor,
    texts: Sequence[str],
    *,
    holes: bool = False,
    cause: str = LIKELY_CAUSE,
) -> None:
    """Raise a RunError that names the sample if a log-probability is NaN, infinite or positive.

    Parameters
    ----------
    name
        Whose log-probability it is, for the message.
    log_prob
        Shape (n,), nats.
    texts
        The n samples.
    holes
        Whether the model's transform cuts texts off, so that -inf is legal.
    cause
        The last sentence of the message.
    """
    log_prob = log_prob.detach()
    bad = ~torch.isfinite(log_prob) | (log_prob > ABOVE_ZERO)
    if holes:
        bad &= log_prob != -torch.inf
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise RunError(
            f"the log-probability of {texts[row]!r} under the {name} is {float(log_prob[row])} "
            f"nats (sample {row} of {len(texts)}): it must be finite and at most 0. {cause}"
        )


def check_score(
    log_base: Tensor, log_score: Tensor, texts: Sequence[str], *, holes: bool = False
) -> None:
    """Raise a RunError that names the sample if log P is NaN or +inf; -inf excludes and is legal.

    Parameters
    ----------
    log_base, log_score
        Shape (n,), nats.
    texts
        The n samples.
    holes
        Whether the base's transform cuts texts off.
    """
    check_log_prob("base", log_base, texts, holes=holes)
    bad = torch.isnan(log_score) | (log_score == torch.inf)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise RunError(
            f"the target's score of {texts[row]!r} is {float(log_score[row])} nats (sample {row} "
            f"of {len(texts)}): a feature, reward or multiplier is not finite there"
        )


def check_coefficients(coefficients: Tensor, texts: Sequence[str], *, first: int = 0) -> None:
    """Raise a RunError that names the sample whose coefficient is NaN or infinite.

    Parameters
    ----------
    coefficients
        Shape (n,): of all processes' samples, so that all of them raise.
    texts
        The samples of this process.
    first
        Where they begin among the n.
    """
    bad = (~torch.isfinite(coefficients)).nonzero().flatten()
    if len(bad) > 0:
        row = int(bad[0])
        own = 0 <= row - first < len(texts)
        text = f", the text {texts[row - first]!r}," if own else ""
        raise RunError(
            f"the coefficient of sample {row} of {len(coefficients)}{text} is "
            f"{float(coefficients[row])}: signal times importance weight left the numbers of "
            f"{coefficients.dtype}. Lower optimizer.lr or updates_per_batch, or choose a "
            "divergence with a bounded signal (jensen_shannon, total_variation)"
        )


def check_same_law(
    sampled: Tensor,
    scored: Tensor,
    texts: Sequence[str],
    precision: str,
    *,
    lengths: Tensor | None = None,
    rounding: float = 1.0,
) -> None:
    """Raise a RunError unless the sampler's log-probabilities are the scorer's.

    Parameters
    ----------
    sampled, scored
        Shape (n,), nats.
    texts
        The n samples.
    precision
        Decides how far rounding may take the two apart.
    lengths
        Shape (n,): tokens of each sample, whose rounding errors add up like a random walk's steps;
        None stands for ten.
    rounding
        Of the model: `Policy.rounding`.
    """
    pair = {"the policy's sampler": sampled, "its scorer": scored}
    _check_close(pair, texts, precision, lengths, rounding)


@torch.no_grad()
def check_longest(policy: Policy, samples: Samples, texts: Sequence[str]) -> None:
    """Raise a RunError unless the longest of a policy's samples is scored as it was drawn.

    It was drawn beside others and is scored alone: the longest row is where a law that depends on
    length, padding or neighbours shows first.

    Parameters
    ----------
    policy
        The policy that drew them.
    samples
        At least one.
    texts
        Of the samples, for the message.
    """
    lengths = samples.mask.sum(-1)
    whole = lengths if samples.prompts is None else lengths + samples.prompts.lengths
    row = int(whole.argmax())
    one = samples.rows(slice(row, row + 1))
    scored = policy.score(one)
    # Two tokens may be equally probable to rounding at the edge of the cut: no fault of the law.
    if not (policy.transform.truncates and bool(scored.isneginf().any())):
        precision, length = computing_precision(policy.model), lengths[row : row + 1]
        check_same_law(
            one.log_prob,
            scored,
            texts[row : row + 1],
            precision,
            lengths=length,
            rounding=policy.rounding(),
        )


def check_start(
    log_policy: Tensor,
    log_base: Tensor,
    texts: Sequence[str],
    precision: str,
    *,
    lengths: Tensor | None = None,
    rounding: float = 1.0,
) -> None:
    """Raise a RunError unless KL(pi||a) = 0 before the first step, sample by sample.

    Dropout that is left on in one of the two models, or a different sampling transform, shows here.
    The parameters are those of `check_same_law`.
    """
    pair = {"the policy before training": log_policy, "the base": log_base}
    _check_close(pair, texts, precision, lengths, rounding)


def same_law_tolerance(precision: str, lengths: Tensor, rounding: float = 1.0) -> Tensor:
    """Return, in nats, how far rounding may take two scores of sequences apart; shape (n,)."""
    times = max(1.0, rounding / HELD_ALREADY.get(precision, 1.0))
    return SAME_LAW_TOLERANCE[precision] * times * lengths.double().clamp(min=1.0).sqrt()


def computing_precision(model: nn.Module) -> str:
    """Return the precision that a forward pass computes in now: autocast's, or the weights'."""
    weights = next(model.parameters())
    kind = weights.device.type
    cast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if cast else weights.dtype
    return str(dtype).removeprefix("torch.")


def check_vocabulary(letters: str | None, folder: Path) -> str:
    """Return the model's letters, or raise a RunError for a model with another vocabulary."""
    if letters is None:
        raise RunError(
            f"the model {folder} does not speak in the letters of the name list, on which the "
            "features are defined: use a base trained by `python -m lm base`"
        )
    return letters


def check_device(device: str) -> None:
    """Raise a RunError if a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda is asked for, but torch sees no GPU: use --device cpu or auto")


def _check_close(
    pair: Mapping[str, Tensor],
    texts: Sequence[str],
    precision: str,
    lengths: Tensor | None,
    rounding: float,
) -> None:
    (left, one), (right, other) = ((name, value.detach()) for name, value in pair.items())
    lengths = torch.full_like(one, 10.0) if lengths is None else lengths.to(one.device)
    tolerance = same_law_tolerance(precision, lengths, rounding)
    share = (one - other).abs() / tolerance
    row = int(torch.where(torch.isnan(share), torch.inf, share).argmax())
    if not bool(share[row] <= 1.0):
        raise RunError(
            f"{left} and {right} disagree on {texts[row]!r}: {float(one[row]):.6f} against "
            f"{float(other[row]):.6f} nats, tolerance {float(tolerance[row]):.1g} in {precision}. "
            "They must be the same distribution: look for dropout, another transform or other "
            "weights"
        )
