"""A plan before the work: what each phase of a run will take, from a short measurement.

A few texts are drawn, read, scored and differentiated, of two sizes, so that what a batch costs and
what a text costs are told apart. The random numbers are of a stream of their own and the gradients
are dropped, so that a run which was planned has the numbers of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from lm.config import RunConfig
from lm.device.amp import Amp
from lm.device.streams import PLAN, random_stream
from lm.errors import RunError, RunPlanned
from lm.evaluation.evidence import laws_at_once, prefix_sums
from lm.evaluation.expected_draws import Draws, expected_draws
from lm.phases import phase
from lm.policy.drawing import rows_in_memory
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.target.problem import Draft, Problem, draft_problem, fit_problem
from lm.training.setup import adopt_base, build_policy, load_base

# A shorter run is not planned unless that is asked for, and nothing more is measured for it.
SHORT_SECONDS = 20.0
# What the measurement may take: of the run that it foresees, and in all.
SHARE, MOST_SECONDS = 0.02, 30.0
# Texts of each measurement; each is made if it is expected to fit into what is left.
WARM_UP, SIZES = 2, (4, 16, 64, 256)
# How often Adam passes over weights, gradients and its two moments, to one pass over gradients.
PASSES = 4
BYTES = 4


class Cost(NamedTuple):
    """Seconds of a call on n texts: ``fixed + each * n``."""

    fixed: float
    each: float

    def of(self, n: float, *, at_once: float = math.inf) -> float:
        """Return the seconds of n texts, in calls of at most so many."""
        return 0.0 if n <= 0 else self.fixed * max(1, math.ceil(n / at_once)) + self.each * n


class Line(NamedTuple):
    """One phase of a plan.

    Attributes
    ----------
    name
        Of the phase.
    samples
        How many texts, in words.
    seconds, memory
        Estimates; memory is that of the process at its peak, in bytes.
    keys
        What to change in the recipe.
    """

    name: str
    samples: str
    seconds: float
    memory: float
    keys: str


class Plan(NamedTuple):
    """What a run will take.

    Attributes
    ----------
    lines
        Its phases, in order.
    sampled, trained
        Tokens per second: drawn from the base, and in a step as a whole.
    """

    lines: tuple[Line, ...]
    sampled: float
    trained: float

    @property
    def seconds(self) -> float:
        """Of all phases together."""
        return sum(line.seconds for line in self.lines)


class _Measured(NamedTuple):
    """Costs by what is done, the mean length of a text, and what a text keeps in memory.

    ``draws`` is what Z and the samples of p are likely to take; None where only caps are known.
    """

    costs: Mapping[str, Cost]
    length: float
    saved_bytes: float
    optimizer_seconds: float
    draws: Draws | None = None


def plan_run(
    config: RunConfig, draft: Draft, policy: Policy, amp: Amp, *, always: bool = False
) -> Plan | None:
    """Measure for a moment, and say what a run will take.

    Parameters
    ----------
    config
        A resolved configuration, of a run in one process.
    draft
        Its problem, before anything is drawn.
    policy
        To be trained. It is left as it is.
    amp
        Of the run.
    always
        Whether a run of some seconds is planned as well.

    Returns
    -------
    Plan or None
        None for a run that is over before anybody has read a plan.
    """
    with phase("measuring how fast the model is"), amp.autocast():
        probe = _Probe(config, draft, policy)
        started, seen = time.perf_counter(), {}
        first = probe.of(WARM_UP)  # of no use but for its size: libraries warm up in it
        for size in SIZES:
            known = seen or {WARM_UP: first}
            expected = _plan(config, draft, policy, probe.summary(known)).seconds
            if not always and len(seen) > 0 and expected < SHORT_SECONDS:
                return None

            budget = min(MOST_SECONDS, max(SHARE * expected, 1.0))
            took = time.perf_counter() - started + _next_seconds(known, size)
            # Of two sizes at least, but for a model so slow that even these take too long.
            if took > (budget if len(seen) > 1 else MOST_SECONDS):
                break

            seen[size] = probe.of(size)
            if size >= config.batch_size:
                break
    return _plan(config, draft, policy, probe.summary(seen or {WARM_UP: first}))


def fit_after_plan(
    config: RunConfig,
    base: Policy,
    policy: Policy,
    amp: Amp,
    on_plan: Callable[[Plan], None] | None,
) -> Problem:
    """Return the fitted problem of a run, having said before what the run will take.

    Parameters
    ----------
    config, base, policy, amp
        Of the run.
    on_plan
        Whom to tell, if the run takes more than some seconds; without it nothing is measured.
    """
    draft = draft_problem(config, base)
    plan = plan_run(config, draft, policy, amp) if on_plan else None
    if on_plan and plan is not None:
        on_plan(plan)
    return fit_problem(config, draft)


def planned(config: RunConfig, base: Policy | None, accelerator: Accelerator) -> RunPlanned:
    """Return what ends a run that is only to be planned; nothing is written.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        As in `lm.train.train`.
    accelerator
        Of the run.

    Raises
    ------
    RunError
        There are several processes.
    """
    if accelerator.num_processes > 1:
        raise RunError(
            f"plan measures one process, but there are {accelerator.num_processes}: start it "
            "without the launcher, with batch_size divided by their number"
        )
    device = str(accelerator.device)
    base = (
        load_base(config, device=device)
        if base is None
        else adopt_base(config, base, device=device)
    )
    policy, base = build_policy(config, base)
    amp = Amp(config.precision, device)
    with amp.autocast():
        draft = draft_problem(config, base)
    return RunPlanned(plan_run(config, draft, policy, amp, always=True))


class _Probe:
    """Does what a run does, on a few texts."""

    def __init__(self, config: RunConfig, draft: Draft, policy: Policy) -> None:
        self._config, self._draft, self._policy = config, draft, policy
        self._generator = random_stream(config.seed, PLAN)
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self._saved = self._tokens = self._texts = 0
        self._optimizer = 0.0
        self._draws: Draws | None = None

    def of(self, n: int) -> dict[str, float]:
        """Return the seconds of everything that is done to texts, on n of them."""
        base, policy, found = self._draft.base, self._policy, dict[str, float]()
        samples = _timed(found, "sample", lambda: self._drawn(n))
        reading = _timed(found, "read", lambda: self._draft.reader.read(samples))
        with torch.no_grad():
            _ = _timed(found, "score", lambda: base.score(samples))
            _ = _timed(found, "laws", lambda: prefix_sums(policy, base, samples))
        _timed(found, "differentiate", lambda: self._differentiate(samples))
        self._tokens, self._texts = self._tokens + int(samples.mask.sum()), self._texts + n
        # Of the last texts, which are the most.
        self._draws = expected_draws(self._config, self._draft, samples, reading)
        return found

    def summary(self, seen: Mapping[int, Mapping[str, float]]) -> _Measured:
        """Return what was learnt, from the two largest sizes."""
        sizes = sorted(seen)[-2:]
        names = seen[sizes[-1]].keys()
        costs = {name: _line({n: seen[n][name] for n in sizes}) for name in names}
        length = self._tokens / self._texts
        return _Measured(costs, length, self._saved, self._optimizer, self._draws)

    def _drawn(self, n: int) -> Samples:
        prompts = self._draft.prompts
        if prompts is None:
            return self._draft.base.sample(n, generator=self._generator)
        places = torch.linspace(0, len(prompts.tokens) - 1, n).long()
        return self._draft.base.sample(1, generator=self._generator, prompts=prompts.rows(places))

    def _differentiate(self, samples: Samples) -> None:
        held: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in self._policy.model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            log_policy = self._policy.score(samples)
        log_policy.mean().backward()
        self._saved = sum(held.values()) // len(samples.tokens)
        started = time.perf_counter()
        for parameter in self._parameters:
            if parameter.grad is not None:
                _ = parameter.grad.mul_(1.0)
        self._optimizer = PASSES * (time.perf_counter() - started)
        for parameter in self._parameters:
            parameter.grad = None


def _timed(found: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    found[name] = time.perf_counter() - started
    return result


def _next_seconds(known: Mapping[int, Mapping[str, float]], size: int) -> float:
    """Return what the next size is likely to take."""
    totals = {n: sum(seconds.values()) for n, seconds in known.items()}
    if len(totals) > 1:
        return _line({n: totals[n] for n in sorted(totals)[-2:]}).of(size)
    # Of a few texts most of the time is the weights', which more texts share.
    largest = max(totals)
    return totals[largest] * (1 + size / largest) / 2


def _line(seconds: Mapping[int, float]) -> Cost:
    """Return the line through two measurements, or through the only one and zero."""
    (small, before), (large, after) = min(seconds.items()), max(seconds.items())
    if small == large:
        return Cost(0.0, after / large)
    # Noise must not make a text cost less than nothing, nor a batch.
    each = min(max((after - before) / (large - small), 0.1 * after / large), after / large)
    return Cost(after - each * large, each)


def _plan(config: RunConfig, draft: Draft, policy: Policy, measured: _Measured) -> Plan:
    cost, evaluation = measured.costs, config.evaluation.sizes
    base, prompt = draft.base, 1 if draft.prompts is None else draft.prompts.tokens.shape[1]
    rows, now = rows_in_memory(base, prompt), _memory_now()
    a_row = BYTES * base.numbers_per_row(prompt)

    def drawing(n: float) -> float:
        return cost["sample"].of(n, at_once=rows) + cost["read"].of(n)

    # Z, by precision or by number.
    lines, draws = [], measured.draws
    if len(draft.wanted) > 0:
        total = config.partition.at_most if draws is None else draws.for_z
        by = "partition.samples" if config.partition.samples else "partition.error, partition.most"
        words = f"{total:,}" if config.partition.samples else _in_words(total, draws)
        memory = now + a_row * min(rows, total)
        lines.append(Line("Z", words, drawing(total), memory, by))

    # Samples of the target, unless its bounds are such that it accepts none.
    wanted = 0 if draws is not None and draws.for_p == 0 else evaluation.target_samples
    if wanted > 0:
        drawn = evaluation.target_draws if draws is None else draws.for_p
        words = _in_words(drawn, draws)
        if config.target.kind == "teacher":
            drawn, words = wanted, f"{wanted:,}"
        memory = now + a_row * min(rows, drawn)
        seconds = drawing(drawn) + cost["score"].of(wanted, at_once=rows)
        keys = "evaluation.target_samples, evaluation.target_draws"
        lines.append(Line("samples of p", words, seconds, memory, keys))

    # The steps.
    step = _step(config, measured)
    micro = config.micro_batch_size or config.batch_size
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    law = BYTES * measured.length * policy.vocabulary_size
    memory = now + 3 * BYTES * trained + micro * (measured.saved_bytes + law)
    words = f"{config.steps} x {config.batch_size}"
    keys = "steps, batch_size, micro_batch_size"
    lines.append(Line("steps", words, config.steps * step, memory, keys))

    # The evaluations, and the base samples that serve all of them.
    times = sum(config.evaluation.is_due(step, config.steps) for step in range(config.steps + 1))
    n, listed = evaluation.samples, 0 if draft.listing is None else len(draft.reader.known)
    block = laws_at_once(round(measured.length), base.vocabulary_size)
    looked_at = n + listed + wanted
    one = drawing(n) + cost["laws"].of(n, at_once=block) + cost["score"].of(looked_at, at_once=rows)
    memory = now + max(a_row * min(rows, n), 6 * law * min(block, n))
    words, keys = f"{times} x {n:,}", "evaluation.every, evaluation.samples"
    lines.append(Line("evaluations", words, drawing(n) + times * one, memory, keys))

    # Sample texts along the run, if any are shown.
    every, number = config.evaluation.texts_every, config.evaluation.texts_shown
    if every is not None:
        shown = sum(config.evaluation.shows(step, config.steps) for step in range(config.steps + 1))
        keys = "evaluation.texts_every, evaluation.texts_shown"
        seconds, memory = shown * drawing(number), now + a_row * min(rows, number)
        lines.append(Line("sample texts", f"{shown} x {number:,}", seconds, memory, keys))

    speed = measured.length / max(cost["sample"].of(config.batch_size) / config.batch_size, 1e-9)
    return Plan(tuple(lines), speed, measured.length * config.batch_size / max(step, 1e-9))


def _in_words(samples: int, draws: Draws | None) -> str:
    return f"at most {samples:,}" if draws is None else f"about {samples:,}"


def _step(config: RunConfig, measured: _Measured) -> float:
    """Return the seconds of one step."""
    cost, n = measured.costs, config.batch_size
    micro = config.micro_batch_size or n
    # In several micro-batches, a batch is scored before it is differentiated.
    twice = cost["score"].of(n, at_once=micro) if micro < n else 0.0
    anchor = 0.0 if config.target.kind == "reward" else cost["score"].of(n, at_once=micro)
    update = cost["differentiate"].of(n, at_once=micro) + twice + measured.optimizer_seconds
    drawn = cost["sample"].of(n) + cost["read"].of(n)
    return drawn + anchor + config.updates_per_batch * update


def _memory_now() -> float:
    """Return what the process holds, in bytes: of the GPU if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated() > 0:
        return float(torch.cuda.memory_allocated())
    status = Path("/proc/self/statm")
    if not status.exists():
        return math.nan
    return float(status.read_text(encoding="ascii").split()[1]) * 4096
