"""Ten kills: a run that is killed ten times writes the metrics of one that never was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.kill_run import ROOT, WarmProcess, kill_at_step, kill_in_checkpoint
from support.lm_runs import tiny_config

from lm.config import CheckpointConfig
from lm.config.options import to_plain

STEPS, EVERY = 96, 2
# Sleeping costs nothing, and gives a kill time to fall where it was drawn on a busy machine.
SLOW_LOGS = {"lm.run.folder.append_line": 0.005}
SLOW_CHECKPOINTS = {
    **SLOW_LOGS,
    "lm.run.checkpoint.save_file": 0.06,
    "lm.run.checkpoint._fingerprint": 0.06,
    "lm.run.checkpoint.flush_to_disk": 0.06,
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    config = tiny_config(
        tmp_path / "unused", steps=STEPS, checkpoint=CheckpointConfig(every=EVERY, keep=2)
    )
    plain = to_plain(config)
    del plain["output"]
    plain["evaluation"]["every"] = 12
    path = tmp_path / "recipe.yaml"
    _ = path.write_text(yaml.safe_dump(plain))
    return path


@pytest.mark.slow
@pytest.mark.serial  # a kill has to fall into the moment that was drawn for it
def test_ten_kills_and_ten_resumes_leave_the_same_metrics_byte_by_byte(recipe, tmp_path):
    draw = random.Random(0)
    # Ten steps over the whole run, eight or more apart: none is met twice.
    steps = sorted(8 * step + draw.randrange(4) for step in draw.sample(range(1, STEPS // 8), 10))
    in_checkpoint = set(draw.sample(range(1, 10), 4))
    partial, words = tmp_path / ".run.partial", ["train", str(recipe)]
    here = [*words, "--output", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lm", *here]
    with WarmProcess() as warm:
        _ = warm.start([*words, "--output", str(tmp_path / "unbroken")])
        assert warm.ended() == 0
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        deaths = [kill_at_step(first.pid, partial, steps[0], 0.03 * draw.random())]
        assert first.wait() == -signal.SIGKILL
        for number, step in enumerate(steps[1:], start=1):
            delay = draw.random()
            if number in in_checkpoint:
                process = warm.start([*here, "--resume"], slow=SLOW_CHECKPOINTS)
                deaths.append(kill_in_checkpoint(process, partial, step, 0.25 * delay))
            else:
                process = warm.start([*here, "--resume"], slow=SLOW_LOGS)
                deaths.append(kill_at_step(process, partial, step, 0.03 * delay))
            assert warm.ended() == -signal.SIGKILL
    last = subprocess.run(
        [*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    killed_at = [death.step for death in deaths]
    assert len(set(killed_at)) == len(deaths) == 10, killed_at
    assert killed_at[0] < STEPS / 3
    assert killed_at[-1] > 2 * STEPS / 3
    assert sum(death.writing is not None for death in deaths) >= 3
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "unbroken")]
    assert metrics[0] == metrics[1]
    assert not partial.exists()
