"""``python -m lm selfcheck``: see whether a machine computes what the mathematics says.

The first thing to run on a new GPU, and the thing to paste into a report: the gradient against its
exact value, the precision ladder, a real run of ten steps, its interruption and resumption, and
float16's scaler, each with its measured figures beside the bounds that they must keep.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm.errors import RunInterrupted
from lm.phases import each, phase
from lm.policy.checks import check_device
from lm.run.environment import environment
from lm.selfcheck.rungs import json_ready
from lm.selfcheck.trials import TRIALS, Bound, Device, Measurement


class Check(NamedTuple):
    """One check: its verdict, its figures, and what went wrong.

    Attributes
    ----------
    name
        What was checked.
    bounds
        Figures and bounds; the check passes if all hold.
    error
        The traceback if it came to no figures, else None.
    seconds
        How long it took.
    details
        More figures, for the JSON file.
    """

    name: str
    bounds: tuple[Bound, ...]
    error: str | None
    seconds: float
    details: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether everything was measured and every bound holds."""
        return self.error is None and all(bound.holds for bound in self.bounds)

    def record(self) -> dict[str, Any]:
        """Return the check, ready for JSON: a figure that is not finite becomes a word."""
        return {
            "name": self.name,
            "passed": self.passed,
            "bounds": [json_ready(b._asdict() | {"holds": b.holds}) for b in self.bounds],
            "error": self.error,
            "seconds": round(self.seconds, 2),
            **json_ready(self.details),
        }


def run_checks(device: Device) -> list[Check]:
    """Run all checks on a device; one that fails does not keep the others from running.

    Parameters
    ----------
    device
        cpu or cuda.

    Returns
    -------
    list of Check
        In a fixed order.

    Raises
    ------
    RunError
        There is no such device.
    """
    check_device(device)
    checks = []
    with tempfile.TemporaryDirectory(prefix="fdpg-ref-selfcheck-") as scratch:
        place = Path(scratch)
        for name, measure in each("checking this machine", [*TRIALS.items()]):
            checks.append(_run(name, measure, device, place))
    return checks


def selfcheck_record(device: Device, checks: list[Check]) -> dict[str, Any]:
    """Return everything that a report needs: verdicts, figures, bounds, versions and machine."""
    return {
        "passed": all(check.passed for check in checks),
        "device": device,
        "environment": environment(),
        "seconds": round(sum(check.seconds for check in checks), 1),
        "checks": [check.record() for check in checks],
    }


def _run(
    name: str, measure: Callable[[Device, Path], Measurement], device: Device, scratch: Path
) -> Check:
    started = time.perf_counter()
    bounds, details, error = [], {}, None
    try:
        with phase(name):
            bounds, details = measure(device, scratch)
    except RunInterrupted as interrupt:
        raise KeyboardInterrupt from interrupt
    except Exception:
        # Whatever it is, on an unknown machine: it belongs into the report, as a failure.
        error = traceback.format_exc()
    return Check(name, tuple(bounds), error, time.perf_counter() - started, details)
