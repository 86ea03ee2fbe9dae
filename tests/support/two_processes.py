"""What test_lm_processes looks at, computed by two processes in one launch, as JSON of each.

``python tests/support/two_processes.py FOLDER`` in every process writes FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from support.lm_tiny import numbers_held, tiny_gpt2, tiny_llama, tiny_policy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import lm.train
from lm.config import (
    BaselineConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoraConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    TargetConfig,
)
from lm.device.amp import Amp
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
from lm.device.shards import to_main, whole
from lm.errors import RunError, RunInterrupted
from lm.policy.causal import CausalPolicy
from lm.policy.samples import Samples
from lm.surrogate import surrogate_loss
from lm.training.accumulate import MicroBatches
from lm.training.sharding import WholeWeights, spread, transformer_blocks

MODELS: dict[str, Callable[..., Any]] = {"gpt2": tiny_gpt2, "llama": tiny_llama}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROWS = 32


def agreements(accelerator: Accelerator) -> dict[str, Any]:
    """Look at what the processes tell one another."""
    rank, rows = accelerator.process_index, local_rows(6, accelerator)
    dtypes = [torch.float64, torch.float32, torch.int64, torch.bool]
    everything = [(torch.arange(12).reshape(6, 2) % 7).to(dtype) for dtype in dtypes]
    order: list[str] = []
    with main_process_first(accelerator):
        order.append("entered")
    return {
        "rows": [rows.start, rows.stop],
        "gathered": [bool(gather(accelerator, x[rows]).equal(x)) for x in everything],
        "precise": gather(accelerator, _next_after_one(rank)).tolist(),
        "nobody": agree(accelerator, False),
        "one of them": agree(accelerator, rank == 1),
        "texts": gather_texts(accelerator, "π" * rank),
        "silence": gather_texts(accelerator, ""),
        "uneven": _message(lambda: local_rows(7, accelerator)),
        "other seed": _message(lambda: require_same_config(accelerator, {"a.seed": rank, "b": {}})),
        "other step": _message(lambda: require_same(accelerator, "step", 3 * rank)),
        "same": _message(lambda: require_same_config(accelerator, {"a.seed": 1})),
        "failure": _message(lambda: _fail_on_one(accelerator)),
        "main fails": _message(lambda: _main_fails(accelerator)),
    }


def data_parallel(accelerator: Accelerator) -> dict[str, Any]:
    """Compare gradients under DDP with those of one process, on the same stored samples."""
    found: dict[str, Any] = {}
    for dtype in DTYPES:
        for size in (None, 4, 3):
            plain, samples, coefficients = _stored("gpt2", dtype)
            policy = plain.trainable_copy()
            policy.scorer = accelerator.prepare(policy.scorer)
            _accumulate(accelerator, policy, samples, coefficients, size=size)
            case = f"{dtype}, micro-batches of {size}"
            found[case] = _distance(
                _gradient(policy), _whole_gradient(plain, samples, coefficients)
            )
    return found


def sampling(accelerator: Accelerator) -> dict[str, Any]:
    """Compare the samples of two processes with those that one draws."""
    policy = tiny_policy(tiny_gpt2())
    together = policy.sample(ROWS, generator=_generator(3))
    mine = policy.sample(ROWS, generator=_generator(3), rows=local_rows(ROWS, accelerator))
    drawn = gather(accelerator, mine.tokens)
    error = (gather(accelerator, mine.log_prob) - together.log_prob).abs().max()
    return {"tokens": bool(drawn.equal(together.tokens)), "log_prob": float(error)}


def run_configs(folder: Path, base: Path) -> dict[str, RunConfig]:
    """Return runs of five steps in float64, each with another part of the engine.

    `folder` holds gpt2, llama and prompts.txt and gets the run folders; `base` is a model of first
    names.
    """
    texts = RunConfig(
        model=str(folder / "gpt2"),
        device="cpu",
        precision="float64",
        divergence="jensen_shannon",
        target=TargetConfig(kind="reward_tilted", reward={"letters": 1.0}, beta=2.0),
        max_new_tokens=6,
        steps=5,
        batch_size=12,
        partition=PartitionConfig(policy="frozen", samples=64),
        optimizer=OptimizerConfig(lr=1e-3, schedule="linear", warmup_steps=2),
        evaluation=EvaluationConfig(every=5, samples=32, group=16, texts=4, contexts=4),
        checkpoint=CheckpointConfig(every=5),
    )
    names = TargetConfig(moments={"female": 0.06, "listed": "base"})
    prompts = PromptsConfig(file=str(folder / "prompts.txt"), per_step=3)
    leave_one_out = PartitionConfig(policy="leave_one_out")
    past_only = PartitionConfig(policy="past_only", samples=64, forgetting=0.9)
    configs = {
        "names": replace(
            texts,
            model=str(base),
            target=names,
            max_new_tokens=None,
            partition=PartitionConfig(policy="exact"),
        ),
        "leave one out": replace(texts, partition=leave_one_out, micro_batch_size=4),
        "past only": replace(texts, partition=past_only, baseline=BaselineConfig(kind="running")),
        # Twelve samples of three prompts: the second prompt's are split between the processes.
        "prompts": replace(texts, prompts=prompts, micro_batch_size=5),
        "same batch of prompts": replace(
            texts, prompts=prompts, partition=PartitionConfig(policy="same_batch")
        ),
        "several updates": replace(
            texts, updates_per_batch=2, proposal=ProposalConfig(kind="kl_adaptive", every=2)
        ),
        "adapter": replace(texts, lora=LoraConfig(rank=2)),
        # Its rotary frequencies are buffers, which DDP exchanges in every forward pass.
        "buffers": replace(texts, model=str(folder / "llama"), steps=2),
        "adapter on buffers": replace(
            texts, model=str(folder / "llama"), steps=2, lora=LoraConfig(rank=2), prompts=prompts
        ),
    }
    return {
        name: replace(config, name=name, output=str(folder / name))
        for name, config in configs.items()
    }


def run_all(folder: Path, base: Path) -> None:
    """Train every configuration, without reports."""
    with mock.patch.object(lm.train, "finish_run"):
        for config in run_configs(folder, base).values():
            _ = lm.train.train(config)


def run_more(accelerator: Accelerator, folder: Path, base: Path) -> dict[str, Any]:
    """Train some of them again: interrupted, and with sharded weights."""
    configs = run_configs(folder, base)
    was_sharded = []

    def spied(accelerator: Accelerator, policy: CausalPolicy) -> nn.Module:
        scorer = spread(accelerator, policy)
        was_sharded.append(all(isinstance(p, DTensor) for p in policy.model.parameters()))
        return scorer

    with (
        mock.patch.object(lm.train, "finish_run"),
        mock.patch.object(lm.train, "spread", spied),
    ):
        stop_and_go(configs["prompts"], folder / "prompts, interrupted")
        with as_if_fsdp2(accelerator):
            stop_and_go(configs["leave one out"], folder / "leave one out, sharded")
            adapter = replace(configs["adapter"], output=str(folder / "refused"))
            refused = _message(lambda: lm.train.train(adapter))
    return {"was sharded": was_sharded, "refused": refused}


def stop_and_go(config: RunConfig, output: Path) -> None:
    """Train, stop by a signal to the main process during its third step, and go on from there."""

    def stop(seen: lm.train.StepRecord) -> None:
        if seen.step == 3:
            signal.raise_signal(signal.SIGTERM)

    config = replace(config, output=str(output))
    try:
        _ = lm.train.train(config, on_step=stop)
    except RunInterrupted:
        _ = lm.train.train(replace(config, resume=True))
    else:
        raise AssertionError("the run was not stopped")


@contextmanager
def as_if_fsdp2(accelerator: Accelerator) -> Iterator[None]:
    """Let the engine shard on CPUs, with torch and accelerate doing what they do on GPUs.

    accelerate itself would run DDP here, so it is told otherwise.
    """
    accelerator.state.fsdp_plugin = fsdp2_plugin()
    with mock.patch.object(Accelerator, "is_fsdp2", property(lambda _: True)):
        yield
    accelerator.state.fsdp_plugin = None


def fsdp2_plugin() -> FullyShardedDataParallelPlugin:
    """Return the settings of docs/scale.md."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )


def sharded(accelerator: Accelerator) -> dict[str, Any]:
    """Compare gradients, samples, steps and saved weights under FSDP2 with those of one process."""
    shards = {"torch": _shard, "accelerate": _shard_as_accelerate_does}
    # A Llama's norms compute in float32 whatever its weights, so that float64 shows nothing more.
    cases = [
        ("gpt2", "float32", "torch"),
        ("gpt2", "float64", "torch"),
        ("gpt2", "float64", "accelerate"),
        ("llama", "float32", "torch"),
        ("llama", "float32", "accelerate"),
    ]
    return {
        f"{model}, {dtype}, {by}": _sharded(accelerator, model, dtype, shards[by])
        for model, dtype, by in cases
    }


def _sharded(
    accelerator: Accelerator,
    model: str,
    dtype: str,
    shard: Callable[[Accelerator, CausalPolicy], nn.Module],
) -> dict[str, Any]:
    plain, samples, coefficients = _stored(model, dtype)
    policy = plain.trainable_copy()
    weights = WholeWeights(policy, sharded=True)
    policy.scorer = shard(accelerator, policy)
    parameters = list(policy.scorer.parameters())
    found: dict[str, Any] = {
        "sharded": all(isinstance(p, DTensor) for p in parameters),
        "local share": sum(p.to_local().numel() for p in parameters)
        / sum(p.numel() for p in parameters),
    }
    _accumulate(accelerator, policy, samples, coefficients, size=5)
    found["gradient"] = _distance(_gradient(policy), _whole_gradient(plain, samples, coefficients))
    for each in (plain, policy):
        # A first step of Adam is the gradient over its size: eps keeps the rounding of the small
        # ones from deciding it.
        optimizer = torch.optim.Adam(each.scorer.parameters(), lr=1e-2, eps=1e-2, fused=True)
        _ = optimizer.step()
        optimizer.zero_grad()
    found["step"] = _distance(_weights(policy), _weights(plain))
    found |= _sample_sharded(accelerator, policy, plain, weights)
    state = to_main(dict(policy.model.named_parameters()), main=accelerator.is_main_process)
    expected = {name: p.detach() for name, p in plain.model.named_parameters()}
    found["saved"] = len(state)
    found["saved error"] = max(
        [float((state[name] - value).abs().max()) for name, value in expected.items() if state]
        or [0.0]
    )
    return found


def _sample_sharded(
    accelerator: Accelerator, policy: CausalPolicy, plain: CausalPolicy, weights: WholeWeights
) -> dict[str, Any]:
    """Sample rows so that this process needs another number of decoding steps than its peer."""
    together = plain.sample(ROWS, generator=_generator(5))
    lengths = together.mask.sum(-1)
    # One process takes the shortest row, the other the longest.
    order = torch.argsort(lengths, stable=True)
    row = int(order[0] if accelerator.is_main_process else order[-1])
    calls: list[int] = []
    with weights.of(policy) as sampler:
        hook = sampler.model.register_forward_hook(lambda *_: calls.append(1))
        mine = sampler.sample(ROWS, generator=_generator(5), rows=slice(row, row + 1))
        hook.remove()
    held, kept = numbers_held(weights), [isinstance(p, DTensor) for p in policy.scorer.parameters()]
    scored = policy.score(mine)
    return {
        "decoding steps": len(calls),
        "sampled": bool(mine.tokens[0].equal(together.tokens[row])),
        "scored": float((scored - mine.log_prob).detach().abs().max()),
        "held after": held,
        "still sharded": all(kept),
    }


def _stored(model: str, dtype: str) -> tuple[CausalPolicy, Samples, Tensor]:
    """Return a policy that takes gradients, stored samples of it and coefficients."""
    bare = MODELS[model]().to(DTYPES[dtype])
    policy = tiny_policy(bare).trainable_copy()
    samples = policy.sample(ROWS, generator=_generator(1))
    coefficients = torch.randn(ROWS, generator=_generator(2), dtype=torch.float64)
    return policy, samples, coefficients.to(DTYPES[dtype])


def _accumulate(
    accelerator: Accelerator,
    policy: CausalPolicy,
    samples: Samples,
    coefficients: Tensor,
    *,
    size: int | None,
) -> None:
    amp = Amp("float64", accelerator.device)
    batches = MicroBatches(policy, accelerator, amp, size=size)
    _ = batches.score(samples.rows(local_rows(ROWS, accelerator)))
    for part in batches.parts():
        loss = part.share * surrogate_loss(part.log_policy, coefficients[part.rows])
        amp.backward(accelerator, loss)


def _whole_gradient(policy: CausalPolicy, samples: Samples, coefficients: Tensor) -> Tensor:
    _ = surrogate_loss(policy.score(samples), coefficients).backward()
    return _gradient(policy)


def _gradient(policy: CausalPolicy) -> Tensor:
    gradients = [p.grad for p in policy.scorer.parameters()]
    return torch.cat([whole(g).double().flatten() for g in gradients if g is not None])


def _weights(policy: CausalPolicy) -> Tensor:
    return torch.cat([whole(p).detach().double().flatten() for p in policy.scorer.parameters()])


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _shard(_accelerator: Accelerator, policy: CausalPolicy) -> nn.Module:
    policy.scorer.single_group = True
    _ = [fully_shard(block) for block in transformer_blocks(policy.scorer)]
    return fully_shard(policy.scorer)


def _shard_as_accelerate_does(accelerator: Accelerator, policy: CausalPolicy) -> nn.Module:
    """Call accelerate's own sharding, which its Accelerator keeps from CPUs."""
    stand_in: Any = SimpleNamespace(
        is_fsdp2=True,
        state=SimpleNamespace(fsdp_plugin=fsdp2_plugin()),
        mixed_precision="no",
        device=accelerator.device,
        is_main_process=accelerator.is_main_process,
    )
    return spread(stand_in, policy)


def _fail_on_one(accelerator: Accelerator) -> None:
    with fail_together(accelerator):
        if accelerator.process_index == 1:
            raise ZeroDivisionError("ours")


def _main_fails(accelerator: Accelerator) -> None:
    with main_process_first(accelerator):
        if accelerator.is_main_process:
            raise RunError("no base")


def _message(action: Callable[[], object]) -> str:
    try:
        _ = action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _next_after_one(rank: int) -> Tensor:
    """Return 1, or the float64 that follows it: float32 holds no such number."""
    return torch.tensor([1 + rank * 2.0**-52], dtype=torch.float64)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(folder: Path, base: Path) -> None:
    """Run every check and write what this process saw."""
    accelerator = build_accelerator("cpu")
    checks = (agreements, sampling, data_parallel, sharded)
    found: dict[str, Any] = {check.__name__: check(accelerator) for check in checks}
    run_all(folder, base)
    found["more"] = run_more(accelerator, folder, base)
    _ = (folder / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # Everything is written and the group is left. On a busy machine a thread of gloo may outlive
    # the interpreter's end, which then aborts ("terminate called without an active exception").
    _ = sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)
