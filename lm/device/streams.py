"""Streams of random numbers: one per purpose, so that measuring more never changes the training."""

from __future__ import annotations

import numpy as np
import torch

TRAINING, OFFLINE, EVALUATION, EVALUATION_BASE, PROMPT_ORDER, EVALUATED_CONTEXTS = range(6)
TARGET_SAMPLES, TEACHER, TRIAL, PLAN, SHOWN = 6, 7, 8, 9, 10


def random_stream(seed: int, stream: int, step: int = 0) -> torch.Generator:
    """Return a generator on the CPU that depends on the seed, the purpose and the step."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)
