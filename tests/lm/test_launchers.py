"""What torchrun and accelerate may ask for, and the documented commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from support.launch import ROOT, TIMEOUT_SECONDS, free_port, quiet_environment
from support.lm_runs import lines, tiny_model

from lm.device.launched import process_index, refuse_launch, require_alone
from lm.errors import RunError
from lm.run.folder import read_config
from lm.train import train

RECIPE = "lm/recipes/rlhf.yaml"


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "cpu", "FSDP2 on a CPU"),
        ({"ACCELERATE_USE_FSDP": "true"}, "cuda", "--fsdp_version 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "cuda", "DDP and FSDP2"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "cpu", "--precision bfloat16"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "cpu", "--micro_batch_size"),
        (
            {
                "ACCELERATE_USE_FSDP": "true",
                "FSDP_VERSION": "2",
                "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
            },
            "cuda",
            "--fsdp_cpu_ram_efficient_loading false",
        ),
        (
            {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"},
            "cpu",
            "started this one alone",
        ),
    ],
)
def test_what_a_launcher_cannot_have_is_refused(environment, device, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        refuse_launch(device)


def test_a_usual_launch_is_not_refused(monkeypatch):
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "True",
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": "2",
        "RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    refuse_launch("cpu")
    assert process_index() == 1
    with pytest.raises(ValueError, match="only train shares its work"):
        require_alone("env")


def documented_commands() -> list[str]:
    """Return the commands of docs/scale.md that a CPU can run."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    return [command for command in commands if "--device cpu" in command]


def test_the_documented_commands_are_found():
    assert [command.split()[0] for command in documented_commands()] == ["torchrun", "accelerate"]


def documented_settings(folder: Path, name: str) -> Path:
    """Write a settings file of docs/scale.md for `accelerate launch`."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```yaml\n# {name}\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 1
    _ = (folder / name).write_text(blocks[0])
    return folder / name


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp.yaml", "MULTI_GPU"), ("fsdp2.yaml", "FSDP")], ids=["DDP", "FSDP2"]
)
def test_the_documented_settings_are_accelerates(name, kind, tmp_path):
    # Unknown keys are refused by accelerate.
    settings: Any = load_config_from_file(str(documented_settings(tmp_path, name)))
    assert (settings.distributed_type.value, settings.num_processes) == (kind, 8)
    assert settings.mixed_precision == "no"


def small(output: Path, **changes: str) -> list[str]:
    """Return what makes a documented command a run of a few seconds."""
    options = {
        "model": str(tiny_model()),
        "output": str(output),
        "evaluation.samples": "64",
        "evaluation.group": "32",
        **changes,
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def start(command: str, *words: str) -> subprocess.Popen[str]:
    """Start a launcher of this environment, on a port of its own."""
    name, *rest = shlex.split(command)
    port = str(free_port())
    where = ["--master_port", port] if name == "torchrun" else ["--main_process_port", port]
    if name == "accelerate":
        where = [*rest[:1], *where]
        rest = rest[1:]
    return subprocess.Popen(
        [str(Path(sys.executable).parent / name), *where, *rest, *words],
        cwd=ROOT,
        env=quiet_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_documented_commands_share_a_run_over_a_sigterm_and_print_once(tmp_path):
    options = {"steps": "30", "batch_size": "64", "precision": "float64", "evaluation.every": "30"}
    words = small(tmp_path / "run", **options)
    torchrun, accelerate = documented_commands()
    process = start(torchrun, *words)
    log = tmp_path / ".run.partial" / "metrics.jsonl"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (log.is_file() and '"step": 2' in log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.terminate()
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert out.count("divergence: reverse_kl") == out.count("--resume") == 1, out + err
    assert "exitcode" not in err  # no process failed: the launcher only says that it was signalled
    assert [path.name for path in tmp_path.iterdir()] == [".run.partial"]
    process = start(accelerate, *words, "--resume", "true")
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    assert out.count(f"report: {tmp_path}") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    alone = train(replace(read_config(tmp_path / "run"), output=str(tmp_path / "alone")))
    pairs = list(zip(lines(alone, "step"), lines(tmp_path / "run", "step"), strict=True))
    assert max(here["gradient_norm"] for here, _ in pairs) > 1e-2
    for here, there in pairs:
        for key in ("gradient_norm", "signal_mean", "signal_std", "batch_log_z"):
            # Sums in another order, over thirty steps of Adam.
            assert there[key] == pytest.approx(here[key], rel=1e-6, abs=1e-8), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("torchrun --nproc_per_node 2 -m lm train --stepz 3", "did you mean 'steps'?"),
        (
            "accelerate launch --config_file fsdp2.yaml --num_processes 2 "
            f"-m lm train {RECIPE} --device cpu",
            "FSDP2 on a CPU",
        ),
        (
            f"accelerate launch --cpu --num_processes 2 -m lm train {RECIPE}",
            "started this one alone",
        ),
    ],
    ids=["unknown key", "FSDP2", "accelerate --cpu"],
)
def test_what_a_launcher_cannot_do_exits_2_and_is_said_once(command, message, tmp_path):
    settings = documented_settings(tmp_path, "fsdp2.yaml")
    # The recipe's own folder is there already where a reader has run it.
    process = start(
        command.replace(settings.name, shlex.quote(str(settings))), *small(tmp_path / "run")
    )
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    # A launcher's own exit code is 1; it reports the process's.
    assert process.returncode == 1
    assert re.search(r"exitcode\s*: 2|exit status 2", err)
    assert err.count(message) == 1
    assert "report: " not in out
