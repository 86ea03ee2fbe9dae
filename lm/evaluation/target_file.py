"""Samples of a target on the disk: drawn once, shared by the runs of a task, and given by users.

The first line says how they were drawn. Then there is one JSON object a line::

    {"prompt": str, "text": str, "tokens": [int, ...], "log_base": number, "log_score": number}

The text is the completion. What the file holds is proved before it is used: base and target must
say of each sample what they said when it was drawn. A file from elsewhere needs the text alone, and
where there are prompts also the prompt.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lm.config import RunConfig
from lm.config.base import DEFAULT_CACHE
from lm.config.options import to_plain
from lm.errors import RunError, border, reason_of
from lm.evaluation.target_samples import (
    TargetSamples,
    assemble,
    draw_target_samples,
    token_rows,
)
from lm.policy.checks import computing_precision, same_law_tolerance
from lm.run.files import write_atomic
from lm.run.folder import RunFolder
from lm.run.inputs import input_digests
from lm.target.problem import Problem

FILE_NAME = "target_samples.jsonl"


def find_target_samples(
    config: RunConfig, problem: Problem, run: RunFolder, *, cache: Path = DEFAULT_CACHE
) -> TargetSamples:
    """Return a run's samples of its target: its own, those of an earlier run of the task, or new.

    Parameters
    ----------
    config
        Of the run.
    problem
        What is measured.
    run
        Its folder keeps a copy.
    cache
        Where runs of one task share them.
    """
    # Those of this run before it was stopped, or of an earlier run.
    shared = cache / "target_samples" / f"{_key(config, problem)}.jsonl"
    for path in (run.partial / FILE_NAME, shared):
        with suppress(OSError, ValueError):
            found = stored_target_samples(path, problem)
            run.write_text(FILE_NAME, path.read_text(encoding="utf-8"))
            return found

    # New ones, first into the run's own folder.
    found = draw_target_samples(problem, config.evaluation)
    if found.samples is None:
        return found
    text = _lines(problem, found)
    run.write_text(FILE_NAME, text)

    # For later runs. Where nothing but the run may be written, they draw theirs again.
    if run.main:
        try:
            shared.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(shared, text.encode("utf-8"))
        except OSError as error:
            print(
                "lm: warning: the samples of the target are not kept for later runs of this task: "
                f"{shared.parent} cannot be written ({reason_of(error)})",
                file=sys.stderr,
            )
    return found


def read_target_samples(path: Path, problem: Problem) -> TargetSamples:
    """Read samples of a target that a user names.

    Parameters
    ----------
    path
        JSON lines, as at the top of this module.
    problem
        What is measured.

    Returns
    -------
    TargetSamples
        Equally many of each context that the evaluations look at and the file has samples of.

    Raises
    ------
    RunError
        The file or a line of it cannot be used; the line is named.
    """
    try:
        # Not splitlines: a text may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"--p_samples {path} cannot be read: {error}") from error

    # The tokens of each sample, by the context that it continues.
    found: dict[int, list[list[int]]] = {int(context): [] for context in problem.evaluated}
    number = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _collect(line, found, problem, f"--p_samples {path}, line {number}")
    have = {context: rows for context, rows in found.items() if rows}
    n = min(map(len, have.values()), default=0)
    if n < 2:
        raise RunError(
            f"--p_samples {path} has less than two samples of "
            f"{'the target' if problem.prompts is None else 'each prompt that is evaluated'}: a "
            "standard error needs two"
        )
    rows = [row for own in have.values() for row in own[:n]]
    total = sum(map(len, have.values()))
    samples = assemble(problem, torch.tensor(list(have)), rows, drawn=0, accepted=0)
    _require_mass(samples, problem, path)
    missing = len(found) - len(have)
    reasons = [f"from {path}"]
    reasons += [f"the first {n} of each context"] if total > len(rows) else []
    reasons += [f"without {missing} of {len(found)} contexts"] if missing else []
    return samples._replace(reason="; ".join(reasons))


def _collect(line: str, found: dict[int, list[list[int]]], problem: Problem, where: str) -> None:
    """Add a line's sample to those of its context; other prompts' are no part of the evaluation."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is no JSON: {error}") from error
    if isinstance(record, Mapping) and "accepted" in record:
        return  # how they were drawn
    given = record if isinstance(record, Mapping) else {}
    prompt, context = given.get("prompt", ""), 0
    if given.get("tokens") is None and not isinstance(given.get("text"), str):
        raise RunError(f'{where} needs an object with "text" or "tokens"')
    if not isinstance(prompt, str):
        raise RunError(f'{where}: "prompt" is {prompt!r:.60}, and must be text')
    if problem.prompts is not None:
        if prompt not in problem.prompt_texts:
            raise RunError(f"{where} continues {prompt!r}, which is no prompt of this run")
        context = problem.prompt_texts.index(prompt)
    if context in found:
        found[context].append(_tokens(record, prompt, problem, where))


def _tokens(record: Mapping[str, Any], prompt: str, problem: Problem, where: str) -> list[int]:
    base = problem.base
    row = record.get("tokens")

    # A text is what follows the prompt's tokens, and ends.
    if row is None:
        encode = base.vocabulary.encode_prompts
        try:
            before = encode([prompt])[0] if prompt else [base.ids.bos_id]
            whole = encode([prompt + record["text"]])[0]
        except ValueError as error:
            raise RunError(f"{where}: {error}") from error
        if not prompt and whole[:1] != before:
            before = []
        if whole[: len(before)] != before:
            raise RunError(
                f"{where}: the tokens of prompt and text together do not begin with those of the "
                'prompt, so that it is not clear what was written: give "tokens"'
            )
        row = [*whole[len(before) :], base.ids.eos_ids[0]]

    # Whoever wrote them, they must be tokens of this model, and not too many.
    is_row = isinstance(row, list) and all(type(token) is int for token in row)
    if not is_row or not row or not all(0 <= token < base.vocabulary_size for token in row):
        raise RunError(f"{where}: tokens must be ids from 0 to {base.vocabulary_size - 1}")
    if len(row) > base.max_new_tokens:
        raise RunError(
            f"{where} has {len(row)} tokens, the run's limit is {base.max_new_tokens}: the target "
            "gives it no mass"
        )
    return row


def _require_mass(found: TargetSamples, problem: Problem, path: Path) -> None:
    assert found.samples is not None
    reading = problem.read(found.samples)
    log_score = problem.log_score(found.samples.log_prob, reading)
    bad = (~torch.isfinite(log_score)).nonzero()
    if len(bad) > 0:
        raise RunError(
            f"--p_samples {path}: the target excludes {reading.texts[int(bad[0])]!r}, so these are "
            "no samples of it"
        )


def _key(config: RunConfig, problem: Problem) -> str:
    """Hash what a target's samples depend on; models are proved by what they say of the samples."""
    plain = to_plain(config)
    models = {config.model, config.base.initial, config.target.teacher}
    models |= {config.measure.teacher} if config.measure is not None else set()
    parts = {
        "base": config.model or config.base.fingerprint(),
        "law": [plain[name] for name in ("max_new_tokens", "sampling", "off_policy", "precision")],
        "target": to_plain(problem.target.config),
        "weights": problem.target.weights.tolist(),
        "prompts": [problem.prompt_texts[i] for i in problem.evaluated if problem.prompt_texts],
        "wanted": [config.evaluation.target_samples, config.evaluation.target_draws],
        "inputs": input_digests(config, known=[name for name in models if name is not None]),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _lines(problem: Problem, found: TargetSamples) -> str:
    """Return samples as lines, the first one with how they were drawn."""
    assert found.samples is not None
    reading = problem.read(found.samples)
    log_score = problem.log_score(found.samples.log_prob, reading)
    lines = [
        {
            "prompt": prompt,
            "text": text,
            "tokens": row,
            "log_base": float(log_base),
            "log_score": float(score),
        }
        for prompt, text, row, log_base, score in zip(
            reading.prompts,
            reading.completions,
            token_rows(found.samples),
            found.samples.log_prob,
            log_score,
            strict=True,
        )
    ]

    facts = {
        "contexts": found.contexts.tolist(),
        "drawn": found.drawn,
        "accepted": found.accepted,
        "reason": found.reason,
    }
    return "".join(json.dumps(line) + "\n" for line in [facts, *lines])


@border("reading stored samples of the target", "They are drawn anew where they can be")
def stored_target_samples(path: Path, problem: Problem) -> TargetSamples:
    """Read what `_lines` wrote; a ValueError if base or target say something else of it now."""
    facts, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    contexts = torch.tensor(facts["contexts"])
    if not bool(torch.isin(contexts, problem.evaluated).all()):
        raise ValueError("other contexts")
    rows: Sequence[list[int]] = [line["tokens"] for line in lines]
    found = assemble(
        problem, contexts, rows, drawn=int(facts["drawn"]), accepted=int(facts["accepted"])
    )
    assert found.samples is not None
    log_score = problem.log_score(found.samples.log_prob, problem.read(found.samples))

    # The same law to rounding, of each sample.
    lengths = found.samples.mask.sum(-1).cpu()
    precision, rounding = computing_precision(problem.base.model), problem.base.rounding()
    allowed = same_law_tolerance(precision, lengths, rounding)
    for name, now in (("log_base", found.samples.log_prob), ("log_score", log_score)):
        then = torch.tensor([line[name] for line in lines], dtype=torch.float64)
        if not bool(((then - now.double().cpu()).abs() <= 2 * allowed).all()):
            raise ValueError(f"another {name}")
    return found._replace(reason=facts["reason"])
