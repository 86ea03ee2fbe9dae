"""What things are called: the objectives, the measures, the sweeps, and their labels."""

from __future__ import annotations

from fdpg_ref.display import title_of, unit_of

FIVE = ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon", "alpha_0.5")
MEASURES = ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon")
# Also widely used: reported, but not ranked with the five.
REINFORCEMENT = ("rl_kl", "reward")
# The family between forward KL (0) and reverse KL (1).
ALPHAS = {
    "forward_kl": 0.0,
    "alpha_0.25": 0.25,
    "alpha_0.5": 0.5,
    "alpha_0.75": 0.75,
    "reverse_kl": 1.0,
}
TUNED, COMMON, MIDDLE, DEFAULT = "tuned", "common", "middle", "default"
RARE = ("rare_soft", "rare_hard")
SOFT = "rare_soft"

# Objectives that are no divergences.
LABELS = {"rl_kl": "RL with KL penalty", "reward": "plain reward"}
MEASURE_LABELS = {
    "forward_kl": "KL(p‖π)",
    "reverse_kl": "KL(π‖p)",
    "total_variation": "TV",
    "jensen_shannon": "JS",
}
GROUP_LABELS = {
    "rare_soft": "soft rare",
    "rare_hard": "hard rare",
    "distributional": "distributional",
    "rlhf": "RLHF",
    "teacher": "teacher",
}
VARIANT_LABELS = {
    "batch_1024": "batch of 1024",
    "batch_64": "batch of 64",
    "no_baseline": "no baseline",
    "running_baseline": "running baseline",
    "frozen_z": "frozen Z",
    "past_only_z": "past-only Z",
    "leave_one_out_z": "leave-one-out Z",
    "same_batch_z": "same-batch Z",
    "kl_adaptive": "KL-adaptive proposal",
    "constant_rate": "constant rate",
    "averaged_weights": "averaged weights",
}


def label_of(method: str) -> str:
    """Return what tables and pictures call an objective."""
    return LABELS.get(method) or title_of(method)


def measure_label(measure: str) -> str:
    """Return a measure's symbol with its unit."""
    return MEASURE_LABELS.get(measure, label_of(measure)) + unit_of(measure)


def size_order(size: str) -> tuple[int, ...]:
    """Return a key that sorts sizes such as "2x64" by width, then by layers."""
    layers, _, width = size.partition("x")
    return int(width), int(layers)


def method_order(method: str) -> tuple[int, float, str]:
    """Return a key that sorts the five first, other divergences next, RL last."""
    if method in FIVE:
        return 0, FIVE.index(method), method
    if method in REINFORCEMENT:
        return 2, REINFORCEMENT.index(method), method
    if method.startswith("alpha_"):
        return 1, float(method.removeprefix("alpha_")), method
    return 1, float("inf"), method
