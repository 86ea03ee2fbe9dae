"""A base, a target and its contexts: what training and evaluation both work on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.config import RunConfig, resolve
from lm.device.streams import EVALUATED_CONTEXTS, random_stream
from lm.errors import RunError, border
from lm.features.registry import require_columns
from lm.phases import phase
from lm.policy.checks import check_score
from lm.policy.prompts import PromptError, Prompts
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.target.decoded import Reader, Reading, prompt_keys
from lm.target.fit import fit_on_samples, fit_target, try_functions
from lm.target.listed import Listing, find_support
from lm.target.offline import Offline, draw_base
from lm.target.partition import Partition, StatedZ
from lm.target.prompt_file import (
    PromptLine,
    columns_of,
    read_prompt_lines,
    refuse_same_tokens,
    shared_columns,
    stated_z,
)
from lm.target.targets import Target, describe_target


@dataclass(frozen=True)
class Problem:
    """Everything about a run that does not change while it trains.

    Parameters
    ----------
    base
        The frozen model a.
    target
        The target p = P/Z.
    reader
        Turns samples into texts and features.
    listing
        The listed names, for a model that spells them and has no prompts; else None.
    prompts
        All contexts; None without prompts, which is one context: the start token.
    prompt_texts
        Their texts, in the same order.
    evaluated
        Shape (c,), int64: the contexts that evaluations look at.
    log_z
        Shape (contexts,), float64: log Z that normalises the target in measurements, in nats:
        exact, stated by a column, or the offline estimate; NaN for contexts that no part of the run
        needs it for.
    offline
        The offline estimate from base samples; None if Z is exact and none was asked for.
    stated
        What a column of the prompts says of Z; None if none is asked.
    """

    base: Policy
    target: Target
    reader: Reader
    listing: Listing | None
    prompts: Prompts | None
    prompt_texts: tuple[str, ...]
    evaluated: Tensor
    log_z: Tensor
    offline: Offline | None
    stated: StatedZ | None = None

    @property
    def contexts(self) -> int:
        """Number of contexts; 1 without prompts."""
        return len(self.log_z)

    def read(self, samples: Samples) -> Reading:
        """Decode samples and evaluate the target's features on them."""
        return self.reader.read(samples)

    def log_score(self, log_base: Tensor, reading: Reading) -> Tensor:
        """Return log P of samples, shape (n,); NaN or +inf stops with the sample's text.

        Parameters
        ----------
        log_base
            Shape (n,): log a(x) in nats; -inf where the base's transform cuts x off.
        reading
            The n samples, of whatever contexts.

        Returns
        -------
        Tensor
            Nats; -inf excludes a sample.
        """
        log_score = self.target.log_score_of(log_base, reading)
        check_score(log_base, log_score, reading.texts, holes=self.base.transform.truncates)
        return log_score

    @property
    def anchor(self) -> Policy | None:
        """The model that the target leans on; None if that is the policy itself, as it is now."""
        return None if self.target.config.kind == "reward" else self.base

    @cached_property
    def list_log_score(self) -> Tensor:
        """The listed names' log P, shape (names,), nats: the same at every evaluation."""
        assert self.listing is not None
        return self.log_score(self.listing.log_base, self.listing.reading)

    def warnings(self) -> list[str]:
        """Return what is wrong with the offline estimate or the column, one sentence each."""
        if self.offline is None:
            return []
        if self.stated is not None:
            share = self.target.config.kind == "constrained"
            return self.offline.against(self.stated, share=share)
        return self.offline.warnings(self.prompt_texts)


class Draft(NamedTuple):
    """What is known of a problem before anything is drawn for it.

    Attributes
    ----------
    base, reader, listing, prompts, prompt_texts, evaluated
        As in `Problem`.
    wanted
        Shape (c,), int64: the contexts whose Z is estimated from base samples; empty for none.
    stated
        What a column of the prompts says of Z; None if none is asked.
    """

    base: Policy
    reader: Reader
    listing: Listing | None
    prompts: Prompts | None
    prompt_texts: tuple[str, ...]
    evaluated: Tensor
    wanted: Tensor
    stated: StatedZ | None


BUILDING = "building the target from the base"
ADVICE = (
    "If the model cannot be run like this, try another --precision or model; --debug true shows "
    "where"
)


def build_problem(config: RunConfig, base: Policy, prompts: Sequence[str] | None = None) -> Problem:
    """Fit the target to the base: exactly over the list, or else on base samples.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model, with any vocabulary.
    prompts
        The texts of all contexts; None takes those that the configuration names.

    Returns
    -------
    Problem
        With log Z of every context that the run needs, exact or estimated.

    Raises
    ------
    UnattainableMoments, ValueError
        The target cannot be built on this base.
    RunError
        A feature or a score fails; the model does not fit what was asked for.
    InfiniteDivergence
        A custom target has holes and the divergence an infinite slope.
    """
    return fit_problem(config, draft_problem(config, base, prompts))


@phase("reading the prompts and the list")
@border(BUILDING, ADVICE)
def draft_problem(config: RunConfig, base: Policy, prompts: Sequence[str] | None = None) -> Draft:
    """Do what needs no samples: read the contexts and the list, and try the user's functions.

    Parameters
    ----------
    config, base, prompts
        As for `build_problem`, which raises the same.
    """
    # Read the contexts.
    lines: list[PromptLine] = []
    if prompts is None and config.prompts.file is not None:
        lines = read_prompt_lines(
            config.prompts.file,
            column=config.prompts.column,
            split=config.prompts.split,
            chat=base.vocabulary.chat_text,
        )
        prompts = [line.text for line in lines]
    elif prompts is None and config.prompts.text is not None:
        prompts = [config.prompts.text]
    require_columns(config.target.features, config.target.score, shared_columns(lines))
    texts, contexts = tuple(prompts or ()), None
    if texts:
        rows = base.vocabulary.encode_prompts(list(texts))
        if lines:
            refuse_same_tokens(config.prompts.file or "", lines, rows)
        contexts = Prompts.from_ids(rows, pad_id=base.ids.pad_id)
        _check_prompts(base, contexts, config.prompts.file, lines)
    if 0 < len(texts) <= config.prompts.held_out:
        raise RunError(
            f"prompts.held_out is {config.prompts.held_out}, but there are {len(texts)} prompts: "
            "none is left to train on, so hold out fewer"
        )
    evaluated = _evaluated(config, max(1, len(texts)))
    stated = None
    if config.partition.policy == "column":
        most = 0.0 if config.target.kind == "constrained" else math.inf
        stated = stated_z(config.prompts.file or "", lines, most=most)

    # The listed names, for a base that spells them and has no prompts.
    features, support = config.target.features, None if texts else find_support(base)
    if config.partition.policy == "exact" and support is None and not config.target.is_normalised:
        raise RunError(
            "partition.policy exact sums over the listed names, but this model does not spell "
            "them: set partition.policy frozen"
        )
    names, listing = (), None
    if support is not None:
        names = support.names
        listing = Listing(support, support.log_prob(base), support.reading(features))
    keys = [] if contexts is None else prompt_keys(contexts)
    reader = Reader(
        base,
        features,
        frozenset(names),
        dict(zip(keys, texts, strict=True)),
        dict(zip(keys, columns_of(lines), strict=bool(lines))),
    )

    try_functions(config, base, reader, contexts)

    # Base samples, of the contexts whose Z nothing gives exactly or the policy of Z asks for.
    wanted = evaluated[:0]
    everywhere = config.partition.policy in {"frozen", "past_only"}
    on_list = listing is not None and config.target.on_list
    if everywhere or not (on_list or config.target.is_normalised):
        wanted = torch.arange(max(1, len(texts))) if everywhere else evaluated
    return Draft(base, reader, listing, contexts, texts, evaluated, wanted, stated)


@phase(BUILDING)
@border(BUILDING, ADVICE)
def fit_problem(config: RunConfig, draft: Draft) -> Problem:
    """Draw base samples where Z needs them, and fit the target.

    Parameters
    ----------
    config
        A resolved configuration.
    draft
        Of the same.
    """
    base, reader, listing, contexts, texts, evaluated, wanted, stated = draft
    offline = None
    if len(wanted) > 0:
        draws = draw_base(config, base, reader, contexts, wanted)
        target, offline = fit_on_samples(config, base, listing, draws, evaluated, prompts=texts)
    else:
        target = fit_target(config, base, listing, None, evaluated, prompts=texts)

    log_z = torch.full((max(1, len(texts)),), math.nan, dtype=torch.float64)
    if target.log_z is not None:
        log_z[:] = target.log_z
    elif stated is not None:
        log_z = stated.log_z
    elif offline is not None:
        log_z[offline.contexts] = offline.estimate.log_z
    known = log_z, offline, stated
    return Problem(base, target, reader, listing, contexts, texts, evaluated, *known)


def measured_problem(config: RunConfig, base: Policy, trained: Problem) -> Problem:
    """Return the problem that a run is measured on: its own, or that of ``config.measure``.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model.
    trained
        The problem that the run descends.

    Returns
    -------
    Problem
        Never one without a target.
    """
    if config.measure is None:
        return trained
    # What is measured decides neither what is descended nor where its Z comes from.
    other = replace(
        config,
        target=config.measure,
        measure=None,
        divergence="jensen_shannon",
        partition=replace(config.partition, policy="auto"),
    )
    # Read from where the run reads them, with their columns, unless a program gave texts.
    texts = None if config.prompts.given else trained.prompt_texts or None
    return build_problem(resolve(other), base, texts)


def build_partition(config: RunConfig, problem: Problem) -> Partition:
    """Return the source of Z that training uses.

    Parameters
    ----------
    config
        A resolved configuration.
    problem
        Holds the exact and the offline values.

    Returns
    -------
    Partition
        Its state starts on samples that are never trained on.
    """
    policy = config.partition.policy
    if policy in {"exact", "column"}:
        return Partition(policy, problem.log_z, torch.full_like(problem.log_z, math.inf))
    if policy in {"frozen", "past_only"} and problem.offline is not None:
        log_z = problem.offline.estimate.log_z
        weight = torch.full_like(log_z, float(problem.offline.samples))
        return Partition(policy, log_z, weight, config.partition.forgetting)
    return Partition(policy)


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Return what a run is about, as target.json holds it: numbers, lists and words.

    Parameters
    ----------
    problem
        Of the run.

    Returns
    -------
    dict
        Kind, beta, score, features, number of prompts, log Z (with prompts the mean over those of
        the evaluations), its source, the offline estimate, what a column states, and the
        certificate of the multipliers.
    """
    target, offline = problem.target, problem.offline
    fit = None
    if target.fit is not None:
        fit = {
            "multipliers": target.fit.multipliers.tolist(),
            "gradient_norm": float(target.fit.gradient_norm),
            "iterations": int(target.fit.iterations),
            "dual_values": [float(value) for value in target.fit.dual_values],
            "moment_errors": [float(value) for value in target.fit.moment_errors],
        }

    source, column = "exact" if target.log_z is not None else "offline", {}
    if problem.stated is not None:
        log_z, errors = problem.stated
        values = {"log_z": log_z.tolist(), "errors": None if errors is None else errors.tolist()}
        source, column = "column", {"column": values}

    return {
        "kind": target.config.kind,
        "beta": target.config.beta,
        "score": target.config.score,
        "features": describe_target(target),
        "contexts": len(problem.prompt_texts),
        "log_z": float(problem.log_z[problem.evaluated].mean()),
        "log_z_source": source,
        "offline": None if offline is None else offline.describe(),
        **column,
        "fit": fit,
        "warnings": problem.warnings(),
    }


def _check_prompts(
    base: Policy, contexts: Prompts, file: str | None, lines: Sequence[PromptLine]
) -> None:
    """Refuse prompts that cannot be continued, by the line of their file."""
    try:
        base.check_prompts(contexts)
    except PromptError as error:
        if not lines:
            raise
        line = lines[int(contexts.lengths.argmax())].number
        raise RunError(f"prompts.file {file}, line {line}: {error}") from error


def _evaluated(config: RunConfig, contexts: int) -> Tensor:
    """Choose the contexts of the evaluations, at random and the same ones every time."""
    number = config.prompts.held_out or contexts
    order = torch.randperm(number, generator=random_stream(config.seed, EVALUATED_CONTEXTS))
    order += contexts - number
    # A standard error needs two samples of each.
    most = min(config.evaluation.contexts, config.evaluation.sizes.samples // 2)
    return order[:most].sort().values
