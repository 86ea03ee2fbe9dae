"""Weights cut between processes (FSDP2): what the engine must do differently then.

accelerate shards (`torch.distributed.fsdp.fully_shard`, a block at a time); this module adds what
a policy needs beside that. Sampling takes as many decoding steps as the longest sample of a
process, and every forward of a sharded module is a communication that all processes must join: so
the weights are gathered once before the sampling loop, into a plain copy of the policy, and given
up after it. Scoring stays sharded, in one forward a micro-batch: see `lm.policy.causal.sampling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import nn

from lm.config import RunConfig
from lm.config.options import flatten, to_plain
from lm.device.processes import local_rows, require_same_config
from lm.device.shards import whole
from lm.errors import RunError
from lm.policy.protocol import Policy


def check_processes(accelerator: Accelerator, config: RunConfig) -> None:
    """Raise a RunError for what a run cannot do in these processes, before a model is loaded.

    Parameters
    ----------
    accelerator
        Of this process.
    config
        The run as this process was told it.
    """
    require_same_config(accelerator, flatten(to_plain(config)))
    local_rows(config.batch_size, accelerator)
    if accelerator.is_fsdp2:
        refuse_sharded(config)


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a transformer: the items of its largest list of modules.

    Raises
    ------
    RunError
        The module has no list of modules.
    """
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) > 0]
    if not lists:
        raise RunError(
            f"{type(module).__name__} has no list of blocks, which FSDP2 would shard one at a "
            "time: launch without --use_fsdp"
        )
    return list(max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters())))


def spread(accelerator: Accelerator, policy: Policy) -> nn.Module:
    """Return the policy's scorer, ready for the processes: wrapped by DDP, or sharded by FSDP2.

    Parameters
    ----------
    accelerator
        Says which of the two, or neither on one process.
    policy
        Its optimiser is built afterwards, for sharding replaces the parameters.

    Returns
    -------
    nn.Module
        To be put back as ``policy.scorer``.
    """
    if not accelerator.is_fsdp2:
        return accelerator.prepare(policy.scorer)
    # One call of the model a scoring: groups by length would be more on one process than another.
    policy.scorer.single_group = True
    names = dict.fromkeys(type(block).__name__ for block in transformer_blocks(policy.scorer))
    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None  # it is FSDP2
    plugin.transformer_cls_names_to_wrap = list(names)
    # What `accelerator.prepare` calls, which wants to be given an optimiser at the same time.
    return fsdp2_prepare_model(accelerator, policy.scorer)


def refuse_sharded(config: RunConfig) -> None:
    """Raise a RunError for what a run cannot do while its weights are sharded."""
    refused = {
        "precision float16": (
            config.precision == "float16",
            "the gradient scaler has only been shown right on whole gradients: use bfloat16",
        ),
        "lora.rank": (
            config.lora.rank > 0,
            "an adapter's gradients and Adam states are small: launch with DDP, not --use_fsdp",
        ),
        "proposal.kind kl_adaptive": (
            config.proposal.kind == "kl_adaptive",
            "its proposal is a second whole copy on every process: use proposal.kind policy",
        ),
        "optimizer.average": (
            config.optimizer.average is not None,
            "it is a second whole copy of the weights on every process: leave it out",
        ),
    }

    for option, (asked, advice) in refused.items():
        if asked:
            raise RunError(f"{option} under FSDP2 is refused: {advice}")


class WholeWeights:
    """Lends a policy with whole weights: itself, or for a sharded one a plain copy.

    Parameters
    ----------
    policy
        Before it is spread over the processes: a copy has its structure and its buffers.
    sharded
        Whether `spread` will cut its weights.
    """

    def __init__(self, policy: Policy, *, sharded: bool) -> None:
        self._copy = policy.frozen_copy() if sharded else None
        self._release()

    @contextmanager
    def of(self, policy: Policy) -> Iterator[Policy]:
        """Lend the policy as it is now; all processes must enter.

        Inside, a process may run as many forwards as it likes: nothing communicates.

        Parameters
        ----------
        policy
            The policy that was spread, or one with its weights and another sampling transform.

        Yields
        ------
        Policy
            If it is not sharded, the policy itself, or one with the same weights and without what
            wraps its scorer for several processes. Else a frozen copy, whose weights are freed at
            the end.
        """
        if self._copy is None:
            yield _unwrapped(policy)
            return
        shards = dict(policy.model.named_parameters())
        try:
            with torch.no_grad():
                for name, parameter in self._copy.model.named_parameters():
                    parameter.data = whole(shards[name])
            yield self._copy.with_transform(policy.transform)
        finally:
            self._release()

    def _release(self) -> None:
        if self._copy is not None:
            for parameter in self._copy.model.parameters():
                parameter.data = parameter.data.new_empty(0)


def _unwrapped(policy: Policy) -> Policy:
    # DDP broadcasts a model's buffers before each forward pass, such as Llama's rotary frequencies:
    # one process that evaluates alone would wait for the others for ever.
    wrapped = hasattr(policy.scorer, "module")
    return policy.with_model(policy.model) if wrapped else policy
