"""The judges of numbers and plumbing: extremes, precision, padding, accumulation, two instances."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdpg_ref import (
    FORWARD_KL,
    REVERSE_KL,
    InfiniteDivergence,
    exact_divergence,
    log_softmax,
    logsumexp,
)
from toy.museum.judges.enumeration import short
from toy.museum.records import Measurement, Oracle
from toy.verify.records import ROUNDING

Function = Callable[..., Any]

# The largest error of the core's float32 generators is 6 ulp (spec of its kernels).
_ULPS = 6 * float(np.finfo(np.float32).eps)
# Half a dozen float32 roundings of log-probabilities that reach 20 nats: 6 * 20 * 2^-24.
_FLOAT32_NATS = 1e-5


def _finite_gradients(function: Function) -> Measurement:
    bad, entries, values = 0, 0, 0
    for row in _extreme_logits():
        logits = row.clone().requires_grad_()
        value = function(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        bad += int(torch.sum(~torch.isfinite(gradient)))
        values += int(not torch.isfinite(value))
        entries += logits.numel()
    text = f"{bad} of {entries} gradient entries and {values} values NaN or infinite"
    return Measurement(float(bad + values), 0.0, text)


def _matches_float64(function: Function) -> Measurement:
    size = np.logspace(-6, 0, 200, dtype=np.float32)
    log_ratio = np.concatenate([-size, size])
    value = function(log_ratio).astype(np.float64)
    truth = FORWARD_KL.generator(-log_ratio.astype(np.float64))
    error = float(np.max(np.abs(value - truth) / truth))
    negative, zero = int(np.sum(value < 0)), int(np.sum(value == 0))
    text = (
        f"relative error up to {short(error)}; {negative} of {len(value)} negative, {zero} zero "
        "(all are positive)"
    )
    return Measurement(error, _ULPS, text)


def _precision_ladder(function: Function) -> Measurement:
    generator = torch.Generator().manual_seed(29)
    logits = (4 * torch.randn(64, 512, generator=generator)).to(torch.bfloat16)
    truth = torch.log_softmax(logits.to(torch.float64), dim=-1)
    error = float(torch.max(torch.abs(function(logits).to(torch.float64) - truth)))
    return Measurement(error, _FLOAT32_NATS, f"off by up to {error:.2g} nats per token")


def _survives_shifts(function: Function) -> Measurement:
    offsets = np.linspace(-2.0, 2.0, 9)
    worst, broken = 0.0, []
    for shift in (0.0, 6.0, 12.0, 24.0, 100.0):
        log_weights = offsets + shift
        value = float(function(torch.tensor(log_weights, dtype=torch.float32)))
        truth = float(logsumexp(log_weights) - np.log(len(log_weights)))
        if not np.isfinite(value):
            broken.append(shift)
        worst = np.fmax(worst, abs(value - truth))
    if broken:
        text = f"log Z infinite from {broken[0]:.0f} nats on"
        return Measurement(np.inf, _FLOAT32_NATS, text)
    return Measurement(float(worst), _FLOAT32_NATS, f"log Z off by up to {worst:.1e} nats")


def _recovers_from_holes(function: Function) -> Measurement:
    clean, state = np.log(np.array([0.5, 0.3, 0.2])), 0.0
    hole = np.array([np.log(0.7), np.log(0.3), -np.inf])
    refused, broken = False, 0
    for log_target in (clean, hole, clean[::-1], clean):
        try:
            coefficients, state = function(state, clean, log_target)
        except InfiniteDivergence:
            refused = True
            continue
        if log_target is not hole:
            broken += int(np.sum(~np.isfinite(coefficients)))
    refusal = "the sample of mass zero refused by name" if refused else "nothing refused"
    text = f"{refusal}; {broken} of 9 coefficients of the clean batches not finite"
    return Measurement(float(broken), 0.0, text)


def _step_zero(function: Function) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(32)
        layers = nn.Embedding(5, 16), nn.Linear(16, 16), nn.Dropout(0.1), nn.Linear(16, 4)
        policy = nn.Sequential(*layers).to(torch.float64)
        with torch.no_grad():
            log_policy, log_reference = function(policy, copy.deepcopy(policy), torch.arange(5))
    kl = exact_divergence(log_policy, log_reference, divergence=REVERSE_KL)
    worst = float(torch.max(kl))
    return Measurement(worst, ROUNDING, f"KL(pi‖ref) = {worst:.2g} nats before the first step")


def _teacher_is_stationary(function: Function) -> Measurement:
    rng = np.random.default_rng(33)
    gradients, values = [], []
    for _ in range(20):
        log_teacher = torch.from_numpy(log_softmax(1.5 * rng.normal(size=6)))
        logits = log_teacher.clone().requires_grad_()
        at_teacher = function(torch.log_softmax(logits, dim=-1), log_teacher)
        gradients.append(float(torch.linalg.norm(torch.autograd.grad(at_teacher, logits)[0])))
        # A policy sharper than the teacher has more mass on the teacher's top than the teacher.
        elsewhere = torch.log_softmax(2 * log_teacher, dim=-1)
        values.append(float(function(elsewhere, log_teacher)))
    worst, least = float(np.max(gradients)), float(np.min(values))
    text = f"gradient norm {worst:.2g} at pi = teacher, least value {least:.3g} nats"
    return Measurement(max(worst, -least), ROUNDING, text)


def _continuous_at_the_ends(function: Function) -> Measurement:
    rng = np.random.default_rng(34)
    ratios = []
    for _ in range(5):
        logits, target = (torch.from_numpy(log_softmax(rng.normal(size=4))) for _ in range(2))
        for end, near in ((0.0, 1e-3), (1.0, 1 - 1e-3)):
            at_end, inside = (_logit_gradient(function, logits, target, w) for w in (end, near))
            ratios.append(inside / at_end)
    least = float(np.min(ratios))
    text = f"gradient norm at 0.001 from an end is {least:.3g} of the end's"
    # The divergence is continuous: a thousandth of the way may not halve the gradient.
    return Measurement(1 - least, 0.5, text)


def _accumulates(function: Function) -> Measurement:
    values, mask = _masked_values()
    whole = float(function(values, mask, len(values)))
    errors = [abs(float(function(values, mask, rows)) / whole - 1) for rows in (1, 2, 3)]
    worst = float(np.max(errors))
    return Measurement(worst, ROUNDING, f"splitting the batch changes the loss by {short(worst)}")


def _ignores_padding(function: Function) -> Measurement:
    values, mask = _masked_values()
    bare = float(function(values, mask))
    errors = []
    for columns in (1, 4):
        padding = torch.full((len(values), columns), 7.0, dtype=values.dtype)
        padded = torch.cat([values, padding], dim=-1)
        kept = torch.cat([mask, torch.zeros_like(padding, dtype=torch.bool)], dim=-1)
        errors.append(abs(float(function(padded, kept)) / bare - 1))
    worst = float(np.max(errors))
    return Measurement(worst, ROUNDING, f"more padding changes the loss by {short(worst)}")


def _reads_the_text_alone(function: Function) -> Measurement:
    generator = torch.Generator().manual_seed(44)
    draw = {"generator": generator, "dtype": torch.float64}
    words, places = torch.randn(5, 8, **draw), torch.randn(12, 8, **draw)
    text = torch.tensor([[3, 1, 4, 2]])
    bare = function(words, places, text, torch.ones_like(text))
    errors = []
    for columns in (1, 4):
        padding = torch.zeros(1, columns, dtype=torch.int64)
        mask = torch.cat([padding, torch.ones_like(text)], dim=-1)
        found = function(words, places, torch.cat([padding, text], dim=-1), mask)
        errors.append(float(torch.max(torch.abs(found[:, columns:] - bare))))
    worst = float(np.max(errors))
    text_of = f"padding on the left changes log-probabilities by up to {worst:.2g} nats"
    return Measurement(worst, ROUNDING, text_of)


def _instances_are_independent(function: Function) -> Measurement:
    sampler = function()
    before = sampler().options["temperature"]
    _ = sampler(temperature=0.5)
    after = sampler().options["temperature"]
    text = f"default temperature {before:g} before and {after:g} after another run chose 0.5"
    return Measurement(abs(after - before), 0.0, text)


# f(logits) -> scalar: finite values must have finite gradients, masked outcomes included.
FINITE_GRADIENTS = Oracle("extremes: finite value, finite gradient", _finite_gradients)
# f(log_ratio) -> k3 in float32, against float64.
MATCHES_FLOAT64 = Oracle("float32 against float64 near zero", _matches_float64)
# f(bfloat16 logits) -> log-probabilities, against float64.
PRECISION_LADDER = Oracle("precision ladder: bf16 to float64", _precision_ladder)
# f(log_weights) -> log of their mean, shifted by up to 100 nats.
SURVIVES_SHIFTS = Oracle("extremes: log Z under shifts", _survives_shifts)
# f(state, log_policy, log_target) -> coefficients, state; one batch has p(x) = 0.
RECOVERS_FROM_HOLES = Oracle("support check: atoms of mass zero", _recovers_from_holes)
# f(policy, reference, inputs) -> their log-probabilities; the two are copies.
STEP_ZERO = Oracle("step 0: KL(pi‖ref) = 0", _step_zero)
# f(log_policy, log_teacher) -> scalar.
TEACHER_IS_STATIONARY = Oracle("gradient and sign at pi = teacher", _teacher_is_stationary)
# f(log_policy, log_target, weight) -> scalar.
CONTINUOUS_AT_THE_ENDS = Oracle("continuity of the gradient in the weight", _continuous_at_the_ends)
# f(values, mask, rows) -> scalar, in micro-batches of so many rows.
ACCUMULATES = Oracle("accumulation invariance", _accumulates)
# f(values, mask) -> scalar.
IGNORES_PADDING = Oracle("padding invariance", _ignores_padding)
# f(words (v, d), places (T, d), tokens (n, T), mask (n, T)) -> log-probabilities of next tokens.
READS_THE_TEXT_ALONE = Oracle("padding on the left", _reads_the_text_alone)
# f() -> a class whose instances take options.
INSTANCES_ARE_INDEPENDENT = Oracle("two instances", _instances_are_independent)


def _extreme_logits() -> Iterator[Tensor]:
    inf = float("inf")
    rows = [
        [0.0, 0.0, 0.0, 0.0],
        [1000.0, -1000.0, 0.0, 1.0],
        [1.0, 2.0, -inf, 0.5],
        [-inf, -inf, 0.0, -3.0],
        [-inf, 0.0, -inf, -inf],
    ]
    yield from torch.tensor(rows, dtype=torch.float64)


def _masked_values() -> tuple[Tensor, Tensor]:
    """Return per-token losses of six rows of unequal lengths."""
    generator = torch.Generator().manual_seed(18)
    values = 1 + torch.rand(6, 5, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([1, 5, 2, 4, 3, 1])
    return values, torch.arange(5) < lengths[:, None]


def _logit_gradient(function: Function, logits: Tensor, target: Tensor, weight: float) -> float:
    leaf = logits.clone().requires_grad_()
    value = function(torch.log_softmax(leaf, dim=-1), target, weight)
    return float(torch.linalg.norm(torch.autograd.grad(value, leaf)[0]))
