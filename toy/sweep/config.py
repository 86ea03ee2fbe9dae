"""The settings of the study: one frozen record, refused at once where it means nothing."""

from __future__ import annotations

from dataclasses import dataclass

# Wide enough that hardly a setting chooses an end of it, but for hard targets: a softmax reaches
# them at infinity, the sooner the longer the steps.
_RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class StudyConfig:
    """Settings of the study, checked when they are made.

    Attributes
    ----------
    problems : int
        Number of problems.
    seed : int
        Seed of all of them.
    steps : int
        Updates of every descent.
    batch_size : int
        Samples per step of a sampled descent, and n of the signal-to-noise ratios.
    learning_rates : tuple of float
        The grid of the pilot, ascending, in units of theta per step of Adam.
    pilots : int
        Pilot problems for each shape and kind of target; they are not used again.
    checkpoints : tuple of int
        Steps of a descent at which signal-to-noise ratios are taken. Early ones: later the
        gradient vanishes, and the ratio says how far a descent has come.
    iterations : int
        Iterations of BFGS at most, where a minimum is looked for.
    chunk : int
        Problems that are worked on together, at most.
    """

    problems: int = 3000
    seed: int = 0
    steps: int = 100
    batch_size: int = 64
    learning_rates: tuple[float, ...] = _RATES
    pilots: int = 6
    checkpoints: tuple[int, ...] = (0, 3, 10, 30)
    iterations: int = 120
    chunk: int = 128

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing, naming the value."""
        for name, least in (("problems", 1), ("seed", 0), ("steps", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
