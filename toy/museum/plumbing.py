"""Mistakes around the estimator: masks, chunks, dropout, teachers, defaults."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from toy.museum.judges.invariances import (
    ACCUMULATES,
    CONTINUOUS_AT_THE_ENDS,
    IGNORES_PADDING,
    INSTANCES_ARE_INDEPENDENT,
    READS_THE_TEXT_ALONE,
    STEP_ZERO,
    TEACHER_IS_STATIONARY,
)
from toy.museum.records import exhibit


@exhibit(18, report="arXiv 2604.23747", oracle=ACCUMULATES)
class _MeanOfMeans:
    """The mean of micro-batch means.

    Micro-batches with unequal numbers of tokens get equal weights.
    """

    @staticmethod
    def exhibit(values: Tensor, mask: Tensor, rows: int) -> Tensor:
        chunks = list(zip(values.split(rows), mask.split(rows), strict=True))
        means = [torch.sum(part * kept) / torch.sum(kept) for part, kept in chunks]
        return torch.stack(means).mean()

    @staticmethod
    def twin(values: Tensor, mask: Tensor, rows: int) -> Tensor:
        chunks = list(zip(values.split(rows), mask.split(rows), strict=True))
        sums = [torch.sum(part * kept) for part, kept in chunks]
        return torch.stack(sums).sum() / torch.sum(mask)


@exhibit(32, report="OpenRLHF#836, huggingface/trl#925", oracle=STEP_ZERO)
class _Dropout:
    """Dropout active in one of policy and reference.

    Two copies of one model differ, because only one of them drops units.
    """

    @staticmethod
    def exhibit(policy: nn.Module, reference: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        policy.train()
        reference.eval()
        return torch.log_softmax(policy(inputs), -1), torch.log_softmax(reference(inputs), -1)

    @staticmethod
    def twin(policy: nn.Module, reference: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        policy.eval()
        reference.eval()
        return torch.log_softmax(policy(inputs), -1), torch.log_softmax(reference(inputs), -1)


@exhibit(33, report="volcengine/verl#7856, volcengine/verl#5041", oracle=TEACHER_IS_STATIONARY)
class _TruncatedTeacher:
    """KL to the top k outcomes of a teacher.

    What is left of the distributions does not sum to one: the policy gains by putting more than the
    teacher's mass on the top.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_teacher: Tensor) -> Tensor:
        teacher, top = torch.topk(log_teacher, 3)
        policy = log_policy[top]
        return torch.sum(torch.exp(teacher) * (teacher - policy))

    @staticmethod
    def twin(log_policy: Tensor, log_teacher: Tensor) -> Tensor:
        teacher, top = torch.topk(log_teacher, 3)
        policy = log_policy[top]
        rest = [torch.log1p(-torch.sum(torch.exp(kept))) for kept in (teacher, policy)]
        teacher, policy = torch.hstack([teacher, rest[0]]), torch.hstack([policy, rest[1]])
        return torch.sum(torch.exp(teacher) * (teacher - policy))


@exhibit(34, report="ms-swift#10078, huggingface/trl#6780", oracle=CONTINUOUS_AT_THE_ENDS)
class _JumpingEnds:
    """Generalised Jensen-Shannon with special-cased ends.

    Inside (0, 1) the divergence vanishes towards both ends, where it is then replaced by a whole
    KL: the scale of the gradient jumps.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_target: Tensor, weight: float) -> Tensor:
        if weight in (0.0, 1.0):
            first, second = (log_target, log_policy) if weight else (log_policy, log_target)
            return torch.sum(torch.exp(first) * (first - second))
        policy, target = torch.exp(log_policy), torch.exp(log_target)
        log_mixture = torch.log((1 - weight) * target + weight * policy)
        of_policy = torch.sum(policy * (log_policy - log_mixture))
        of_target = torch.sum(target * (log_target - log_mixture))
        return (1 - weight) * of_target + weight * of_policy

    @staticmethod
    def twin(log_policy: Tensor, log_target: Tensor, weight: float) -> Tensor:
        if weight in (0.0, 1.0):
            first, second = (log_target, log_policy) if weight else (log_policy, log_target)
            return torch.sum(torch.exp(first) * (first - second))
        policy, target = torch.exp(log_policy), torch.exp(log_target)
        log_mixture = torch.log((1 - weight) * target + weight * policy)
        of_policy = torch.sum(policy * (log_policy - log_mixture)) / (1 - weight)
        of_target = torch.sum(target * (log_target - log_mixture)) / weight
        return of_target + of_policy


@exhibit(37, report="open-instruct#535", oracle=IGNORES_PADDING)
class _MeanBeforeMask:
    """The mean taken before the mask.

    Each row is averaged over its padding too: the mask comes too late.
    """

    @staticmethod
    def exhibit(values: Tensor, mask: Tensor) -> Tensor:
        rows = torch.mean(values, dim=-1)
        return torch.mean(rows * torch.any(mask, dim=-1))

    @staticmethod
    def twin(values: Tensor, mask: Tensor) -> Tensor:
        rows = torch.sum(values * mask, dim=-1)
        return torch.sum(rows) / torch.sum(mask)


@exhibit(44, report="own finding", oracle=READS_THE_TEXT_ALONE)
class _LeftPadding:
    """Learned positions counted from the first column of a batch.

    A prompt that is padded on the left stands at other places of the table than where the sampler
    had it, so that another text is scored. Rotary positions do not mind.
    """

    @staticmethod
    def exhibit(words: Tensor, places: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[-1])
        hidden = (words[tokens] + places[positions]) * mask[..., None]
        context = torch.cumsum(hidden, dim=-2) / torch.cumsum(mask, -1).clamp(min=1)[..., None]
        return torch.log_softmax(context @ words.T, dim=-1)

    @staticmethod
    def twin(words: Tensor, places: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        positions = (torch.cumsum(mask, -1) - 1).clamp(min=0)
        hidden = (words[tokens] + places[positions]) * mask[..., None]
        context = torch.cumsum(hidden, dim=-2) / torch.cumsum(mask, -1).clamp(min=1)[..., None]
        return torch.log_softmax(context @ words.T, dim=-1)


@exhibit(38, report="naver/disco", oracle=INSTANCES_ARE_INDEPENDENT)
class _LeakingDefaults:
    """Settings that leak through a class-level default.

    All instances share one dictionary, so that a second run inherits the settings of the first.
    """

    @staticmethod
    def exhibit() -> type:
        class Sampler:
            options: ClassVar[dict[str, float]] = {"temperature": 1.0}

            def __init__(self, **changes: float) -> None:
                self.options.update(changes)

        return Sampler

    @staticmethod
    def twin() -> type:
        class Sampler:
            defaults: ClassVar[dict[str, float]] = {"temperature": 1.0}

            def __init__(self, **changes: float) -> None:
                self.options = {**self.defaults, **changes}

        return Sampler
