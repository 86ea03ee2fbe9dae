"""examples/trl: the script runs on a CPU, and the options of every recipe are accepted."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl", reason="TRL is an extra: make engines")

from support import trl_runs as runs
from transformers import HfArgumentParser

from lm.engines.trl import FDPGConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "trl"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["0", "2"])
def test_the_script_trains_and_writes_model_and_card(tmp_path: Path, lora: str):
    model = runs.save_model(tmp_path / "model", "llama")
    rows = [{"prompt": prompt, "answer": "e", "log_z": -1.0} for prompt in runs.PROMPTS]
    _ = (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    # Two steps of four completions each, on one CPU.
    options = (
        "--target verifier --partition column --num_generations 4 --max_steps 2 --use_cpu true"
    )
    sizes = "--per_device_train_batch_size 4 --max_completion_length 4 --report_to none"
    command = [
        *(sys.executable, str(RECIPES / "train.py"), "--model", model),
        *("--prompts", str(tmp_path / "prompts.jsonl"), "--lora_rank", lora),
        *("--rewards", f"{RECIPES / 'rewards.py'}:solved", "--output_dir", str(tmp_path / "out")),
        *shlex.split(f"{options} {sizes}"),
    ]

    # Model, or adapter, and model card.
    found = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    weights = "model.safetensors" if lora == "0" else "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).exists()
    assert "f-dpg" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def options_of(path: Path) -> list[str]:
    """Return the options of train.py in a recipe, its variables replaced by words."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [one for one in text.splitlines() if "train.py" in one and "--model" in one]
    words = line.partition("train.py")[2].replace('"$@"', "").replace('"', "").replace("'", "")
    return shlex.split(re.sub(r"\$\w+", "word", words))


@pytest.mark.parametrize("name", ["one_gpu.sh", "eight_gpus.sh", "slurm.sh"])
def test_the_options_of_a_recipe_are_accepted(name, tmp_path, monkeypatch):
    # This machine has no bfloat16 GPU; what is refused here is what we refuse.
    words = options_of(RECIPES / name)
    place = words.index("--bf16")
    assert words[place + 1] == "true"
    words[place + 1] = "false"
    script = runpy_script()
    kinds: Any = [script, FDPGConfig]
    _, args = HfArgumentParser(kinds).parse_args_into_dataclasses(
        [*words, "--use_cpu", "true", "--output_dir", str(tmp_path)]
    )
    assert args.accept == ["bf16", "max_grad_norm"]
    assert args.use_vllm
    assert args.vllm_mode == ("colocate" if name == "one_gpu.sh" else "server")
    syntax = subprocess.run(["bash", "-n", str(RECIPES / name)], check=False)
    assert syntax.returncode == 0


def runpy_script() -> Any:
    import runpy

    return runpy.run_path(str(RECIPES / "train.py"), run_name="recipe")["Script"]


@pytest.mark.parametrize("name", ["zero2.yaml", "fsdp2.yaml"])
def test_accelerate_reads_its_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(RECIPES / name))
    kind = yaml.safe_load((RECIPES / name).read_text())["distributed_type"]
    assert str(config.distributed_type).endswith(kind)
    assert config.num_processes == 6
