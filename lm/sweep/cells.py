"""From a sweep to its cells: which runs there are, each with its whole configuration."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import RunConfig, resolve
from lm.config.base import BaseConfig
from lm.config.options import build_config, to_plain
from lm.config.parts import EvaluationConfig, PartitionConfig, PromptsConfig
from lm.config.recipes import read_yaml
from lm.config.target import TargetConfig
from lm.errors import UsageError, reason_of
from lm.run.inputs import input_digests
from lm.sweep.config import MethodConfig, RateConfig, SweepConfig, TaskConfig

# Where a run is written and what it is called change no number of it.
NOT_THE_RUN = ("name", "output", "overwrite", "resume", "plan")
# Options that came after sweeps were run, each at the value that leaves a run what it was: so the
# runs that are stored keep their names.
LATER: dict[str, Any] = {
    "partition.error": PartitionConfig.error,
    "partition.most": None,
    "prompts.text": None,
    "prompts.column": PromptsConfig.column,
    "prompts.split": PromptsConfig.split,
    "evaluation.texts_every": None,
    "evaluation.texts_shown": EvaluationConfig.texts_shown,
    "prompts.held_out": 0,
}


class Labels(NamedTuple):
    """The place of a cell in its sweep."""

    task: str
    method: str
    size: str
    rate: str
    variant: str
    seed: int


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Parameters
    ----------
    labels
        Its place.
    config
        Its resolved configuration.
    bases
        What must be trained before it: its base and, fine-tuned from that, its teacher.
    inputs
        What is in the files that the run reads, by path.
    """

    labels: Labels
    config: RunConfig
    bases: tuple[BaseConfig, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def run(self) -> str:
        """16 hexadecimal digits that are the same for two cells exactly if their runs are."""
        plain = to_plain(self.config)
        content = {name: value for name, value in plain.items() if name not in NOT_THE_RUN}
        for key, usual in LATER.items():
            group, _, name = key.rpartition(".")
            held = content[group] if group else content
            if held[name] == usual:
                del held[name]
        if self.inputs:
            content["inputs"] = self.inputs
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people read."""
        return " ".join(map(str, self.labels))


def expand(sweep: SweepConfig) -> list[Cell]:
    """Return every cell of a sweep's chosen parts, blocks in order, seeds outermost within a block.

    Parameters
    ----------
    sweep
        A valid sweep.

    Returns
    -------
    list of Cell
        Without repetitions.

    Raises
    ------
    UsageError
        A combination means nothing (the cell and the reason are named), or a rate was not chosen.
    """
    cells: dict[Labels, Cell] = {}
    template = cache(partial(_template, sweep))
    for labels in _labels(sweep):
        if labels not in cells:
            try:
                cells[labels] = _cell(sweep, labels, template)
            except (ValueError, OSError) as error:
                raise UsageError(f"cell {' '.join(map(str, labels))}: {error}") from error
    return list(cells.values())


def runs_now(sweep: SweepConfig, names: Collection[str]) -> dict[str, str | None]:
    """Return which runs a sweep's cells are by its present description, whatever their part.

    Parameters
    ----------
    sweep
        A valid sweep.
    names
        Of cells.

    Returns
    -------
    dict
        The run of each of these cells that the sweep has; None where that cannot be told here,
        since what it needs is missing, such as a model.
    """
    found: dict[str, str | None] = {}
    template = cache(partial(_template, sweep))
    for labels in _labels(replace(sweep, parts=())):
        name = " ".join(map(str, labels))
        if name in names and name not in found:
            try:
                found[name] = _cell(sweep, labels, template).run
            except (ValueError, OSError):
                found[name] = None
    return found


def _labels(sweep: SweepConfig) -> Iterator[Labels]:
    for block in sweep.blocks:
        if sweep.parts and block.part not in sweep.parts:
            continue
        for seed, size, task, method, rate, variant in itertools.product(
            block.seeds, block.sizes, block.tasks, block.methods, block.rates, block.variants
        ):
            yield Labels(task, method, size, rate, variant, seed)


def _cell(sweep: SweepConfig, labels: Labels, template: Callable[..., Any]) -> Cell:
    config, bases = template(labels.task, labels.method, labels.size, labels.variant)
    rate = _rate(sweep.rates[labels.rate], sweep.tasks[labels.task].group, labels)
    config = replace(
        config,
        name="-".join(map(str, labels)).replace("=", ""),
        seed=labels.seed,
        optimizer=replace(config.optimizer, lr=rate),
    )
    inputs = input_digests(config, known=[str(base.folder()) for base in bases])
    return Cell(labels, resolve(config), bases, inputs)


def _template(
    sweep: SweepConfig, task_key: str, method_key: str, size: str, variant: str
) -> tuple[RunConfig, tuple[BaseConfig, ...]]:
    """Return a run but for its seed and rate, and the models that it needs."""
    task, method = sweep.tasks[task_key], sweep.methods[method_key]
    sizes = dict(sweep.sizes[size])
    model = {"model": sizes.pop("model")} if "model" in sizes else {}
    base = build_config(BaseConfig, sizes)
    bases, target = (base,), task.target
    if task.teacher is not None:
        fine_tuned = {**sizes, **asdict(task.teacher), "initial": str(base.folder())}
        teacher = build_config(BaseConfig, fine_tuned)
        bases, target = (base, teacher), TargetConfig(kind="teacher", teacher=str(teacher.folder()))
    assert target is not None  # one of the two is given

    parts = (
        sweep.run,
        {"base": to_plain(base), **model},
        {"divergence": method.divergence, "device": "cpu", "report": False},
        _descended(task, method, target),
        task.run,
        method.run,
        sweep.variants.get(variant, {}),
    )
    config = build_config(RunConfig, merged(*parts))
    if config.model is None:
        return config, bases
    if task.teacher is not None:
        raise ValueError(
            f"the teacher is fine-tuned from a base of names, but the run starts from the model "
            f"{config.model}: give the task a target, or leave the model out"
        )
    return config, ()


def _descended(task: TaskConfig, method: MethodConfig, target: TargetConfig) -> dict[str, Any]:
    if method.descends == "target":
        return {"target": to_plain(target)}
    if not task.reward:
        raise ValueError(f"the method descends a {method.descends}, but the task has no reward")
    if method.descends == "reward":
        wanted = TargetConfig(kind="reward", reward=task.reward)
    else:
        wanted = TargetConfig(kind="reward_tilted", reward=task.reward, beta=task.beta)
    return {"target": to_plain(wanted), "measure": to_plain(target)}


def _rate(rate: RateConfig, group: str, labels: Labels) -> float:
    if rate.value is not None:
        return rate.value
    chosen = _chosen_rates(Path(rate.file or ""))
    keys = (group, rate.method or labels.method, labels.size)
    found: Any = chosen
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            raise ValueError(f"{rate.file} has no rate for {' / '.join(keys)}: choose it first")
        found = found[key]
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 < found <= sys.float_info.max:
        raise ValueError(
            f"{rate.file} has {found!r:.60} for {' / '.join(keys)}: a rate is a number above 0"
        )
    return float(found)


@cache
def _chosen_rates(path: Path) -> Mapping[str, Any]:
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a file of chosen rates: {reason_of(error)}") from error


def short_names(cells: Sequence[Cell]) -> dict[str, str]:
    """Return a name for each run, which leaves out what is the same in all of them."""
    varying = [kind for kind in ("size", "rate", "variant") if len(_values(cells, kind)) > 1]
    names = {}
    for cell in cells:
        place = cell.labels
        words = [place.task, place.method, *(getattr(place, kind) for kind in varying)]
        names.setdefault(cell.run, "-".join([*words, f"seed{place.seed}"]))
    return names


def _values(cells: Sequence[Cell], kind: str) -> set[str]:
    return {getattr(cell.labels, kind) for cell in cells}


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options put together; of two values for one key the later one counts."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            before = result.get(key)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                result[key] = merged(before, value)
            else:
                result[key] = value
    return result
