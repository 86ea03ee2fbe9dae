"""What `python -m lm partition` does: log Z of each prompt from base samples, as a column."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lm.cli.partition_words import PartitionOptions
from lm.config import RunConfig
from lm.device.streams import OFFLINE, random_stream
from lm.errors import RunBusy, RunError
from lm.phases import phase
from lm.policy import Policy, load_policy
from lm.policy.checks import check_device, check_longest, check_score
from lm.policy.drawing import draw
from lm.policy.prompts import Prompts
from lm.run.files import append_line, held_file, write_output
from lm.run.inputs import input_digests
from lm.run.owned import holds_keys, json_object, require_replaceable_file
from lm.target.decoded import Reader, prompt_keys
from lm.target.partition import SHARE_TO_WARN, PartitionEstimate, estimate_partition
from lm.target.prompt_file import (
    Z_COLUMNS,
    PromptLine,
    columns_of,
    read_prompt_lines,
    refuse_same_tokens,
)
from lm.target.targets import Target

# Before the path of a file that the values depend on, among the settings.
CONTENT = "content of"


def run_partition(options: PartitionOptions) -> None:
    """Estimate log Z prompt by prompt and append each line; a second call goes on where one ended.

    Parameters
    ----------
    options
        The model is the base: it is sampled, and the target is made of it.

    Raises
    ------
    RunError
        The prompts cannot be read, or the output is that of other settings.
    """
    # The base and its prompts, as its chat template writes them.
    check_device(options.device)
    base = load_policy(options.model, max_new_tokens=options.max_new_tokens, device=options.device)
    file = options.prompts
    where = {"column": options.column, "split": options.split}
    lines = read_prompt_lines(file, **where, chat=base.vocabulary.chat_text)
    rows = [*_rows(file, lines)]
    settings = _settings(options, rows)
    done = _lines_done(options, rows, settings)
    if done:
        print(f"{options.output}: {done} of {len(rows)} prompts are done")

    contexts, reader = _reading(file, lines, base, options.target.features)

    # Not before: a model that does not load leaves nothing behind.
    options.output.parent.mkdir(parents=True, exist_ok=True)
    unmet, heavy = 0, 0
    with held_file(options.output), phase("estimating log Z", len(rows)) as progress:
        if _lines_done(options, rows, settings) != done:
            raise RunBusy(f"another process has written to {options.output}: call this again")
        write_output(_beside(options), (json.dumps(settings, indent=2) + "\n").encode())
        _drop_torn_line(options.output)

        # A stream of random numbers for each prompt: where a call ends changes nothing.
        for index in range(done, len(rows)):
            one = contexts.rows(torch.tensor([index]))
            found = _estimate(options, base, reader, one, index)
            log_z, error = float(found.log_z), float(found.relative_standard_error)
            known = log_z > -math.inf
            values = (log_z, error) if known else (None, None)
            record = rows[index] | dict(zip(Z_COLUMNS, values, strict=True))
            append_line(options.output, json.dumps(record, ensure_ascii=False))
            unmet += not known
            heavy += known and float(found.largest_share) > SHARE_TO_WARN
            progress.update(index + 1)

    # What is not to be trusted.
    if unmet:
        print(f"{unmet} prompts have log_z null: none of {options.samples} samples met the target")
    if heavy:
        share = f"{SHARE_TO_WARN:.0%}"
        print(f"{heavy} prompts rest on one sample by more than {share}: use more --samples")
    print(f"log Z of {len(rows)} prompts, {options.samples} base samples each: {options.output}")


def _reading(
    file: str, lines: list[PromptLine], base: Policy, features: tuple[str, ...]
) -> tuple[Prompts, Reader]:
    """Return the prompts as the base reads them, and what is read of its samples."""
    texts = [line.text for line in lines]
    tokens = base.vocabulary.encode_prompts(texts)
    refuse_same_tokens(file, lines, tokens)
    contexts = Prompts.from_ids(tokens, pad_id=base.ids.pad_id)
    base.check_prompts(contexts)
    keys = prompt_keys(contexts)
    columns = dict(zip(keys, columns_of(lines), strict=True))
    named = dict(zip(keys, texts, strict=True))
    return contexts, Reader(base, features, frozenset(), named, columns)


def _estimate(
    options: PartitionOptions, base: Policy, reader: Reader, prompts: Prompts, index: int
) -> PartitionEstimate:
    """Estimate log Z of one prompt."""
    generator = random_stream(options.seed, OFFLINE, index)
    samples = draw(base, options.samples, generator=generator, prompts=prompts)
    reading = reader.read(samples)
    check_longest(base, samples, reading.texts)
    log_score = _target(options).log_score_of(samples.log_prob, reading)
    check_score(samples.log_prob, log_score, reading.texts)
    return estimate_partition(log_score.double().cpu(), samples.log_prob.double().cpu())


def _target(options: PartitionOptions) -> Target:
    config = options.target
    weights = [config.reward.get(name, 1.0) for name in config.features]
    nothing = torch.zeros(len(weights), dtype=torch.float64)
    tensor = torch.tensor(weights, dtype=torch.float64)
    return Target(config, tensor, nothing, nothing, log_z=None, fit=None)


def _rows(path: str, lines: list[PromptLine]) -> Iterator[dict[str, Any]]:
    """Yield each prompt with the other columns of its line."""
    for line in lines:
        row = {"prompt": line.text} if line.row is None else dict(line.row)
        taken = [name for name in Z_COLUMNS if name in row]
        if taken:
            raise RunError(
                f"{path}, line {line.number} has a {taken[0]} already: take it out, or the old "
                "values and the new ones could not be told apart"
            )
        try:
            # A data set may hold what JSON does not: dates, pictures.
            _ = json.dumps(row, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{path}, line {line.number} cannot be written as JSON ({error}): leave the "
                "column out"
            ) from error
        yield row


def _beside(options: PartitionOptions) -> Path:
    """Return where the settings stand, so that a file is continued by the same ones only."""
    return options.output.with_name(options.output.name + ".settings.json")


def _settings(options: PartitionOptions, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the values depend on."""
    prompts = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    settings = json.loads(json.dumps(asdict(options) | {"prompts_sha256": prompts}, default=str))
    for name in ("prompts", "output", "device", "split"):  # where, and not what
        del settings[name]
    if options.column == "prompt":  # as in files of earlier versions
        del settings["column"]
    run = RunConfig(model=options.model, target=options.target, divergence="forward_kl")
    digests = input_digests(run)
    return settings | {f"{CONTENT} {path}": digest for path, digest in digests.items()}


def _lines_done(
    options: PartitionOptions, rows: list[dict[str, Any]], settings: dict[str, Any]
) -> int:
    """Return how many whole lines an earlier call has written."""
    output, beside = options.output, _beside(options)
    ours = holds_keys(*(name for name in settings if not name.startswith(CONTENT)))
    if not output.exists() or (output.is_file() and not output.stat().st_size):
        require_replaceable_file(beside, "the settings of a file of log Z", ours)
        return 0

    # Is it ours, and of the same settings?
    if not output.is_file() or not beside.is_file() or not ours(beside):
        raise RunError(f"{output} is there and not of this command: name another file")
    stored = json_object(beside)
    # Earlier versions did not look into the files.
    other = [name for name in settings if stored.get(name, settings[name]) != settings[name]]
    if other:
        raise RunError(
            f"{output} was begun with another {other[0]} ({stored[other[0]]!r:.60}): name "
            "another file, or remove this one and the .settings.json beside it"
        )

    # Whole lines are those of the first prompts, in order, or somebody else has been at them.
    *whole, _ = output.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        if number > len(rows) or _prompt_of(line) != rows[number - 1]:
            raise RunError(
                f"{output}, line {number} is not log Z of prompt {number}: something else has "
                "written there. Remove this file to begin again, or name another one"
            )
    return len(whole)


def _drop_torn_line(output: Path) -> None:
    """Cut off what a killed process has written of a line: a file is held by its place."""
    os.truncate(output, output.read_bytes().rfind(b"\n") + 1)


def _prompt_of(line: bytes) -> dict[str, Any] | None:
    """Return a written line without its columns; None if it is no such line."""
    try:
        record = json.loads(line)
        _ = [record.pop(name) for name in Z_COLUMNS]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record
