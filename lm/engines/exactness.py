"""What would make a trainer's gradient another one than that of D_f, with the reason for each.

A table of settings and a look at the model. What stands here is refused by name; what an engine's
module repairs instead, it says. Figures are relative errors of the gradient of a Jensen-Shannon
divergence over all sequences of a tiny model, one deviation at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from fdpg_ref import DIVERGENCES, find_divergence


class InexactGradient(ValueError):
    """The gradient would not be that of the divergence; the message names each reason."""


class Row(NamedTuple):
    """A setting of a trainer.

    Attributes
    ----------
    option
        Its name.
    exact
        The values that leave the gradient exact; the first one is what to set.
    why
        What any other value does.
    acceptable
        Whether a user may accept it: it rounds or rescales, and turns nothing around.
    """

    option: str
    exact: tuple[Any, ...]
    why: str
    acceptable: bool = False


_OTHER_LAW = "samples would come from another law than the one that is scored"
_STALE = "samples would be of an older policy than the one that is trained"

# Settings that a release does not have are passed over.
ROWS: tuple[Row, ...] = (
    # The loss.
    Row(
        "loss_type",
        ("dr_grpo",),
        "it alone divides by a constant; dapo's size varies with the number of tokens, and grpo, "
        "bnpo, cispo and sapo take another direction (relative error 0.99 for grpo)",
    ),
    Row("importance_sampling_level", ("token",), "sequences would be weighted by 1/length"),
    Row("mask_truncated_completions", (False,), "a part of the samples is dropped (error 1.1)"),
    Row("top_entropy_quantile", (1.0,), "tokens are dropped (error 0.92 for 0.5)"),
    Row("off_policy_mask_threshold", (None,), "a part of the samples is dropped"),
    Row("delta", (None,), "ratios would be cut off"),
    Row("entropy_coef", (0.0,), "the gradient of an entropy would be added"),
    Row("use_adaptive_entropy", (False,), "the gradient of an entropy would be added"),
    Row("router_aux_loss_coef", (0.0,), "the gradient of the router's own loss would be added"),
    Row("use_liger_kernel", (False,), "its loss is another code path"),
    Row("use_liger_loss", (False,), "its loss is another code path"),
    Row("scale_rewards", ("none", False), "f-DPG's coefficients replace the advantages"),
    Row("neftune_noise_alpha", (None,), "noise in the embeddings makes the scorer another model"),
    Row(
        "vllm_importance_sampling_correction",
        (False,),
        "it would multiply the loss once more: the weights of vLLM's samples are in the "
        "coefficients already",
    ),
    # The samples.
    Row("temperature", (1.0,), "policy and base would be the tempered ones (error 0.37 at 0.7)"),
    Row("top_p", (1.0,), _OTHER_LAW),
    Row("top_k", (0, None, -1), _OTHER_LAW),
    Row("min_p", (None, 0.0), _OTHER_LAW),
    Row("repetition_penalty", (1.0,), _OTHER_LAW),
    Row("generation_kwargs", (None, {}), _OTHER_LAW),
    Row("vllm_structured_outputs_regex", (None,), _OTHER_LAW),
    Row("num_iterations", (1,), _STALE),
    # The models.
    Row("disable_dropout", (True,), "sampler and scorer would drop out differently (error 7.0)"),
    Row("sync_ref_model", (False,), "the target would move while it is descended"),
    # What rounds or rescales.
    Row("bf16", (False, None), "8 significant bits (error 0.018)", acceptable=True),
    Row("fp16", (False,), "11 significant bits and a narrow range", acceptable=True),
    Row("max_grad_norm", (0.0, None), "clipping rescales the gradient", acceptable=True),
)
ACCEPTABLE = tuple(row.option for row in ROWS if row.acceptable)

# What a model's own generation_config adds to a sampler, and the values that add nothing.
_GENERATION: Mapping[str, tuple[Any, ...]] = {
    "no_repeat_ngram_size": (None, 0),
    "min_new_tokens": (None, 0),
    "min_length": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "top_h": (None,),
    "exponential_decay_length_penalty": (None,),
    "encoder_repetition_penalty": (None, 1.0),
    "num_beams": (None, 1),
    "guidance_scale": (None, 1.0),
    "remove_invalid_values": (None, False),
    "renormalize_logits": (None, False, True),
    "watermarking_config": (None,),
    "stop_strings": (None, []),
    "max_time": (None,),
}


def inexact_settings(settings: Any, accepted: Sequence[str]) -> list[str]:
    """Return what is wrong with a trainer's settings, one sentence each.

    Parameters
    ----------
    settings
        Has the options as attributes; an option that it lacks is passed over.
    accepted
        Options that the user accepts to be inexact, of `ACCEPTABLE`.
    """
    wrong = [
        f"accept names {name!r}: only {', '.join(ACCEPTABLE)} can be accepted"
        for name in accepted
        if name not in ACCEPTABLE
    ]
    for row in ROWS:
        value = getattr(settings, row.option, row.exact[0])
        if row.option not in accepted and not _is_one_of(value, row.exact):
            choice = f"; accept=[{row.option!r}] takes that knowingly" if row.acceptable else ""
            exact = row.exact[0]
            wrong.append(f"{row.option} is {value!r}, not {exact!r}: {row.why}{choice}")
    return wrong


def inexact_target(divergence: str, target: str, partition: str) -> list[str]:
    """Return why a divergence, a target and a way to know Z do not go together.

    Parameters
    ----------
    divergence
        Its name.
    target
        ``verifier`` excludes samples; others are left to their values.
    partition
        Where Z comes from.
    """
    if target != "verifier":
        return []
    wrong = []
    if find_divergence(divergence).slope_at_infinity == float("inf"):
        finite = sorted(k for k, v in DIVERGENCES.items() if v.slope_at_infinity < float("inf"))
        wrong.append(
            f"divergence is {divergence}, which is infinite where a verifier excludes samples: "
            f"choose one of {', '.join(finite)}, or an alpha below 1"
        )
    if partition == "leave_one_out":
        wrong.append(
            "partition is leave_one_out, which a verifier leaves without Z wherever a group has "
            "one success: Z is the pass rate of the base, so write it beside the prompts (python "
            "-m lm partition) and set partition column"
        )
    return wrong


def inexact_model(model: Any, accepted: Sequence[str]) -> list[str]:
    """Return what is wrong with a model itself, one sentence each.

    Parameters
    ----------
    model
        Of transformers, or peft's wrapper of one.
    accepted
        As for `inexact_settings`.
    """
    wrong, generation = [], getattr(model, "generation_config", None)
    for name, neutral in _GENERATION.items():
        value = getattr(generation, name, None)
        if not _is_one_of(value, neutral):
            wrong.append(
                f"the model's generation_config has {name} {value!r}, which reaches the sampler "
                f"and not the scorer: set model.generation_config.{name} = None"
            )

    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    narrow = sorted(str(dtype) for dtype in dtypes if dtype.itemsize < 4)
    option = "fp16" if narrow == ["torch.float16"] else "bf16"
    if narrow and option not in accepted:
        wrong.append(
            f"the model has weights of {', '.join(narrow)}: load it with dtype float32, or "
            f"accept=[{option!r}] takes that knowingly"
        )
    return wrong


def inexact_reference(model: nn.Module, reference: nn.Module) -> list[str]:
    """Return why a reference that was loaded on its own is not the model that training starts from.

    Shards of a distributed model hold a part of the weights each, and are passed over.

    Parameters
    ----------
    model, reference
        Before the first step.
    """
    both = zip(model.named_parameters(), reference.named_parameters(), strict=False)
    for (name, own), (_, other) in both:
        if own.shape != other.shape or hasattr(own, "full_tensor"):
            return []
        if not torch.equal(own.detach().to(other.device, other.dtype), other.detach()):
            return [
                f"the reference was loaded anew by the model's name and differs from the model "
                f"that you passed (first in {name}): save the model, and pass the folder's name"
            ]
    return []


def refuse(wrong: Iterable[str]) -> None:
    """Raise an InexactGradient that lists what is wrong, if anything is."""
    lines = list(wrong)
    if lines:
        raise InexactGradient(
            "\n  ".join(["the gradient would not be exactly that of the divergence:", *lines])
        )


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    # By type as well: True == 1, and an option that is 1 may mean something else than True.
    return any(value is one or (type(value) is type(one) and value == one) for one in allowed) or (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and any(value == one for one in allowed if not isinstance(one, bool))
    )
