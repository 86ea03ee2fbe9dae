"""What a phase of a run has freed is not kept from the next one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.lm_runs import tiny_config

from lm.device import memory
from lm.device.memory import release_freed_memory
from lm.train import train
from lm.training import session

STATUS = Path("/proc/self/statm")


def _resident() -> float:
    return int(STATUS.read_text(encoding="ascii").split()[1]) * 4096 / 2**20


@pytest.mark.skipif(
    memory._glibc() is None or not STATUS.exists(), reason="another C library than glibc"
)
def test_freed_blocks_go_back_to_the_system():
    # A freed block of 8 MiB tells glibc to keep smaller ones; the last, which lives, holds them.
    large = torch.empty(2**21)
    del large
    blocks = [torch.ones(2**18) for _ in range(200)]
    full, last = _resident(), blocks.pop()
    blocks.clear()
    release_freed_memory(above=2**30)
    assert _resident() > full - 50
    release_freed_memory(above=100 * 2**20)
    assert _resident() < full - 150
    assert float(last.sum()) == 2**18


@pytest.mark.parametrize("name", ["malloc_trim", "mallinfo2"])
def test_another_c_library_is_known_by_what_it_lacks_and_no_fault(name, monkeypatch):
    names = {"malloc_trim", "mallinfo2"} - {name}
    other = SimpleNamespace(**dict.fromkeys(names, SimpleNamespace()))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: other)
    monkeypatch.setattr(memory, "_glibc", memory._glibc.__wrapped__)
    assert memory._glibc() is None
    release_freed_memory()  # calls nothing of it


def test_a_library_is_asked_to_give_back_what_is_free_above_a_bound(monkeypatch):
    trimmed: list[int] = []
    library = SimpleNamespace(
        mallinfo2=lambda: SimpleNamespace(fordblks=100), malloc_trim=trimmed.append
    )
    monkeypatch.setattr(memory, "_glibc", lambda: library)
    release_freed_memory(above=100)
    assert trimmed == []
    release_freed_memory(above=99)
    assert trimmed == [0]


@pytest.mark.slow
def test_memory_is_released_around_every_evaluation_and_after_a_large_step(tmp_path, monkeypatch):
    calls: list[str] = []

    def release(*, above: int = 0) -> None:
        calls.append("release" if above == 0 else "step")

    monkeypatch.setattr(session, "release_freed_memory", release)
    measure = session.Evaluator.measure

    def watched(*arguments, **options):
        calls.append("measure")
        return measure(*arguments, **options)

    monkeypatch.setattr(session.Evaluator, "measure", watched)
    _ = train(tiny_config(tmp_path / "run", report=False))
    evaluation = ["release", "measure", "release"]
    assert calls[:4] == [*evaluation, "step"]
    assert calls[-4:] == ["step", *evaluation]
