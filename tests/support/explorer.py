"""What the explorer computes at a random state, and what fdpg_ref and toy say it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdpg_ref import (
    DIVERGENCES,
    batch_mean,
    exact_divergence,
    find_divergence,
    leave_one_out,
    score_coefficients,
    score_signal,
)
from toy.audit.losses import absolute, k1, k2, k3
from toy.categorical import score_matrix
from toy.exact import batch_moments, estimator_moments, exact_gradient
from toy.families import GaussianFamily
from toy.measurement.exact import median_report, quality
from toy.measurement.ways import WAYS
from toy.measurement.worlds import dropping

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "docs" / "explorer" / "parts"
PAGE = PARTS.parent / "index.html"

# Both sides work in float64, with sums of at most some hundred terms. The quantities compared are
# differences of numbers up to e^10 times as large, which leaves 1e-16 * 2e4 * 100 = 2e-10.
TOLERANCE = 1e-9


def clipped(log_policy: torch.Tensor, log_reference: torch.Tensor) -> torch.Tensor:
    """Return k1, cut off at 1."""
    return torch.clamp(log_policy - log_reference, -1.0, 1.0)


BASELINES = {"none": None, "leave_one_out": leave_one_out, "batch": batch_mean}
PENALTIES = {"k1": k1, "k2": k2, "k3": k3, "abs": absolute, "clip": clipped}
FAMILY = GaussianFamily(np.linspace(-6.0, 6.0, 61))

# Everything that the page shows at a state, by the functions that the page calls.
PROBE = """(state) => {
  const { policy, target, old, name, error, counts, kind, n } = state;
  const signal = Numbers.signals(name, policy, target, error);
  const moments = Numbers.batchMoments(policy, signal, kind, n);
  const humps = Numbers.twoHumps(state.distance, state.share);
  const { truth, mean, deviation, error: standard, coverage, typical } =
    Numbers.measurement(state.samples, state.dropped, state.trace, state.from);
  const penalty = Penalties.parse(Penalties.NAMED[state.penalty].text);
  return {
    value: [Numbers.divergence(name, policy, target)],
    signal,
    gradient: Numbers.gradient(name, policy, target, error),
    batch: Numbers.batchGradient(counts, policy, signal, kind),
    mean: moments.mean,
    noise: [Numbers.noisePerGradient(moments, signal)],
    humps: [Numbers.divergence(name, Numbers.gaussian(state.theta), humps)],
    slope: Numbers.gaussianGradient(name, state.theta, humps),
    measured: [truth, mean, deviation, standard, coverage],
    typical: [typical.value, typical.error],
    penalty: Penalties.penaltyGradient(penalty, state.use, policy, target, old),
  };
}"""


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return a state of every tab that a reader could reach."""

    def triangle() -> list[float]:
        probs = np.maximum(rng.dirichlet(np.full(3, 0.8)), 0.004)
        return np.log(probs / probs.sum()).tolist()

    alpha = f"alpha_{rng.integers(0, 21) / 20:g}"
    n = int(rng.integers(1, 20))
    policy = triangle()
    return {
        "policy": policy,
        "target": triangle(),
        "old": triangle(),
        "name": str(rng.choice([*DIVERGENCES, alpha])),
        "error": float(rng.uniform(-3, 3)),
        "counts": rng.multinomial(n, np.exp(policy)).tolist(),
        # A single sample has no others to be compared with.
        "kind": str(rng.choice(list(BASELINES))) if n > 1 else "none",
        "n": n,
        "theta": [float(rng.uniform(-4.4, 4.4)), float(rng.uniform(np.log(0.36), np.log(4.9)))],
        "distance": float(rng.uniform(2, 7)),
        "share": float(rng.uniform(0.3, 0.9)),
        "samples": int(2 ** rng.uniform(4, 10)),
        "dropped": float(rng.uniform(0.05, 0.6)),
        "trace": float(10 ** rng.uniform(-6, -1.4)),
        "from": str(rng.choice(["policy", "target"])),
        "penalty": str(rng.choice(list(PENALTIES))),
        "use": {
            "placement": str(rng.choice(["loss", "reward"])),
            "samples": str(rng.choice(["own", "old", "ratio"])),
        },
    }


def expected(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what `PROBE` should give, by fdpg_ref and the sums of the toy."""
    policy, target, old = (np.array(state[key]) for key in ("policy", "target", "old"))
    divergence = find_divergence(state["name"])
    believed = target - state["error"]
    signal = score_signal(policy, believed, divergence=divergence)
    scores = score_matrix(policy)
    baseline = BASELINES[state["kind"]]

    def estimate(drawn: np.ndarray) -> np.ndarray:
        values = signal[drawn]
        subtracted = 0.0 if baseline is None else baseline(values)
        coefficients = score_coefficients(values, baseline=subtracted)
        return np.mean(coefficients[..., None] * scores[drawn], axis=-2)

    if baseline is None:
        moments = estimator_moments(policy, signal, scores, n=state["n"])
    else:
        n = state["n"]
        moments = batch_moments(policy, n, estimate, exchangeable=(n,))
    length = np.linalg.norm(moments.mean)
    # Where all signals are equal, as total variation's often are, rounding is all that is left.
    nothing = length <= 1e-12 * np.max(np.abs(signal))
    noise = np.inf if nothing else np.sqrt(np.trace(moments.covariance)) / length

    theta = np.array(state["theta"])
    half = state["distance"] / 2
    humps = np.logaddexp(
        np.log(state["share"]) + FAMILY.log_probs(np.array([-half, np.log(0.7)])),
        np.log1p(-state["share"]) + FAMILY.log_probs(np.array([half, np.log(0.5)])),
    )
    gaussian = FAMILY.log_probs(theta)
    pull = score_signal(gaussian, humps, divergence=divergence)
    world = dropping(state["dropped"], state["trace"])
    way, kl = WAYS[state["from"]], DIVERGENCES["forward_kl"]
    found = quality(world, way, state["samples"], divergence=kl)
    return {
        "value": np.array([exact_divergence(policy, target, divergence=divergence)]),
        "signal": signal,
        "gradient": exact_gradient(policy, believed, scores, divergence=divergence),
        "batch": estimate(np.repeat([0, 1, 2], state["counts"])),
        "mean": moments.mean,
        "noise": np.array([noise]),
        "humps": np.array([exact_divergence(gaussian, humps, divergence=divergence)]),
        # Without the covariance: far from a hump, the square of Neyman's signal overflows.
        "slope": (np.exp(gaussian) * pull) @ FAMILY.score_matrix(theta),
        "measured": np.array(
            [found.truth, found.mean, found.deviation, found.error, found.coverage]
        ),
        "typical": np.array(median_report(world, way, state["samples"], divergence=kl)),
        "penalty": penalty_gradient(PENALTIES[state["penalty"]], state["use"], policy, target, old),
    }


def penalty_gradient(
    penalty: Any, use: dict[str, str], policy: np.ndarray, reference: np.ndarray, old: np.ndarray
) -> np.ndarray:
    """Return autograd's gradient of a penalty in the logits, summed over the outcomes."""
    logits = torch.tensor(policy, requires_grad=True)
    log_policy = torch.log_softmax(logits, dim=-1)
    log_reference, log_old = torch.tensor(reference), torch.tensor(old)
    value = penalty(log_policy, log_reference)
    if use["placement"] == "reward":
        value = value.detach() * log_policy
    if use["samples"] == "ratio":
        ratio = torch.exp(log_policy - log_old)
        value = value * (ratio.detach() if use["placement"] == "reward" else ratio)
    law = log_policy.detach() if use["samples"] == "own" else log_old
    _ = torch.sum(torch.exp(law) * value).backward()
    assert logits.grad is not None
    return logits.grad.numpy()


def differences(found: dict[str, list[float]], state: dict[str, Any]) -> dict[str, float]:
    """Return the largest difference of each quantity, relative to its largest entry.

    A typical report may be zero but for rounding: what it is compared with is the truth, then.
    """
    wanted = expected(state)
    assert found.keys() == wanted.keys()
    scales = {name: float(np.max(np.abs(values))) for name, values in wanted.items()}
    # What cancels is measured by the terms that cancel: signals where their constant part drops
    # out of the mean, and the truth where the report is zero.
    signal = np.max(np.abs(wanted["signal"]))
    for name in ("gradient", "mean", "batch"):
        scales[name] = max(scales[name], 1e-4 * signal)
    scales["slope"] = max(scales["slope"], 1e-4 * float(wanted["humps"][0]))
    scales["typical"] = max(scales["typical"], float(wanted["measured"][0]))
    scales["penalty"] = max(scales["penalty"], 1e-3)
    # JSON has no infinity: it arrives as null.
    if wanted["noise"] == np.inf:
        assert found["noise"] == [None], found["noise"]
        del wanted["noise"]
    return {
        name: float(np.max(np.abs(np.array(found[name]) - wanted[name]))) / (scales[name] or 1.0)
        for name in wanted
    }


def assert_same(found: list[dict[str, list[float]]], states: list[dict[str, Any]]) -> None:
    """Fail, naming the quantity and the state, where the explorer and the core differ."""
    for one, state in zip(found, states, strict=True):
        for name, difference in differences(one, state).items():
            assert difference <= TOLERANCE, (name, difference, json.dumps(state))
