"""The lines of metrics.jsonl: their scheme, and how to read them. Needs no torch.

A step describes the batch that took the policy from step - 1 to step::

    {"kind": "step", "step": int, "samples": int, "learning_rate": number, "features": {name: mean},
     "signal_mean": number, "signal_std": number, "coefficient_rms": number,
     "log_z": number, "batch_log_z": number | null, "batch_log_z_error": number | null,
     "largest_share": number | null, "ess_share": number | null,
     "gradient_norm": number, "clipped": bool, "gradient_signal_to_noise": number | null}

With several updates a batch it describes the last of them. Where it applies, a step also has
``weight_mean``, ``weight_ess_share``, ``weight_largest_share`` (of the importance weights pi/q of
samples that are not the policy's), ``kept_mass`` (the share a truncating transform keeps,
per token), ``proposal_gain`` and ``proposal_renewed`` (KL(p||q) - KL(p||pi) in nats, and whether
the policy became the proposal),
``loss_scale`` and ``skipped`` (float16: whether the gradient overflowed; ``gradient_norm`` is null
then).

An evaluation measures the policy after ``step`` steps, on samples of its own::

    {"kind": "evaluation", "step": int, "samples": int, "contexts": int, "warnings": [str, ...],
     "target_samples": {"samples": int, "contexts": int, "drawn": int, "acceptance": number,
                        "reason": str},
     "estimates": {quantity: {estimator: {"value": number | "inf" | "-inf",
                                          "standard_error": number, "z": number, "reason": str}}}}

``samples`` counts the training samples drawn so far; ``target_samples`` says how many samples of
the target there are, from how many base samples, and why none or fewer. Quantities, in nats unless
said otherwise: ``feature/NAME`` (E_pi), ``coverage/K`` (share of the names with a feature that K
samples show), each divergence D_f(policy, target) by name, ``kl_policy_base``, ``kl_target_base``,
``entropy``, ``entropy_target``, ``entropy_per_token``, ``entropy_normalised`` (1 is uniform over
the vocabulary), ``length`` (tokens), ``distinct_share``, ``distinct_1`` to ``distinct_3`` and
``self_bleu`` (shares, over tokens, within groups of samples), ``list_mass``, ``unseen_share`` (the
share of the target of which as many samples of the policy are expected to show less than one),
``ess_share`` and ``largest_share`` (shares), ``kept_mass`` (the share a truncating transform keeps,
per token), and ``log_z`` (the standard error of the sampled one is the relative error of Zhat).
With prompts (``contexts`` of them; 0 without) every value is a mean over contexts and its standard
error that mean's, save ``largest_share``, the largest of all, and ``log_z``, whose standard error
is that of estimating the Z of these contexts.

Estimators, the best first: ``exact`` (a sum over the list), ``list_and_remainder`` (the list
exactly, the rest by importance sampling), ``rao_blackwell`` (next tokens exactly, prefixes
sampled), ``target_samples`` (samples of p, and for other divergences than KL(p‖π) of (p + π)/2),
``sampled`` (samples of base and policy in equal parts), ``policy_samples`` (samples of the policy
alone, weighed by P/π with Z from the same samples: what the policy dropped is not in it). A z
compares an estimate with a better one, in standard errors; with several contexts, which both look
at, there is none. Keys without a value are left out of an entry. Clock values stand apart, in
timings.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.errors import RunError, reason_of

# Between prompt and completion in sample files; and what stands for a line break there.
PROMPT_MARK = " ▸ "
LINE_BREAK = "⏎"
# Characters of a prompt or a completion on a terminal.
LONGEST = 160
# Nats: a float32 log-probability of a text carries about this much.
ROUNDING = 1e-6
FOUR = ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon")
ESTIMATORS = (
    *("exact", "list_and_remainder", "rao_blackwell", "target_samples", "sampled"),
    "policy_samples",
)


def best(record: Mapping[str, Any], quantity: str) -> tuple[float, float]:
    """Return value and standard error of a quantity by the best estimator that a record has.

    Parameters
    ----------
    record
        An evaluation.
    quantity
        Its name; see the top of this module.

    Returns
    -------
    tuple of float
        The standard error is 0 for an exact value, NaN where none is stated.

    Raises
    ------
    KeyError
        The record does not have the quantity.
    """
    entries = record["estimates"][quantity]
    name = best_estimator(record, quantity)
    missing = 0.0 if name == "exact" else float("nan")
    return float(entries[name]["value"]), float(entries[name].get("standard_error", missing))


def best_estimator(record: Mapping[str, Any], quantity: str) -> str:
    """Return the name of the best estimator that an evaluation has of a quantity."""
    entries = record["estimates"][quantity]
    # Most of an entropy's variance comes from unlisted texts: there the prefixes do better.
    order = ("rao_blackwell", *ESTIMATORS) if quantity == "entropy" else ESTIMATORS
    return next(name for name in order if name in entries)


def one_line(text: str) -> str:
    """Return a text in one line: every kind of line break becomes a mark."""
    # A mark at the end keeps a line break there, of whatever kind.
    return LINE_BREAK.join(f"{text}x".splitlines()).removesuffix("x")


def printable(text: str) -> str:
    """Return a text in one line for a terminal: what would steer it is shown as one types it.

    A model may write any character, and an escape sequence would move the cursor, change colours
    or set the window's title.
    """
    shown = text.replace("\\", "\\\\")
    return "".join(
        character if character.isprintable() or character == "\u00a0" else _escaped(character)
        for character in shown
    )


def shortened(text: str, *, keep: str = "start") -> str:
    """Return at most `LONGEST` characters of a text: its start, or its end."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}…" if keep == "start" else f"…{text[-LONGEST:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def read_records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Read the records of one kind, step or evaluation, in order.

    Raises
    ------
    RunError
        The log was changed or damaged; its line is named.
    """
    path = folder / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} cannot be read: it is not UTF-8 text") from error

    found = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}, line {number} is no record: {reason_of(error)}") from error
        if not isinstance(record, dict) or "kind" not in record:
            raise RunError(f'{path}, line {number} is no record: it has no "kind"')
        if record["kind"] == kind:
            found.append(record)
    return found


def read_seconds(folder: Path) -> tuple[float, float]:
    """Return how long the steps of a run took, and its evaluations, by the clock."""
    steps = evaluations = 0.0
    for line in (folder / "timings.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        steps += float(record.get("seconds", 0.0))
        evaluations += float(record.get("evaluation_seconds", 0.0))
    return steps, evaluations
