"""Hypothesis profiles, workers, the ``xp`` fixture, and thread settings that must precede torch."""

from __future__ import annotations

import os
import signal

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
# A mutant's first failure is enough: its smallest example is not read.
settings.register_profile(
    "mutants", parent=settings.get_profile("dev"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# A worker holds most of a gigabyte, so there are few of them on a machine of many cores.
MOST_WORKERS = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tell ``-n auto`` the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


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


@pytest.fixture(scope="session", autouse=True)
def _usual_signals() -> None:
    """Let SIGINT and SIGTERM do the usual, here and in the processes that tests start.

    A shell starts a command in the background with SIGINT ignored, and children inherit that.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            _ = signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_word_of_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no progress of a slow machine stand among the lines that a test reads."""
    monkeypatch.setattr("lm.phases.SILENCE", 3600.0)
