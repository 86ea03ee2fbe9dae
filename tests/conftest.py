"""Hypothesis profiles, the ``xp`` fixture, and thread settings that must precede torch."""

from __future__ import annotations

import os

# Idle OpenMP threads must sleep, or two of them collapse next to any other busy process.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import Phase, settings
from support.libraries import LIBRARIES, Library

# dev and ci are deterministic: a red run is red again. The nightly one looks for new examples.
settings.register_profile("dev", max_examples=20, derandomize=True, deadline=None, database=None)
settings.register_profile("ci", max_examples=60, derandomize=True, deadline=None, database=None)
settings.register_profile("nightly", max_examples=1000, deadline=None, print_blob=True)
# A mutant's first failure is enough: nobody reads its smallest example.
settings.register_profile(
    "mutants", parent=settings.get_profile("dev"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def _parameter(library: Library):
    if library.device != "cuda":
        return pytest.param(library, id=library.name)
    missing = not torch.cuda.is_available()
    skip = pytest.mark.skipif(missing, reason="no CUDA device: the core was not run on a GPU")
    return pytest.param(library, id=library.name, marks=[pytest.mark.gpu, skip])


# Session scope: hypothesis refuses function-scoped fixtures, and a library holds no state.
@pytest.fixture(scope="session", params=[_parameter(library) for library in LIBRARIES.values()])
def xp(request: pytest.FixtureRequest) -> Library:
    """One array library: numpy, array-api-strict, torch in two precisions, torch on a GPU."""
    return request.param
