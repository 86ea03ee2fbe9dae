"""What a self-check measures on a device: figures, each with the bound that it must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator

from fdpg_ref import DIVERGENCES
from lm.config import (
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    PartitionConfig,
    RunConfig,
    TargetConfig,
)
from lm.device.amp import AUTOCAST, Amp
from lm.models.folder import build_gpt2
from lm.models.vocabulary import CharVocabulary
from lm.policy.causal import CausalPolicy
from lm.policy.checks import same_law_tolerance
from lm.run.records import best, read_records
from lm.selfcheck.ladder import measure_ladder
from lm.selfcheck.oracle import (
    enumerable_policy,
    estimator_gradient,
    every_sequence,
    exact_gradient,
    oracle_problem,
    relative_error,
    sampling_z_scores,
)
from lm.train import StepRecord, train

STEPS, CHECKPOINT, INTERRUPTED_AFTER = 10, 5, 7


class Bound(NamedTuple):
    """A measured figure and what it must not exceed.

    Attributes
    ----------
    name
        What was measured.
    value
        The figure.
    largest
        The bound; its reason stands where it is set.
    """

    name: str
    value: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether the figure keeps the bound; NaN never does."""
        return self.value <= self.largest


class _Stop(Exception):
    """Ends a run from outside, as a signal or a crash would."""


Device = Literal["cpu", "cuda"]
# Figures with bounds, and more figures for the JSON file. Each trial gets the device and a folder
# that it shares with the trials before it.
Measurement = tuple[list[Bound], dict[str, Any]]


def try_probabilities(device: Device, _scratch: Path) -> Measurement:
    """Sum the probabilities of all sequences, and count samples against them."""
    policy, sequences = enumerable_policy(device=device), every_sequence(device)
    single = policy.trainable_copy()
    single.model.float()
    with torch.no_grad():
        wide = policy.log_prob(*sequences).exp().sum()
        narrow = single.log_prob(*sequences).double().exp().sum()
    samples = single.sample(1000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        gap = (samples.log_prob - single.log_prob(samples.tokens, samples.mask)).abs().double()
    allowed = same_law_tolerance("float32", samples.mask.sum(-1)).to(gap.device)
    scores = sampling_z_scores(oracle_problem(device=device), 20_000)
    return [
        # A hundred terms of rounding, with room.
        Bound("total probability less 1, float64", abs(float(wide) - 1), 1e-12),
        Bound("total probability less 1, float32", abs(float(narrow) - 1), 1e-5),
        Bound("sampler less scorer, over its tolerance", float((gap / allowed).max()), 1.0),
        # 121 counts: one exceeds five standard errors by chance once in 14,000 checks.
        Bound("counts of 20,000 samples, largest |z|", float(scores.abs().max()), 5.0),
    ], {}


def try_gradient(device: Device, _scratch: Path) -> Measurement:
    """Compare the expectation of the estimator with the gradient of the divergence, for each."""
    problem = oracle_problem(device=device)
    # Rounding of the whole forward and backward pass: float32 was seen at 7e-7; bfloat16, with 8
    # bits, at up to 9.3e-3 over five models on a CPU, and float16, with 11, at 7e-4.
    largest = {"float64": 1e-10, "float32": 5e-6, "bfloat16": 2e-2, "float16": 4e-3}
    exact = {name: exact_gradient(problem, name) for name in DIVERGENCES}
    errors = {
        precision: {
            name: relative_error(estimator_gradient(problem, name, precision), exact[name])
            for name in DIVERGENCES
        }
        for precision in AUTOCAST
    }
    bounds = [
        Bound(f"{precision}, worst of {len(found)}", max(found.values()), largest[precision])
        for precision, found in errors.items()
    ]
    return bounds, {"relative_errors": errors}


def try_ladder(device: Device, _scratch: Path) -> Measurement:
    """Climb the precision ladder on a model of the size of the project's own."""
    model = build_gpt2(vocabulary_size=64, positions=17, layers=2, width=64, heads=4, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wider than at birth, so that some tokens are likely and others rare.
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    policy = CausalPolicy(model, bos_id=0, eos_ids=(1,), pad_id=1, max_new_tokens=16)
    policy.scorer.to(device)
    ladder = measure_ladder(policy, n=32)

    # A sequence of 16 tokens; and an angle of 1 - cosine = x is one of sqrt(2 x) radians: 0.14 for
    # bfloat16, four times what this model shows on a CPU.
    nats = {"float32": 2e-4, "bfloat16": 1.6, "float16": 0.3}
    angle = {"float32": 1e-9, "bfloat16": 1e-2, "float16": 1e-3}

    # Three bounds per precision.
    bounds = []
    for rung in ladder.rungs[1:]:
        name = rung.precision
        worst = max((g.one_minus_cosine for g in rung.gradients.values()), default=float("nan"))
        bounds += [
            Bound(f"{name}: error of a sequence, nats", rung.sequence_error_max, nats[name]),
            Bound(f"{name}: sampler less scorer, nats", rung.sampler_scorer_max, nats[name]),
            Bound(f"{name}: gradient, 1 - cosine", worst, angle[name]),
        ]
    return bounds, {"ladder": ladder.record()}


def try_scaler(device: Device, _scratch: Path) -> Measurement:
    """Inject an overflow into float16: the step is to be skipped and the scale halved."""
    amp, accelerator = Amp("float16", device), Accelerator(cpu=device == "cpu")
    policy, sequences = enumerable_policy(device=device), every_sequence(device)
    policy.model.float()
    parameters = list(policy.model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    before, start = [p.detach().clone() for p in parameters], amp.scale

    def step(factor: float) -> bool:
        optimizer.zero_grad()
        with amp.autocast():
            loss = policy.log_prob(*sequences).mean()
        amp.backward(accelerator, loss * factor)
        amp.clip(accelerator, optimizer, parameters)
        return amp.step(optimizer)

    made = step(float("inf"))
    halved = amp.scale / start
    moves = [(p.detach() - old).abs().max() for p, old in zip(parameters, before, strict=True)]
    moved = float(torch.stack(moves).max())
    recovered = any(step(1.0) for _ in range(20))
    return [
        Bound("a step was taken on an overflow", float(made), 0.0),
        Bound("largest move of a weight then", moved, 0.0),
        Bound("scale over its half, less 1", abs(halved * 2 - 1), 0.0),
        Bound("no later step was taken", float(not recovered), 0.0),
    ], {"scale": {"start": start, "end": amp.scale}}


def try_training(device: Device, scratch: Path) -> Measurement:
    """Do ten steps of a real run, which must lower the divergence."""
    folder = train(_config(device, scratch, "whole"))
    return _descent(folder), {"steps": read_records(folder, "step")}


def try_resume(device: Device, scratch: Path) -> Measurement:
    """Interrupt the same run after seven steps and resume it from its fifth."""
    reached = 0

    def stop(step: StepRecord) -> None:
        nonlocal reached
        reached = step.step
        if step.step == INTERRUPTED_AFTER:
            raise _Stop

    config = _config(device, scratch, "resumed")
    with suppress(_Stop):
        train(config, on_step=stop)
    # What a resumed run says to its user belongs into the file, not between the lines of a check.
    with redirect_stderr(StringIO()) as said:
        folder = train(replace(config, resume=True))
    texts = [(path / "metrics.jsonl").read_bytes() for path in (scratch / "whole", folder)]
    steps = [read_records(path, "step") for path in (scratch / "whole", folder)]
    norms = [[record["gradient_norm"] for record in records] for records in steps]
    differs = max(abs(a / b - 1) for a, b in zip(*norms, strict=True))
    # One CPU process repeats every bit. A GPU adds in any order: its rounding grows over five
    # steps, and stays far below what another random number would do.
    bounds = [
        Bound("steps before the interruption, less 7", abs(reached - INTERRUPTED_AFTER), 0.0),
        Bound("gradient norms, largest relative difference", differs, 1e-2),
    ]
    if device == "cpu":
        bounds.append(Bound("metrics.jsonl differs", float(texts[0] != texts[1]), 0.0))
    return bounds, {"said": said.getvalue().strip()}


def try_precisions(device: Device, scratch: Path) -> Measurement:
    """Repeat the run in float64, under bfloat16 autocast, and in float16 with its scaler."""
    bounds, details = [], {}
    for precision in ("float64", "bfloat16", "float16"):
        folder = train(replace(_config(device, scratch, precision), precision=precision))
        found = _descent(folder)
        bounds += [bound._replace(name=f"{precision}: {bound.name}") for bound in found]
        details[precision] = read_records(folder, "step")
    return bounds, {"steps": details}


def _config(device: Device, scratch: Path, name: str) -> RunConfig:
    """Return a small run: a random model of letters learns to write shorter words."""
    model = scratch / "base"
    if not model.exists():
        model.mkdir()
        _letters().save(model)
    return RunConfig(
        name=name,
        output=str(scratch / name),
        model=str(model),
        divergence="jensen_shannon",
        target=TargetConfig(kind="reward_tilted", reward={"letters": -0.3}, beta=1.0),
        steps=STEPS,
        batch_size=64,
        partition=PartitionConfig(policy="frozen", samples=1000),
        optimizer=OptimizerConfig(lr=3e-3),
        evaluation=EvaluationConfig(every=STEPS, samples=512, group=64, texts=8),
        checkpoint=CheckpointConfig(every=CHECKPOINT),
        device=device,
    )


def _letters() -> CausalPolicy:
    """Return an untrained model of letters, one that often stops."""
    vocabulary = CharVocabulary()
    model = build_gpt2(
        vocabulary_size=len(vocabulary), positions=12, layers=2, width=32, heads=4, seed=0
    )
    return CausalPolicy(
        model,
        bos_id=vocabulary.bos_id,
        eos_ids=(vocabulary.eos_id,),
        pad_id=vocabulary.pad_id,
        max_new_tokens=12,
        letters=vocabulary.letters,
    )


def _descent(folder: Path) -> list[Bound]:
    """Say by how much a run fell short of lowering its divergence by five standard errors."""
    first, last = (best(r, "jensen_shannon") for r in read_records(folder, "evaluation"))
    error = (first[1] ** 2 + last[1] ** 2) ** 0.5
    return [Bound("divergence, now less then, over its error", (last[0] - first[0]) / error, -5.0)]


TRIALS: Mapping[str, Callable[[Device, Path], Measurement]] = {
    "sampler and scorer are one law": try_probabilities,
    "estimator against exact gradient": try_gradient,
    "precision ladder": try_ladder,
    "float16 scaler on an overflow": try_scaler,
    "ten training steps": try_training,
    "interrupted and resumed": try_resume,
    "training in other precisions": try_precisions,
}
