"""What TRL does not promise to keep: the only module that names its private methods.

TRL has no hook for advantages, and its maintainers' word (huggingface/trl#4525) is to subclass and
override `_generate_and_score_completions`. Whatever else of it is needed is needed here, so that a
release that moves something is met by one sentence (`require_hooks`) and mended in one place.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor

from lm.engines.extras import engine

# By name: to a type checker without TRL, `import trl` would be the module beside this one.
trl = engine("trl")
GRPOConfig: Any = trl.GRPOConfig
GRPOTrainer: Any = trl.GRPOTrainer

__all__ = ["EngineMoved", "GRPOConfig", "HookedGRPO", "Scored", "require_hooks"]

# Methods that are called or overridden, with the parameters that are relied on.
HOOKS = {
    "_generate_and_score_completions": ("inputs",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_per_token_logps_and_entropies": (
        *("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
    ),
    "compute_loss": ("model", "inputs"),
}
# What a trainer has once it is made, beside what GRPO's public settings give it.
ATTRIBUTES = ("_metrics", "_logs", "reward_func_names", "num_generations_eval")
# Keys of what the first of them returns.
KEYS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
TESTED = "trl 1.8.0 and 1.16.0"


class EngineMoved(ImportError):
    """A release of an engine lacks something that f-DPG stands on."""


class Scored(NamedTuple):
    """The completions of all processes, scored.

    Attributes
    ----------
    log_policy, log_ref, log_proposal
        Shape (prompts, n), float64: log pi, log of the reference and log q, in nats.
    rewards
        Shape (prompts, n, functions), float64.
    """

    log_policy: Tensor
    log_ref: Tensor
    log_proposal: Tensor
    rewards: Tensor


def require_hooks(trainer: type) -> None:
    """Raise an EngineMoved unless a trainer class has all methods, with the parameters needed.

    Parameters
    ----------
    trainer
        TRL's GRPOTrainer.
    """
    for name, needed in HOOKS.items():
        method = getattr(trainer, name, None)
        found = () if method is None else inspect.signature(method).parameters
        missing = [parameter for parameter in needed if parameter not in found]
        if method is None or missing:
            lacks = f"no parameter {missing[0]}" if method is not None else "moved or gone"
            raise _moved(f"{trainer.__name__}.{name} has {lacks}")


def require_attributes(trainer: Any) -> None:
    """Raise an EngineMoved unless a trainer that was made has all attributes that are used.

    Parameters
    ----------
    trainer
        A GRPOTrainer of TRL, or one of ours.
    """
    missing = [name for name in ATTRIBUTES if not hasattr(trainer, name)]
    if missing:
        raise _moved(f"{GRPOTrainer.__name__} has no attribute {missing[0]}")


def _moved(what: str) -> EngineMoved:
    return EngineMoved(
        f"trl {trl.__version__}: {what}, which lm/engines/trl_private.py stands on. It was tested "
        f"with {TESTED}: install one of these, or mend that module, the only one that names TRL's "
        "private methods"
    )


class HookedGRPO(GRPOTrainer):
    """GRPOTrainer with a place to put coefficients: `coefficients` replaces its advantages."""

    _tag_names: ClassVar[list[str]] = ["trl", "f-dpg"]
    _name = "f-DPG"
    _paper: ClassVar[dict[str, Any]] = {
        "title": "Aligning Language Models with Preferences through f-divergence Minimization",
        "id": "2302.08215",
        "citation": None,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        require_hooks(GRPOTrainer)
        super().__init__(*args, **kwargs)
        require_attributes(self)
        self._rewards: Tensor | None = None

    @abstractmethod
    def coefficients(self, scored: Scored, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return c, shape (prompts, n), such that mean(c grad log pi) is the gradient.

        Parameters
        ----------
        scored
            The completions of all processes.
        rows
            The dataset's rows of this process, one per completion.
        """

    def record(self, name: str, value: float) -> None:
        """Add a number to the metrics of this step."""
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def of_all_prompts(self, values: list[Any], generations: int) -> list[Any]:
        """Return one value per prompt of all processes, from one per completion of this one."""
        return gather_object(values)[::generations]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return GRPO's loss without its KL term, which is in the coefficients already."""
        # beta > 0 made TRL load the reference and score with it.
        beta, self.beta = self.beta, 0.0
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.beta = beta

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        # TRL gives a sample without a reward the advantage 0, as if it were known to be average.
        wrong = (~torch.isfinite(rewards)).nonzero()
        if len(wrong):
            row, function = wrong[0].tolist()
            raise ValueError(
                f"the reward function {self.reward_func_names[function]!r} returned "
                f"{rewards[row, function].item()} (None is NaN) for completion {row} of the batch: "
                "return a finite number for each; what must be excluded is a target of its own "
                "(target verifier, or score with -inf)"
            )
        self._rewards = rewards.double()
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        missing = [key for key in (*KEYS, "ref_per_token_logps") if key not in out]
        if missing or self._rewards is None:
            lacks = missing[0] if missing else "rewards"
            raise _moved(f"its batches hold no {lacks}")
        if "pixel_values" in out:
            raise ValueError("the prompts hold images: f-DPG was tested with text alone")

        # Sums over the tokens that the policy wrote; a tool's answers are none of them.
        mask = out["completion_mask"] * out.get("tool_mask", 1)
        log_policy = (self._log_policy(out).double() * mask).sum(1)
        log_ref = (out.pop("ref_per_token_logps").double() * mask).sum(1)
        sampled = out.get("sampling_per_token_logps")
        log_proposal = log_policy if sampled is None else (sampled.double() * mask).sum(1)

        # Groups may be spread over processes.
        n = self.num_generations if self.model.training else self.num_generations_eval
        rows = self.accelerator.gather(torch.stack([log_policy, log_ref, log_proposal], 1))
        log_policy, log_ref, log_proposal = rows.T.reshape(3, -1, n)
        rewards = self._rewards.reshape(len(log_policy), n, -1)
        scored = Scored(log_policy, log_ref, log_proposal, rewards)
        coefficients = self.coefficients(scored, inputs).flatten()

        # dr_grpo divides the sum over tokens by max_completion_length; batches are averaged.
        first = self.accelerator.process_index * len(inputs)
        mine = coefficients[first : first + len(inputs)]
        out["advantages"] = (-mine * self.max_completion_length).to(out["advantages"].dtype)
        self._show(-coefficients)
        return out

    def _log_policy(self, out: Any) -> Tensor:
        """Return log pi of each token, which TRL itself does without on-policy."""
        if "old_per_token_logps" in out:
            return out.pop("old_per_token_logps")
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
        seen = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
        training, args = self.model.training, self.args
        size = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
        with torch.no_grad():
            return self._get_per_token_logps_and_entropies(
                self.model, ids, seen, out["completion_ids"].size(1), batch_size=size
            )[0]

    def _show(self, advantages: Tensor) -> None:
        """Put the advantages that are used into the table of completions, in place of TRL's."""
        shown = self._logs["advantages"]
        for _ in range(min(len(advantages), len(shown))):
            _ = shown.pop()
        shown.extend(advantages.tolist())
