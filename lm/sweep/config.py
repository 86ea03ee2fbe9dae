"""What a sweep is told: sizes, tasks, methods, rates, variants, and blocks that combine them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lm.config.target import TargetConfig
from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require

DEFAULT = "default"
Descends = Literal["target", "penalised_reward", "reward"]


@dataclass(frozen=True)
class TeacherModel:
    """A model fine-tuned from the base of a run's size, whose distribution is the target."""

    female_share: float = 1.0
    """weight of the female names in what it is fine-tuned on"""
    steps: int = 300
    """optimiser steps of the fine-tuning"""
    learning_rate: float = 1e-3
    """peak of its learning rate"""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class PromiseConfig:
    """What must hold at the end of every run on a task."""

    halved: float | None = None
    """the descended divergence is at most half of its start, by so many standard errors"""
    moments: dict[str, float] = field(default_factory=dict)
    """exact expectations are within so much of the target's"""
    rates: tuple[str, ...] = ()
    """keys of the rates that it is promised for; by default all"""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class TaskConfig:
    """What a policy is to become, and how people would ask for it by a reward."""

    title: str
    """for tables and pictures"""
    group: str
    """kind of task; tasks of a group share their tuned learning rates"""
    target: TargetConfig | None = None
    """the distribution that every method is measured against"""
    teacher: TeacherModel | None = None
    """in place of a target: a model of the same family"""
    reward: dict[str, float] = field(default_factory=dict)
    """weights of features, for the methods that descend a reward"""
    beta: float = 0.1
    """price of a nat of KL(policy, base), for penalised_reward"""
    run: dict[str, Any] = field(default_factory=dict)
    """options of every run on this task, as a recipe nests them"""
    about: str = ""
    """a sentence for the page"""
    promises: PromiseConfig = field(default_factory=PromiseConfig)
    """what must hold at the end of every run; the exit code says whether it does"""

    def __post_init__(self) -> None:
        check_types(self)
        require(
            (self.target is None) != (self.teacher is None),
            f"task {self.title!r} needs either a target or a teacher",
        )
        positive("beta", self.beta)


@dataclass(frozen=True)
class MethodConfig:
    """What a run descends."""

    divergence: str
    """to which f-divergence"""
    descends: Descends = "target"
    """the task's target, its reward with a KL penalty, or its reward alone"""
    run: dict[str, Any] = field(default_factory=dict)
    """options of every run by this method"""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class RateConfig:
    """A learning rate: a number, or one that was chosen by an earlier sweep."""

    value: float | None = None
    """the same for all runs"""
    file: str | None = None
    """YAML file of chosen rates: group, method, size"""
    method: str | None = None
    """take the rate that was chosen for this method, whatever the run's own"""

    def __post_init__(self) -> None:
        check_types(self)
        require(
            (self.value is None) != (self.file is None),
            "a rate is either a value or a file of chosen rates",
        )
        if self.value is not None:
            positive("value", self.value)


@dataclass(frozen=True)
class BlockConfig:
    """Every combination of what it names."""

    tasks: tuple[str, ...]
    """keys of tasks"""
    methods: tuple[str, ...]
    """keys of methods"""
    sizes: tuple[str, ...]
    """keys of sizes"""
    rates: tuple[str, ...]
    """keys of rates"""
    seeds: tuple[int, ...]
    """one run each"""
    variants: tuple[str, ...] = (DEFAULT,)
    """keys of variants"""
    part: str = ""
    """of the sweep, that can be run without the others"""

    def __post_init__(self) -> None:
        check_types(self)
        require(
            0 < len(self.seeds) == len(set(self.seeds)),
            f"seeds is {list(self.seeds)}: name at least one, none twice",
        )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep over tasks, methods, sizes, learning rates, variants and seeds."""

    name: str
    """of the sweep, in its table"""
    output: str
    """folder of the finished runs' records"""
    table: str | None = None
    """Parquet file of every metric of every run, written at the end"""
    page: str | None = None
    """HTML page of tables and pictures, written at the end"""
    store: str | None = None
    """Markdown file of the tables, and of the machine that made them"""
    title: str = ""
    """heading of page and Markdown; by default the name"""
    about: tuple[str, ...] = ()
    """paragraphs under that heading"""
    texts: int = 0
    """so many texts of each run before training, and as many after it, are stored in the table"""
    keep: bool = False
    """keep the folder of every run, with its policy and report, beside the records"""
    workers: int = 2
    """processes, one thread each; the numbers do not depend on it"""
    run: dict[str, Any] = field(default_factory=dict)
    """options of all runs, as a recipe nests them"""
    sizes: dict[str, dict[str, Any]]
    """options of the base model of each size; or {model: NAME}, a model that is there already"""
    tasks: dict[str, TaskConfig]
    """what policies are to become"""
    methods: dict[str, MethodConfig]
    """what they descend"""
    rates: dict[str, RateConfig]
    """learning rates by name"""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """further options of a run by name; there is always one called default, which has none"""
    blocks: tuple[BlockConfig, ...]
    """which combinations are run"""
    parts: tuple[str, ...] = ()
    """run the blocks of these parts alone, by default all; what the table holds of others stays"""

    def __post_init__(self) -> None:
        check_types(self)
        at_least("workers", self.workers, 1)
        at_least("texts", self.texts, 0)
        for name in ("name", "output", "table", "page", "store"):
            require(getattr(self, name) != "", f"{name} is empty")
        require(len(self.blocks) > 0, "blocks is empty: a sweep runs what its blocks combine")
        for block in self.blocks:
            for kind in ("tasks", "methods", "sizes", "rates", "variants"):
                known = {**getattr(self, kind), **({DEFAULT: {}} if kind == "variants" else {})}
                for key in getattr(block, kind):
                    require(
                        key in known,
                        f"a block names {key!r}, but {kind} has only: {', '.join(known)}",
                    )
            for seed in block.seeds:
                at_least("seeds", seed, 0)

        for part in self.parts:
            known = dict.fromkeys(block.part for block in self.blocks if block.part)
            require(
                part in known,
                f"parts names {part!r}, but the blocks belong to: {', '.join(known) or 'no part'}",
            )
