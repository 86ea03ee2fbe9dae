"""Checkpoints and signals on their own: written completely, verified before they are read."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

import lm.run.checkpoint
from lm.device.amp import Amp
from lm.device.interrupt import interruptible
from lm.errors import RunError, RunInterrupted
from lm.run.checkpoint import (
    CorruptCheckpoint,
    checkpoint_steps,
    load_checkpoint,
    load_newest,
    log_digest,
    save_checkpoint,
)
from lm.run.files import append_line, is_disk_full, write_atomic
from lm.run.state import TrainingState, load_optimizer_state, optimizer_state


def _logs(folder: Path, length: int = 1000) -> Path:
    """Return a folder of logs, of which metrics.jsonl has so many bytes."""
    (folder / "logs").mkdir(exist_ok=True)
    _ = (folder / "logs" / "metrics.jsonl").write_bytes(b"x" * length)
    return folder / "logs"


def _state(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "weights/a": torch.randn(3, 4, generator=generator),
        "weights/b": torch.randn(5, generator=generator, dtype=torch.float64),
        "weights/half": torch.randn(2, 2, generator=generator).bfloat16(),
        "generator": generator.get_state(),
        "log_z": torch.tensor(-float("inf")),
    }
    numbers = {"lr": 0.1 + 0.2, "schedule": {"last_epoch": step, "lr_lambdas": [None]}}
    return TrainingState(step, tensors, numbers, {"metrics.jsonl": 10 * step})


def _files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_is_loaded_is_what_was_saved_bit_by_bit(tmp_path):
    state = _state(3)
    loaded = load_checkpoint(save_checkpoint(tmp_path, state, keep=1))
    assert (loaded.step, loaded.numbers, loaded.offsets) == (3, state.numbers, state.offsets)
    assert loaded.tensors.keys() == state.tensors.keys()
    for name, tensor in state.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    flat = torch.arange(6.0)
    state = TrainingState(1, {"all": flat, "part": flat[2:4], "t": flat.view(2, 3).T}, {}, {})
    loaded = load_checkpoint(save_checkpoint(tmp_path, state, keep=1)).tensors
    assert torch.equal(loaded["part"], torch.tensor([2.0, 3.0]))
    assert torch.equal(loaded["t"], flat.view(2, 3).T)


def test_what_shares_no_memory_is_not_copied_to_be_saved(tmp_path, monkeypatch):
    written: dict[str, int] = {}
    original = lm.run.checkpoint.save_file

    def spied(tensors, path):
        written.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        original(tensors, path)

    monkeypatch.setattr("lm.run.checkpoint.save_file", spied)
    state = _state(3)
    state.tensors["view"] = state.tensors["weights/a"][1:]
    _ = save_checkpoint(tmp_path, state, keep=1)
    own = {name: tensor.data_ptr() for name, tensor in state.tensors.items()}
    assert {name for name in own if written[name] != own[name]} == {"view"}


def test_the_newest_are_kept_and_an_abandoned_course_is_dropped(tmp_path):
    for step in (2, 4, 6, 8):
        _ = save_checkpoint(tmp_path, _state(step), keep=2)
    assert checkpoint_steps(tmp_path) == [8, 6]
    # The run went back to step 6, and was interrupted at 7: what it had at 8 is another course.
    _ = save_checkpoint(tmp_path, _state(7), keep=2)
    assert checkpoint_steps(tmp_path) == [7, 6]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    folder = save_checkpoint(tmp_path, _state(2), keep=2)
    _ = (folder / "state.safetensors").write_bytes(b"no longer tensors")
    assert save_checkpoint(tmp_path, _state(2), keep=2) == folder
    assert torch.equal(load_checkpoint(folder).tensors["weights/a"], _state(2).tensors["weights/a"])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _ = path.write_bytes(content)


def _halve(path):
    os.truncate(path, path.stat().st_size // 2)


def _becomes(content):
    return lambda path: path.write_text(json.dumps(content))


def _gets(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _other_format(path):
    content = json.loads(path.read_text())
    _ = path.write_text(json.dumps({**content, "format": 99}))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("state.safetensors", _flip, "the bytes of state.safetensors have changed"),
        ("state.safetensors", _halve, "were written"),
        ("state.safetensors", os.remove, "state.safetensors is missing"),
        ("state.json", _flip, "the bytes of state.json have changed"),
        ("manifest.json", _halve, "is not a checkpoint"),
        ("manifest.json", os.remove, "manifest.json is missing"),
        ("manifest.json", _other_format, "its format is 99, not 1"),
        ("manifest.json", _becomes([]), "is not a checkpoint"),
        ("manifest.json", _gets(files={}), "does not name state.safetensors"),
        ("manifest.json", _gets(step=None), "is not a checkpoint"),
        ("manifest.json", _gets(logs=[]), "holds a list where names belong"),
    ],
)
def test_a_corrupt_newest_checkpoint_is_skipped_and_said_so(tmp_path, name, damage, reason):
    _ = save_checkpoint(tmp_path, _state(2), keep=2)
    newest = save_checkpoint(tmp_path, _state(4), keep=2)
    damage(newest / name)
    with pytest.raises(CorruptCheckpoint, match=reason):
        _ = load_checkpoint(newest)
    state, notes = load_newest(tmp_path, logs=_logs(tmp_path))
    assert state is not None
    assert state.step == 2
    (note,) = notes
    assert note.startswith("the checkpoint of step 4 is skipped: ")
    assert reason in note


def test_a_checkpoint_that_knows_more_than_the_logs_hold_is_not_used(tmp_path):
    for step in (2, 4):
        _ = save_checkpoint(tmp_path, _state(step), keep=2)
    state, notes = load_newest(tmp_path, logs=_logs(tmp_path, 39))
    assert state is not None
    assert state.step == 2
    assert "metrics.jsonl has 39 bytes, but had 40 at that step" in notes[0]
    nothing, notes = load_newest(tmp_path, logs=tmp_path)
    assert nothing is None
    assert len(notes) == 2


def test_a_checkpoint_whose_log_was_changed_since_is_not_used(tmp_path):
    logs = _logs(tmp_path)
    for step in (2, 4):
        digests = {"metrics.jsonl": log_digest(logs / "metrics.jsonl", 10 * step)}
        _ = save_checkpoint(tmp_path, _state(step)._replace(digests=digests), keep=2)
    _ = (logs / "metrics.jsonl").write_bytes(b"x" * 30 + b"y" + b"x" * 9)
    state, notes = load_newest(tmp_path, logs=logs)
    assert state is not None
    assert state.step == 2
    assert notes == [
        "the checkpoint of step 4 is skipped: metrics.jsonl has been changed since, in a line up "
        "to that step"
    ]


def test_a_state_that_cannot_be_taken_up_gives_way_to_the_one_before(tmp_path):
    for step in (2, 4):
        _ = save_checkpoint(tmp_path, _state(step), keep=2)

    def take(state):
        if state.step == 4:
            raise KeyError("schedule")

    state, notes = load_newest(tmp_path, logs=_logs(tmp_path), take=take)
    assert state is not None
    assert state.step == 2
    assert "its content is not the state of a training (KeyError('schedule'))" in notes[0]

    def refuse(_):
        raise RunError("the checkpoint belongs to another model")

    with pytest.raises(RunError, match="another model"):
        _ = load_newest(tmp_path, logs=_logs(tmp_path), take=refuse)


def test_a_checkpoint_of_the_version_before_has_no_digest_and_is_used(tmp_path):
    folder = save_checkpoint(tmp_path, _state(2), keep=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["logs"]
    _ = (folder / "manifest.json").write_text(json.dumps(manifest))
    state, notes = load_newest(tmp_path, logs=_logs(tmp_path))
    assert state is not None
    assert notes == []


def test_a_file_that_cannot_be_read_is_not_called_corrupt(tmp_path):
    _ = save_checkpoint(tmp_path, _state(2), keep=2)
    newest = save_checkpoint(tmp_path, _state(4), keep=2)
    (newest / "state.json").unlink()
    (newest / "state.json").mkdir()
    # Skipping it would silently throw away steps that a mended disk still has.
    with pytest.raises(IsADirectoryError):
        _ = load_newest(tmp_path, logs=_logs(tmp_path))


def test_without_a_folder_there_is_no_checkpoint(tmp_path):
    assert load_newest(tmp_path / "none", logs=_logs(tmp_path)) == (None, [])


def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    seen = []
    original = lm.run.checkpoint.flush_to_disk

    def spied(path):
        original(path)
        seen.append((path.name, _files(tmp_path)))

    monkeypatch.setattr("lm.run.checkpoint.flush_to_disk", spied)
    _ = save_checkpoint(tmp_path, _state(2), keep=1)
    partial, final = ".step-00000002.partial", "step-00000002"
    names = ("manifest.json", "state.json", "state.safetensors")
    flushed = [name for name, _ in seen]
    assert set(flushed[:3]) == set(names)
    assert flushed[3:] == [partial, tmp_path.name]
    complete = [partial, *(f"{partial}/{name}" for name in names)]
    # Before the first flush the manifest is there with all else; the last sees the final name.
    assert all(files == complete for _, files in seen[:4])
    assert seen[4][1] == [final, *(f"{final}/{name}" for name in names)]


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    def broken(_):
        assert _files(tmp_path)[-1].endswith("state.safetensors")
        raise KeyboardInterrupt

    monkeypatch.setattr("lm.run.checkpoint._fingerprint", broken)
    with pytest.raises(KeyboardInterrupt):
        _ = save_checkpoint(tmp_path, _state(2), keep=1)
    assert _files(tmp_path) == []


FULL_DISK = SafetensorError(
    "Error while serializing: I/O error: No space left on device (os error 28)"
)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("save_file", FULL_DISK),
        ("_fingerprint", OSError(errno.ENOSPC, "No space left on device")),
        ("flush_to_disk", OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(
    tmp_path, monkeypatch, function, error
):
    _ = save_checkpoint(tmp_path, _state(2), keep=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lm.run.checkpoint, function, full)
        with pytest.raises(OSError, match=r"space|quota") as caught:
            _ = save_checkpoint(tmp_path, _state(4), keep=1)
    assert is_disk_full(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert checkpoint_steps(tmp_path) == [2]


def test_what_a_killed_process_left_is_no_checkpoint_and_is_cleared_away(tmp_path):
    folder = save_checkpoint(tmp_path, _state(2), keep=2)
    for step in (4, 6):
        shutil.copytree(folder, tmp_path / f".step-{step:08d}.partial")
    assert checkpoint_steps(tmp_path) == [2]
    _ = save_checkpoint(tmp_path, _state(4), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


def _training(seed: int):
    _ = torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return model, optimizer, schedule, Amp("float16", "cpu")


def _advance(training, steps: range):
    model, optimizer, schedule, amp = training
    for step in steps:
        # The fifth step overflows: the scaler has a history to be saved.
        loss = model(torch.full((4, 3), float(step))).square().mean() * (1e38 if step == 5 else 1)
        amp.backward(Accelerator(cpu=True), loss)
        _ = amp.step(optimizer)
        schedule.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_adam_its_schedule_and_the_scaler_go_on_bit_by_bit(tmp_path):
    unbroken = _training(0)
    _advance(unbroken, range(10))
    first = _training(0)
    _advance(first, range(6))
    tensors, groups = optimizer_state(first[1])
    numbers = {"groups": groups, "schedule": first[2].state_dict(), "scaler": first[3].state_dict()}
    weights = {f"weights/{name}": value for name, value in first[0].named_parameters()}
    folder = save_checkpoint(
        tmp_path, TrainingState(6, {**tensors, **weights}, numbers, {}), keep=1
    )
    loaded = load_checkpoint(folder)
    second = _training(1)
    with torch.no_grad():
        for name, value in second[0].named_parameters():
            _ = value.copy_(loaded.tensors.pop(f"weights/{name}"))
    load_optimizer_state(second[1], loaded.tensors, loaded.numbers["groups"])
    second[2].load_state_dict(loaded.numbers["schedule"])
    second[3].load_state_dict(loaded.numbers["scaler"])
    assert second[3].scale == unbroken[3].scale == 2.0**15
    _advance(second, range(6, 10))
    for mine, theirs in zip(second[0].parameters(), unbroken[0].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert second[2].get_last_lr() == unbroken[2].get_last_lr()


def test_a_line_that_does_not_fit_is_not_written_at_all(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, "a whole line")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel itself cuts the write after four more bytes, as a disk does that becomes full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 4, hard))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            append_line(path, "a line too long for what is left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before == b"a whole line\n"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(tmp_path / "file", b"more than four bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _files(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_a_flag_and_the_old_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with interruptible() as interrupt:
        assert interrupt.received is None
        os.kill(os.getpid(), number)
        assert interrupt.received is number
        # Schedulers send SIGTERM more than once.
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(number) is before
    error = capfd.readouterr().err
    assert error == f"\nlm: {number.name}: finishing this step and saving (Ctrl-C: stop at once)\n"


def test_a_second_interrupt_stops_at_once(capfd):
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    _ = capfd.readouterr()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.received is None
    finally:
        _ = signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def work():
        with interruptible() as interrupt:
            seen.append(interrupt.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_stop_is_told_by_a_worker_process_as_it_was_raised():
    stop = RunInterrupted("SIGTERM", 3, 6, "runs/.a.partial")
    again = pickle.loads(pickle.dumps(stop))
    assert str(again) == str(stop)
    assert str(stop) == (
        "stopped by SIGTERM after step 3 of 6; everything is saved in runs/.a.partial"
    )
