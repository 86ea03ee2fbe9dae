"""f-DPG inside TRL's GRPOTrainer: TRL samples, scores and steps; `fdpg_ref` gives coefficients.

    trainer = FDPGTrainer(
        "my-model", reward, FDPGConfig("runs/trl", divergence="jensen_shannon"), dataset
    )
    trainer.train()

`beta` keeps TRL's meaning: the target is P(x) = ref(x) exp(r(x) / beta), the optimum of TRL's own
objective, so an existing GRPO configuration is a target already. Its KL is in the coefficients.
Settings that spoil the gradient are refused by name (`lm.engines.exactness`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

import fdpg_ref as core
from lm.engines.exactness import (
    inexact_model,
    inexact_reference,
    inexact_settings,
    inexact_target,
    refuse,
)
from lm.engines.positions import place_by_mask
from lm.engines.trl_private import GRPOConfig, HookedGRPO, Scored

CHOICES = {
    "target": ("reward", "verifier", "score"),
    "partition": ("leave_one_out", "past_only", "column"),
    "baseline": ("leave_one_out", "none"),
}
Z_COLUMN = "log_z"
_log = logging.getLogger(__name__)


@dataclass
class FDPGConfig(GRPOConfig):
    """GRPOConfig with the settings of f-DPG, and with those defaults of TRL that would spoil it.

    Parameters
    ----------
    beta
        The price of a nat of KL(policy, reference) in the target ref exp(r / beta).
    divergence
        A name of `fdpg_ref.DIVERGENCES`, or ``alpha_A`` with a number A.
    target
        ``reward``: P = ref exp(r / beta), r the weighted sum of the reward functions. ``verifier``:
        P = ref where all of them give 1, and nothing where one gives 0. ``score``: the trainer's
        ``log_score(log_ref, rewards)``.
    partition
        Where log Z of a prompt comes from. ``leave_one_out``: the other completions; for reverse KL
        with a baseline all of them, where Z cancels. ``past_only``: completions of earlier visits
        of the prompt, the first of which only fills this memory.
        ``column``: the column log_z of the dataset, as `python -m lm partition` writes it.
    baseline
        ``leave_one_out`` or ``none``.
    accept
        Settings that only round or rescale and are taken knowingly: bf16, fp16, max_grad_norm.
    """

    beta: float = 0.1
    loss_type: str = "dr_grpo"
    scale_rewards: str = "none"
    disable_dropout: bool = True
    bf16: bool | None = False
    max_grad_norm: float = 0.0
    router_aux_loss_coef: float | None = 0.0
    vllm_importance_sampling_correction: bool = False
    restore_callback_states_from_checkpoint: bool = True  # the memory of Z is such a state
    divergence: str = field(
        default="jensen_shannon", metadata={"help": "Name of the f-divergence, or alpha_A."}
    )
    target: str = field(default="reward", metadata={"help": "reward, verifier or score."})
    partition: str = field(
        default="leave_one_out", metadata={"help": "leave_one_out, past_only or column."}
    )
    baseline: str = field(default="leave_one_out", metadata={"help": "leave_one_out or none."})
    accept: list[str] = field(
        default_factory=list, metadata={"help": "Inexact settings to accept: bf16, max_grad_norm."}
    )

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                there = ", ".join(choices)
                raise ValueError(f"{name} is {getattr(self, name)!r}: there are {there}")
        _ = core.find_divergence(self.divergence)
        super().__post_init__()

        wrong = inexact_settings(self, self.accept)
        wrong += inexact_target(self.divergence, self.target, self.partition)
        if self.steps_per_generation != self.gradient_accumulation_steps:
            wrong.append(
                f"steps_per_generation is {self.steps_per_generation} but "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps}: they must be "
                "equal, or samples are of an older policy than the one that is trained"
            )
        if self.partition == "past_only" and not self.restore_callback_states_from_checkpoint:
            wrong.append(
                "restore_callback_states_from_checkpoint is false, which forgets the past that "
                "partition past_only rests on when a run is resumed"
            )
        if not 0 < self.beta < math.inf:
            wrong.append(
                f"beta is {self.beta}: it must be positive, as without it TRL has no reference, "
                "which every target here is made of"
            )
        refuse(wrong)


class PartitionMemory(TrainerCallback, ExportableState):
    """log Z of each prompt from the past; it travels in trainer_state.json.

    Parameters
    ----------
    values
        From a prompt's digest to log Z, in nats, and the number of samples behind it.
    """

    def __init__(self, values: dict[str, list[float]] | None = None) -> None:
        self.values = values or {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"args": {"values": self.values}, "attributes": {}}

    def recall(self, key: str) -> float | None:
        """Return log Z, None for a prompt whose past shows no mass of the target."""
        log_z = self.values[key][0] if key in self.values else -math.inf
        return None if log_z == -math.inf else log_z

    def remember(self, key: str, log_score: Tensor, log_proposal: Tensor) -> None:
        """Add the samples of one prompt."""
        if key not in self.values:
            state = core.init_partition(log_score, log_proposal)
        else:
            log_z, weight = self.values[key]
            past = core.PartitionState(torch.tensor(log_z).to(log_score), weight)
            state = core.update_partition(past, log_score, log_proposal)
        self.values[key] = [state.log_z.item(), state.weight]


class FDPGTrainer(HookedGRPO):
    """GRPOTrainer that descends D_f(policy‖target).

    Parameters
    ----------
    model, reward_funcs
        As for GRPOTrainer.
    args
        An FDPGConfig.
    more, others
        As for GRPOTrainer.
    log_score
        For the target ``score``: a function of log ref, shape (prompts, n), and the rewards, shape
        (prompts, n, functions), that returns log P in nats, -inf for what the target excludes.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: FDPGConfig | None = None,
        *more: Any,
        log_score: Callable[[Tensor, Tensor], Tensor] | None = None,
        **others: Any,
    ) -> None:
        if not isinstance(args, FDPGConfig):
            raise TypeError(f"args is a {type(args).__name__}: pass an FDPGConfig")
        if (log_score is not None) != (args.target == "score"):
            raise ValueError(
                f"target is {args.target!r} and log_score is {log_score}: the function log_score "
                "goes with target 'score', and with no other"
            )
        self.log_score = log_score
        super().__init__(model, reward_funcs, args, *more, **others)

        # What TRL has made of it. The reference is loaded by the name in the model's configuration.
        wrong = inexact_model(self.model, args.accept)
        reference = None if self.ref_model is None else _unwrapped(self.ref_model)
        if reference is not None:
            wrong += inexact_reference(self.model, reference)
        wrong += self._inexact_data()
        refuse(wrong)

        for one in (self.model, reference):
            if one is not None and place_by_mask(one) and one is self.model:
                self._say(
                    f"{type(one).__name__} has a table of positions, and TRL scores prompts that "
                    "are padded on the left without any: they are derived from the mask"
                )
        if args.partition == args.baseline == self._group_z == "leave_one_out":
            self._say(
                "Z and the baseline both come from the group, which biases the gradient by "
                "O(1/n), and much in a small group; partition column (python -m lm partition) "
                "leaves none"
            )
        self.add_callback(PartitionMemory())

    def coefficients(self, scored: Scored, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the coefficients of all completions, from the core."""
        log_policy, log_ref, log_proposal, rewards = scored
        _require_finite(scored)
        log_score = self._log_scores(log_ref, rewards)
        keys = self._keys(rows, log_policy.shape[1])
        log_z = self._log_z(keys, rows, log_policy.shape[1])

        # A prompt without a past waits for its next visit: whatever stands for its Z, its
        # coefficients are zero.
        waits = torch.tensor([one is None for one in log_z], device=log_score.device)
        stated = log_score.new_tensor([0.0 if one is None else one for one in log_z])
        coefficients = core.group_coefficients(
            log_score - log_policy,
            divergence=core.find_divergence(self.args.divergence),
            log_z=self._group_z if self.args.partition == "leave_one_out" else stated[:, None],
            baseline="leave_one_out" if self.args.baseline == "leave_one_out" else 0.0,
            log_weights=log_policy - log_proposal,
        )
        if self.args.partition == "past_only":
            coefficients = coefficients.masked_fill(waits[:, None], 0.0)
        self._require_finite_coefficients(coefficients, keys)

        self._record(scored, log_score, waits)
        if self.args.partition == "past_only" and self.model.training:
            for key, score, proposal in zip(keys, log_score, log_proposal, strict=True):
                self._memory.remember(key, score, proposal)
        return coefficients

    @property
    def _group_z(self) -> str:
        """Which Z of the group biases nothing, where there is one."""
        # Where Z is a constant in the signal, as for reverse KL, a Z that all samples share cancels
        # against the mean of the others. One of each sample's own would not.
        cancels = core.find_divergence(self.args.divergence).z_power == 0.0
        return "same_batch" if cancels and self.args.baseline != "none" else "leave_one_out"

    @property
    def _memory(self) -> PartitionMemory:
        # Looked up each time: resuming puts a new one in place.
        found = [c for c in self.callback_handler.callbacks if isinstance(c, PartitionMemory)]
        return found[-1]

    def _log_scores(self, log_ref: Tensor, rewards: Tensor) -> Tensor:
        weights = self.reward_weights.to(rewards)
        if self.args.target == "reward":
            return log_ref + (rewards * weights).sum(-1) / self.args.beta
        if self.args.target == "verifier":
            other = rewards[(rewards != 0) & (rewards != 1)]
            if len(other):
                raise ValueError(
                    f"a reward function returned {other[0].item()}: with target 'verifier' each "
                    "gives 1 (passed) or 0 (failed)"
                )
            return log_ref.masked_fill(~(rewards == 1).all(-1), -math.inf)

        log_score = self.log_score(log_ref, rewards)  # pyright: ignore[reportOptionalCall]
        if log_score.shape != log_ref.shape or not (log_score < math.inf).all():
            raise ValueError(
                f"log_score returned shape {tuple(log_score.shape)} for {tuple(log_ref.shape)}, or "
                "a NaN or +inf: it gives log P of each completion, -inf for what is excluded"
            )
        return log_score.to(log_ref)

    def _log_z(
        self, keys: list[str], rows: Sequence[Mapping[str, Any]], n: int
    ) -> Sequence[float | None]:
        """Return log Z of each prompt, None where only its group or its future can say."""
        if self.args.partition == "past_only":
            return [self._memory.recall(key) for key in keys]
        if self.args.partition == "leave_one_out":
            return [None] * len(keys)
        missing = [row for row in rows if row.get(Z_COLUMN) is None]
        if missing:
            raise ValueError(
                f"the prompt {missing[0]['prompt']!r:.80} has no {Z_COLUMN}: partition column "
                "needs one for each prompt, as python -m lm partition writes it"
            )
        values = self.of_all_prompts([float(row[Z_COLUMN]) for row in rows], n)
        wrong = [value for value in values if not math.isfinite(value)]
        if wrong:
            raise ValueError(
                f"a prompt has {Z_COLUMN} {wrong[0]}: no sample of the base has met its target, "
                "so there is nothing to learn from it: leave it out"
            )
        return values

    def _keys(self, rows: Sequence[Mapping[str, Any]], n: int) -> list[str]:
        """Return a digest of the prompt of each group of all processes."""
        texts = [json.dumps(row["prompt"], sort_keys=True) for row in rows]
        digests = [hashlib.sha256(text.encode()).hexdigest()[:20] for text in texts]
        return self.of_all_prompts(digests, n)

    def _record(self, scored: Scored, log_score: Tensor, waits: Tensor) -> None:
        log_policy, log_ref, log_proposal, _ = scored
        masses = log_score - log_proposal
        known = core.importance_log_partition(log_score, log_proposal)
        with_mass = known > -math.inf
        if with_mass.any():
            self.record("fdpg/log_z_of_batch", known[with_mass].mean().item())
            self.record("fdpg/largest_share", core.largest_share(masses[with_mass]).max().item())
        self.record("fdpg/groups_without_mass", (~with_mass).double().mean().item())
        self.record("fdpg/kl_policy_ref", (log_policy - log_ref).mean().item())
        self.record("fdpg/largest_log_weight", (log_policy - log_proposal).max().item())
        if self.args.partition == "past_only":
            self.record("fdpg/prompts_without_past", waits.double().mean().item())

    def _require_finite_coefficients(self, coefficients: Tensor, keys: list[str]) -> None:
        wrong = (~torch.isfinite(coefficients).all(1)).nonzero()
        if len(wrong) == 0:
            return
        advice = "the divergence is infinite where the target excludes samples"
        if self.args.partition == "leave_one_out":
            advice = (
                "one completion has all of its target's mass, so that its peers give no Z: set "
                "partition column"
            )
        raise ValueError(
            f"a coefficient of group {int(wrong[0])} of {len(keys)} is not finite: {advice}; or "
            f"choose a divergence that is finite there (not {self.args.divergence})"
        )

    def _inexact_data(self) -> list[str]:
        args, columns = self.args, getattr(self.train_dataset, "column_names", None)
        if args.partition == "column" and columns is not None and Z_COLUMN not in columns:
            return [
                f"partition is column, but the dataset has no column {Z_COLUMN} (it has "
                f"{', '.join(columns)}): python -m lm partition writes it"
            ]
        if args.partition == "past_only" and args.max_steps <= 0 and args.num_train_epochs <= 1:
            return [
                f"partition is past_only with {args.num_train_epochs} epoch: each prompt comes "
                "once, and a first visit only fills the memory of Z: take two epochs or more"
            ]
        return []

    def _say(self, sentence: str) -> None:
        if self.accelerator.is_main_process:
            _log.warning("f-DPG: %s", sentence)


def _unwrapped(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    return model


def _require_finite(scored: Scored) -> None:
    for name in ("log_policy", "log_ref", "log_proposal"):
        values = getattr(scored, name)
        if not torch.isfinite(values).all():
            who = "the sampler" if name == "log_proposal" else "the model"
            raise ValueError(f"{name} of a completion is not finite: {who} gave a token NaN or 0")
