"""Two processes do what one does: gradients, samples, whole runs, sharded weights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.launch import launch, quiet_environment
from support.lm_models import make_gpt2_folder, make_llama_folder
from support.lm_runs import lines, tiny_model
from support.lm_tiny import numbers_held, tiny_gpt2, tiny_llama, tiny_policy
from support.two_processes import run_all

from lm.config import ProposalConfig, RunConfig, SamplingConfig, TargetConfig
from lm.device.processes import (
    agree,
    build_accelerator,
    fail_together,
    gather,
    gather_texts,
    local_rows,
    main_process_first,
    require_same,
    require_same_config,
)
from lm.errors import RunError
from lm.training.sharding import WholeWeights, refuse_sharded, transformer_blocks

# Two processes take long to start. `make test-slow` runs them.
pytestmark = pytest.mark.slow

RECIPE = "lm/recipes/rlhf.yaml"
WEIGHTS = "model.safetensors"
# Sums of some hundred rounded terms, in another order: a few hundred times 6e-8 or 1e-16.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the two processes of two_processes.py left what they did."""
    folder = prepared(tmp_path_factory.mktemp("two-processes"))
    program = ["-W", "error", "tests/support/two_processes.py", str(folder), str(tiny_model())]
    main, other = launch(program)
    # The main process speaks, of signals and resumed runs and of nothing else.
    spoken = [line for line in main.stderr.splitlines() if line]
    assert all(line.startswith("lm: ") for line in spoken), main.stderr[-3000:]
    assert (main.returncode, other.returncode, other.stderr) == (0, 0, "")
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the same runs in one process."""
    folder = prepared(tmp_path_factory.mktemp("one-process"))
    run_all(folder, tiny_model())
    return folder


@pytest.fixture(scope="module")
def seen(together: Path) -> list[dict[str, Any]]:
    """Return what each of the two processes saw, main process first."""
    return [json.loads((together / f"{rank}.json").read_text()) for rank in (0, 1)]


def prepared(folder: Path) -> Path:
    """Put into a folder what the runs read."""
    _ = make_gpt2_folder(folder / "gpt2")
    _ = make_llama_folder(folder / "llama")
    _ = (folder / "prompts.txt").write_text("the c\na\nco in the\nin\n")
    return folder


def test_the_rows_of_the_processes_make_up_the_batch(seen):
    assert [found["agreements"]["rows"] for found in seen] == [[0, 3], [3, 6]]
    message = "batch_size is 7, which 2 processes cannot share equally: use --batch_size 8"
    for found in seen:
        assert found["agreements"]["uneven"].startswith(f"UnevenBatch: {message}")


def test_gathered_values_keep_their_order_and_every_bit(seen):
    for found in seen:
        assert found["agreements"]["gathered"] == [True] * 4
        assert found["agreements"]["precise"] == [1.0, 1.0 + 2.0**-52]
        assert found["agreements"]["texts"] == ["", "π"]
        assert found["agreements"]["silence"] == ["", ""]


def test_one_process_that_wants_to_stop_stops_all(seen):
    for found in seen:
        assert found["agreements"]["nobody"] is False
        assert found["agreements"]["one of them"] is True


def test_another_configuration_is_named_on_all_processes(seen):
    for found in seen:
        message = found["agreements"]["other seed"]
        assert "process 1 was started with another a.seed than process 0" in message
        assert found["agreements"]["same"] == ""
        assert "process 1 is at step 3, process 0 at 0" in found["agreements"]["other step"]


def test_an_error_of_one_process_stops_the_other_and_is_named_there(seen):
    first, second = (found["agreements"] for found in seen)
    assert first["failure"] == "RunError: process 1 stopped: ours"
    assert second["failure"] == "ZeroDivisionError: ours"
    assert first["main fails"] == "RunError: no base"
    assert second["main fails"] == "RunError: process 0 stopped: no base"


def test_a_sample_does_not_depend_on_who_draws_it(seen):
    for found in seen:
        assert found["sampling"]["tokens"]
        assert found["sampling"]["log_prob"] < 1e-12


def test_data_parallel_gradients_are_those_of_one_process(seen):
    for found in seen:
        assert len(found["data_parallel"]) == 6
        for case, distance in found["data_parallel"].items():
            assert distance < TOLERANCE[case.partition(",")[0]], case


def test_sharded_gradients_steps_and_saved_weights_are_those_of_one_process(seen):
    for rank, found in enumerate(seen):
        assert len(found["sharded"]) == 5
        for case, values in found["sharded"].items():
            tolerance = TOLERANCE[case.split(", ")[1]]
            assert values["sharded"], case
            assert values["local share"] == pytest.approx(0.5, abs=0.01), case
            assert values["gradient"] < tolerance, case
            assert values["step"] < tolerance, case
            # Only the main process gets the whole state; there it is every tensor of it.
            assert (values["saved"] > 20) == (rank == 0), case
            assert values["saved error"] < 10 * tolerance, case


def test_sharded_processes_may_sample_for_unequal_times(seen):
    first, second = (found["sharded"] for found in seen)
    for case, values in first.items():
        # Otherwise this would show nothing.
        assert values["decoding steps"] < second[case]["decoding steps"], case
        for here in (values, second[case]):
            assert here["sampled"], case
            assert here["scored"] < 1e-5, case
            assert here["held after"] == 0, case
            assert here["still sharded"], case


RUNS = [
    "names",
    "leave one out",
    "past only",
    "prompts",
    "same batch of prompts",
    "several updates",
    "adapter",
    "buffers",
    "adapter on buffers",
]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_processes_is_the_run_of_one(name, together, alone):
    _assert_same_run(alone / name, together / name)


def test_a_run_that_two_processes_resume_is_the_run_of_one(together, alone):
    log = json.loads((together / "prompts, interrupted" / "resumed.jsonl").read_text())
    assert log["step"] == 3
    _assert_same_run(alone / "prompts", together / "prompts, interrupted")


def test_a_sharded_run_is_the_run_of_one_also_when_it_is_resumed(together, alone, seen):
    assert [found["more"]["was sharded"] for found in seen] == [[False, False, True, True]] * 2
    log = json.loads((together / "leave one out, sharded" / "resumed.jsonl").read_text())
    assert log["step"] == 3
    _assert_same_run(alone / "leave one out", together / "leave one out, sharded")


def test_what_sharding_cannot_do_is_refused_before_anything_is_written(together, seen):
    for found in seen:
        assert found["more"]["refused"].startswith("RunError: lora.rank under FSDP2 is refused")
    assert not (together / "refused").exists()
    assert not (together / ".refused.partial").exists()


def _assert_same_run(here: Path, there: Path) -> None:
    """Compare every number, weight and file of two finished runs."""
    one, two = numbers(here), numbers(there)
    assert one.keys() == two.keys()
    assert len(one) > 100
    for key, value in one.items():
        # Sums in another order, over five steps of Adam: 1e-13 is seen.
        close = pytest.approx(value, rel=1e-10, abs=1e-10) if isinstance(value, float) else value
        assert two[key] == close, key
    first, second = (load_file(run / "policy" / WEIGHTS) for run in (here, there))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=1e-10)
    files = [{path.name for path in run.iterdir()} - {"resumed.jsonl"} for run in (here, there)]
    assert files[0] == files[1]


def numbers(run: Path) -> dict[str, Any]:
    """Return every number of a run's records that both ways of running measure."""
    flat = {}
    for record in lines(run):
        where = f"{record['kind']} {record['step']}"
        flat |= _flat(record, where)
    # The first needs the whole batch's graph in one process. The second is rounding over rounding
    # as long as the policy is the base.
    left_out = ("gradient_signal_to_noise", "kl_policy_base.rao_blackwell.z")
    return {key: value for key, value in flat.items() if not key.endswith(left_out)}


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [_flat(inner, f"{name}.{key}") for key, inner in value.items()]
        return {key: number for part in parts for key, number in part.items()}
    return {name: value}


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_rows_are_cut_into_equal_slices_for_any_number_of_processes(processes):
    rows = list(range(12))
    standing_in: Any = SimpleNamespace(num_processes=processes)
    shares = []
    for standing_in.process_index in range(processes):
        shares.append(rows[local_rows(12, standing_in)])
    assert [row for share in shares for row in share] == rows
    assert {len(share) for share in shares} == {12 // processes}


def test_whole_weights_are_lent_with_the_transform_and_taken_back():
    policy = tiny_policy(tiny_gpt2())
    cold = policy.with_transform(SamplingConfig(temperature=0.5))
    weights = WholeWeights(policy, sharded=True)
    assert numbers_held(weights) == 0
    with weights.of(cold) as lent:
        assert numbers_held(weights) == sum(p.numel() for p in policy.model.parameters())
        here, there = (
            each.sample(16, generator=torch.Generator().manual_seed(1)) for each in (lent, cold)
        )
    assert here.transform == cold.transform
    assert torch.equal(here.tokens, there.tokens)
    torch.testing.assert_close(here.log_prob, there.log_prob, rtol=0, atol=1e-12)
    assert numbers_held(weights) == 0
    with WholeWeights(policy, sharded=False).of(policy) as lent:
        assert lent is policy


class Joined(torch.nn.Module):
    """What DDP puts around a scorer: a forward pass that every process has to call."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("one process called what all processes must call")


def test_whoever_works_alone_is_lent_a_policy_that_waits_for_no_other_process():
    policy = tiny_policy(tiny_llama())
    samples = policy.sample(8, generator=torch.Generator().manual_seed(1))
    expected = policy.score(samples)
    policy.scorer = Joined(policy.scorer)
    with WholeWeights(policy, sharded=False).of(policy) as lent:
        assert torch.equal(lent.score(samples), expected)
        assert lent.model is policy.model
    assert isinstance(policy.scorer, Joined)


LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="")
"""
# It sleeps on through SIGTERM, as a process does that waits for another one's tensors.
ORPHAN = """
import os, time
from lm.device import interrupt
interrupt.LOOK_SECONDS, interrupt.GRACE_SECONDS = 0.05, 0.2
with interrupt.interruptible():
    print("started", flush=True)
    time.sleep(60)
"""


def test_a_process_whose_launcher_was_killed_ends_even_if_it_waits_for_another():
    # The pipe of the errors is closed when the orphan has ended, too.
    environment = quiet_environment() | {"TORCHELASTIC_RUN_ID": "none"}
    started = time.monotonic()
    words = [sys.executable, "-c", LAUNCHER, ORPHAN]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 50
    assert done.stdout == "started\n"
    assert "SIGTERM: finishing this step" in done.stderr
    assert "the launcher is gone and no step ended" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision float16 under FSDP2 is refused"),
        ({"proposal": ProposalConfig(kind="kl_adaptive")}, "kl_adaptive under FSDP2 is refused"),
        ({"precision": "bfloat16"}, None),
    ],
)
def test_what_cannot_be_sharded_is_refused(changes, message):
    config = RunConfig(target=TargetConfig(moments={"listed": 0.5}), **changes)
    if message is None:
        refuse_sharded(config)
    else:
        with pytest.raises(RunError, match=message):
            refuse_sharded(config)


def test_a_model_without_blocks_cannot_be_sharded():
    assert len(transformer_blocks(tiny_gpt2())) == 2
    with pytest.raises(RunError, match="Linear has no list of blocks"):
        _ = transformer_blocks(torch.nn.Linear(2, 2))


def test_a_usage_error_exits_2_in_every_process_and_the_main_one_says_it():
    program = ["-m", "lm", "train", RECIPE, "--optimizer.lrr", "1"]
    main, other = launch(program)
    assert (main.returncode, other.returncode) == (2, 2)
    assert main.stderr.startswith("lm: ")
    assert "did you mean 'optimizer.lr'?" in main.stderr
    # No launcher ended the other one, so it speaks in the end, and says who it is.
    assert other.stderr.startswith("lm: process 1: ")
    assert main.stdout == other.stdout == ""


def test_one_process_gathers_nothing_and_agrees_with_itself():
    accelerator = build_accelerator("cpu")
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert local_rows(7, accelerator) == slice(0, 7)
    assert gather(accelerator, values).data_ptr() == values.data_ptr()
    assert not gather(accelerator, values).requires_grad
    assert agree(accelerator, True)
    assert gather_texts(accelerator, "mine") == ["mine"]
    require_same_config(accelerator, {"seed": 1})
    require_same(accelerator, "step", 3)
    with pytest.raises(KeyError), fail_together(accelerator):
        raise KeyError("as it is")
    with main_process_first(accelerator):
        pass
