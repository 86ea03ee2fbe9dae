"""The groups of a run's configuration that say how it estimates, steps, measures and saves.

Like all configurations, they need no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require, share

PartitionPolicy = Literal[
    "auto", "exact", "column", "frozen", "past_only", "leave_one_out", "same_batch"
]
BaselineKind = Literal["leave_one_out", "running", "constant", "none"]
ProposalKind = Literal["policy", "kl_adaptive"]

# What a run spends outside its steps, unless it says otherwise, as shares of the samples that its
# steps draw: on Z, on samples of the target, and on its evaluations all together. A base sample
# costs about a third of a sample of a step, one of an evaluation about as much. So steps take at
# least three quarters of the time.
SHARE_OF_DRAWS, SHARE_OF_EVALUATIONS = 0.1, 0.2
# However short the run.
LEAST_DRAWS, LEAST_EVALUATED = 256, 64
MOST_EVALUATED = 2048
# An error of a sixteenth of the spread; and the draws for a number of samples that was asked for.
TARGET_SAMPLES, TARGET_DRAWS = 256, 4096
GROUP = 256


@dataclass(frozen=True)
class PromptsConfig:
    """Where the contexts of a conditional model come from; without file or text there are none."""

    file: str | None = None
    """one prompt per line; .jsonl with the key "prompt", a text or messages of a chat, and columns
    that functions ask for; the folder of a data set, or hf:NAME of one on the hub"""
    text: str | None = None
    """one fixed prompt in place of a file; moments may be held after it"""
    column: str = "prompt"
    """the key or column that holds the prompt"""
    split: str = "train"
    """of a data set that has several"""
    per_step: int = 1
    """prompts of each step; each gets batch_size / per_step samples"""
    held_out: int = 0
    """the last so many prompts are measured and never trained on; with 0 the same are both"""

    def __post_init__(self) -> None:
        check_types(self, "prompts")
        at_least("prompts.per_step", self.per_step, 1)
        require(self.file != "", "prompts.file is empty: name a file, or leave the key out")
        require(
            self.file is None or self.text is None,
            "prompts.file and prompts.text are both given: keep one",
        )
        require(self.text != "", "prompts.text is empty: give the prompt, or leave the key out")
        at_least("prompts.held_out", self.held_out, 0)
        require(
            self.file is not None or self.held_out == 0,
            f"prompts.held_out is {self.held_out}, but there is no prompts.file to hold prompts "
            "of: name one, or remove prompts.held_out",
        )
        require(
            self.file is not None or self.per_step == 1,
            f"prompts.per_step is {self.per_step}, but there is no prompts.file to take prompts "
            "from: name one, or remove prompts.per_step",
        )

    @property
    def given(self) -> bool:
        """Whether completions continue a prompt."""
        return self.file is not None or self.text is not None


@dataclass(frozen=True)
class ProposalConfig:
    """From which distribution a step's samples are drawn."""

    kind: ProposalKind = "policy"
    """policy (the one being trained) or kl_adaptive (a copy, renewed when it has become better)"""
    every: int = 10
    """kl_adaptive: steps between two comparisons of policy and copy"""

    def __post_init__(self) -> None:
        check_types(self, "proposal")
        at_least("proposal.every", self.every, 1)
        require(
            self.kind == "kl_adaptive" or self.every == 10,
            f"proposal.every is {self.every}, but proposal.kind {self.kind} compares nothing: "
            "remove it or set proposal.kind kl_adaptive",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved so that it can be continued."""

    every: int = 100
    """steps between two checkpoints"""
    keep: int = 2
    """how many of the newest are kept"""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint")
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class PartitionConfig:
    """Where the partition function Z of the target comes from."""

    policy: PartitionPolicy = "auto"
    """auto is exact when the features live on the list, else frozen; column takes log Z of each
    prompt from the column log_z of prompts.file"""
    samples: int | None = None
    """base samples behind the frozen estimate, or behind the start of past_only; by default as many
    as partition.error takes"""
    error: float = 0.05
    """without partition.samples: base samples are drawn until the relative standard error of Zhat
    (with prompts, of each) is at most this; stopping there makes Zhat a little too large (of a pass
    rate by up to 1 %), and a number in partition.samples does not"""
    most: int | None = None
    """without partition.samples: most base samples that are drawn for it; by default a tenth of the
    run's own samples"""
    forgetting: float = 1.0
    """past_only: weight of the past at each step; 1 keeps everything"""

    def __post_init__(self) -> None:
        check_types(self, "partition")
        positive("partition.error", self.error)
        for name, value in (("samples", self.samples), ("most", self.most)):
            if value is not None:
                at_least(f"partition.{name}", value, 2)
        require(
            self.samples is None or (self.most is None and self.error == PartitionConfig.error),
            f"partition.samples is {self.samples}, a number that nothing else decides: remove it, "
            "or remove partition.error and partition.most",
        )
        share("partition.forgetting", self.forgetting)

    @property
    def at_most(self) -> int:
        """Most base samples that are drawn for Z; of what is left open, the least of a run."""
        return self.samples or self.most or LEAST_DRAWS

    def for_run(self, drawn: int) -> PartitionConfig:
        """Return the same with its cap stated, for a run that draws so many samples in its steps.

        Parameters
        ----------
        drawn
            Steps times batch size.
        """
        if self.samples is not None or self.most is not None:
            return self
        return replace(self, most=max(LEAST_DRAWS, int(SHARE_OF_DRAWS * drawn)))


@dataclass(frozen=True)
class BaselineConfig:
    """What is subtracted from the signal to reduce its variance."""

    kind: BaselineKind = "leave_one_out"
    """leave_one_out, running (past batches only), constant or none"""
    value: float = 0.0
    """constant: the number that is subtracted"""
    forgetting: float = 0.9
    """running: weight of the past at each step; 1 keeps everything"""

    def __post_init__(self) -> None:
        check_types(self, "baseline")
        require(
            self.kind == "constant" or self.value == 0.0,
            f"baseline.value is {self.value}, but baseline.kind {self.kind} does not use it: "
            "remove it or set baseline.kind constant",
        )
        require(math.isfinite(self.value), f"baseline.value is {self.value}: must be finite")
        share("baseline.forgetting", self.forgetting)


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate."""

    lr: float = 3e-4
    """learning rate of Adam after the warm-up"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the rate goes to zero over the run, if at all"""
    warmup_steps: int = 0
    """steps over which the rate rises linearly from zero"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of Adam's first and second moment"""
    eps: float = 1e-8
    """added to the root of Adam's second moment"""
    average: float | None = None
    """weight of the past in a running mean of the weights, which is then what is measured and
    saved; none by default"""
    clip_norm: float | None = None
    """largest gradient norm; none by default, for clipping favours the divergences unequally"""

    def __post_init__(self) -> None:
        check_types(self, "optimizer")
        positive("optimizer.lr", self.lr)
        positive("optimizer.eps", self.eps)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        for beta in self.betas:
            require(0 <= beta < 1, f"optimizer.betas is {self.betas}: each must be in [0, 1)")
        if self.average is not None:
            require(
                0 < self.average < 1,
                f"optimizer.average is {self.average}: it must lie strictly between 0 and 1",
            )
        if self.clip_norm is not None:
            positive("optimizer.clip_norm", self.clip_norm)


class Sizes(NamedTuple):
    """Numbers of samples that an evaluation works with; see `EvaluationConfig`."""

    samples: int
    group: int
    target_samples: int
    target_draws: int


@dataclass(frozen=True)
class EvaluationConfig:
    """When and on how many samples the run is measured."""

    every: int = 25
    """steps between two evaluations; the first and the last step are always evaluated"""
    early: tuple[int, ...] = ()
    """further steps to evaluate after, where curves are steep"""
    samples: int | None = None
    """samples from the policy, and as many from the base, of each evaluation; by default those of
    all evaluations are a fifth of the run's own, 64 to 2048 each"""
    target_samples: int | None = None
    """samples of the target itself, drawn once a run by rejection from the base (a teacher is
    sampled): they see what the policy has dropped. 0 draws none; by default 256, where the target
    accepts enough base samples for that"""
    target_draws: int | None = None
    """most base samples that are drawn for them; by default a tenth of the run's own samples, or
    4096 where target_samples is given"""
    group: int | None = None
    """diversity (distinct share, Distinct-n, Self-BLEU) is measured within groups of this size; by
    default half of the samples, at most 256"""
    texts: int = 24
    """sample texts kept before and after training"""
    texts_every: int | None = None
    """steps between two times that a few samples are shown, of the same prompts and the same random
    numbers each time; never by default"""
    texts_shown: int = 4
    """how many of them; with prompts of as many prompts"""
    coverage: str | None = None
    """a feature: which share of the listed names that have it do so many samples show?"""
    coverage_at: tuple[int, ...] = (1, 16, 256)
    """numbers of samples that coverage is stated for"""
    contexts: int = 32
    """with prompts: up to so many, chosen at random once, share the samples of an evaluation"""

    def __post_init__(self) -> None:
        check_types(self, "evaluation")
        at_least("evaluation.every", self.every, 1)
        for step in self.early:
            at_least("evaluation.early", step, 1)
        for name, least in {
            "samples": 4,
            "target_samples": 0,
            "target_draws": 2,
            "group": 2,
            "texts_every": 1,
        }.items():
            value = getattr(self, name)
            if value is not None:
                at_least(f"evaluation.{name}", value, least)
        require(
            self.target_samples != 1,
            "evaluation.target_samples is 1: a standard error needs two, and 0 draws none",
        )
        at_least("evaluation.texts", self.texts, 1)
        at_least("evaluation.texts_shown", self.texts_shown, 1)
        at_least("evaluation.contexts", self.contexts, 1)
        for number in self.coverage_at:
            at_least("evaluation.coverage_at", number, 1)

        # There must be samples enough for every figure.
        if self.samples is None:
            return
        require(
            self.coverage is None or 2 * max(self.coverage_at) <= self.samples,
            f"evaluation.coverage_at goes to {max(self.coverage_at, default=0)}, which needs twice "
            f"as many evaluation.samples for a standard error; there are {self.samples}",
        )
        require(
            self.group is None or self.samples >= 2 * self.group,
            f"evaluation.samples is {self.samples}, which is less than two groups of "
            f"evaluation.group = {self.group}: a standard error needs at least two",
        )
        require(
            self.texts <= self.samples,
            f"evaluation.texts is {self.texts}, more than evaluation.samples = {self.samples}",
        )

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether a run of so many steps is measured after a step; 0 is before the first."""
        return step % self.every == 0 or step in {*self.early, steps}

    def shows(self, step: int, steps: int) -> bool:
        """Return whether sample texts are shown after a step; 0 is before the first."""
        every = self.texts_every
        return every is not None and (step % every == 0 or step == steps)

    def for_run(self, drawn: int, steps: int) -> EvaluationConfig:
        """Return the same with its numbers of samples stated, by what the run itself costs.

        Parameters
        ----------
        drawn
            Samples that the run draws in its steps.
        steps
            How many there are.
        """
        samples, draws = self.samples, self.target_draws
        if samples is None:
            # Of the policy at each, before the first step included, and once of the base.
            times = steps // self.every + 2 + len(self.early)
            share = max(1, int(SHARE_OF_EVALUATIONS * drawn / times))
            power = 2 ** (share.bit_length() - 1)
            shown = [2 * max(self.coverage_at)] if self.coverage and self.coverage_at else []
            least = max(LEAST_EVALUATED, self.texts, 2 * (self.group or 0), *shown)
            samples = max(least, min(MOST_EVALUATED, power))
        if draws is None and self.target_samples is None:
            draws = max(LEAST_DRAWS, int(SHARE_OF_DRAWS * drawn))
        return replace(self, samples=samples, target_draws=draws)

    @property
    def sizes(self) -> Sizes:
        """The numbers of samples; of what is left open, the most that a run would take."""
        samples = MOST_EVALUATED if self.samples is None else self.samples
        wanted, draws = self.target_samples, self.target_draws
        return Sizes(
            samples,
            min(GROUP, samples // 2) if self.group is None else self.group,
            TARGET_SAMPLES if wanted is None else wanted,
            TARGET_DRAWS if draws is None else draws,
        )
