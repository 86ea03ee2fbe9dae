"""When a sweep will be done, as its workers' messages say."""

from __future__ import annotations

import io

import pytest
import rich.progress
from rich.console import Console

from lm.sweep.bars import Bars
from lm.sweep.workers import Progress


def test_the_time_left_follows_from_the_first_steps(monkeypatch):
    now = [0.0]
    out = io.StringIO()
    console = Console(file=out, width=100)
    monkeypatch.setattr("lm.sweep.bars.time.monotonic", lambda: now[0])
    with rich.progress.Progress(console=console, disable=True) as progress:
        stages = [{"base": 4.0}, {"a": 6.0, "b": 6.0}]
        bars = Bars(progress, console, stages, workers=1, every=5.0)
        bars.on_message(Progress("base", 1, 4))
        assert bars.seconds_left() is None
        assert out.getvalue() == ""
        now[0] = 10.0
        bars.on_message(Progress("base", 3, 4))
    # Two seconds of work took ten, so the thirteen that are left take 65.
    first, second = out.getvalue().splitlines()
    assert first == "about 75 s in all, by the first steps"
    assert second == "  10 s: 0 of 3 done, about 65 s left; base 75%"


def test_the_first_word_of_a_second_worker_is_no_speed(monkeypatch):
    now, out = [0.0], io.StringIO()
    console = Console(file=out, width=80)
    monkeypatch.setattr("lm.sweep.bars.time.monotonic", lambda: now[0])
    with rich.progress.Progress(console=console, disable=True) as progress:
        bars = Bars(progress, console, [{"a": 80.0, "b": 80.0}], workers=1, every=1e9)
        # Each speaks first after 25 of 900 steps, which is 2.2 seconds of work.
        bars.on_message(Progress("a", 25, 900))
        now[0] = 1.0
        bars.on_message(Progress("b", 25, 900))
        assert bars.seconds_left() is None
        assert out.getvalue() == ""

        # 25 more steps of both took 4 seconds, and 850 of both are left.
        now[0] = 4.0
        bars.on_message(Progress("a", 50, 900))
        bars.on_message(Progress("b", 50, 900))
        assert bars.seconds_left() == pytest.approx(4.0 * 850 / 25)


def test_a_burst_of_messages_is_no_speed(monkeypatch):
    now, out = [0.0], io.StringIO()
    console = Console(file=out, width=80)
    monkeypatch.setattr("lm.sweep.bars.time.monotonic", lambda: now[0])
    with rich.progress.Progress(console=console, disable=True) as progress:
        bars = Bars(progress, console, [{"a": 80.0}], workers=1, every=1e9)
        bars.on_message(Progress("a", 0, 80))
        # Two seconds of work that were read a hundredth of a second later.
        now[0] = 0.01
        bars.on_message(Progress("a", 2, 80))
    assert bars.seconds_left() is None
    assert out.getvalue() == ""
