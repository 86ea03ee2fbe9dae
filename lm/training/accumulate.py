"""Micro-batches: how a batch is scored and differentiated does not change its gradient.

Per-sample log-probabilities come first, for the whole batch and all processes; coefficients are
computed from them once; then the micro-batches are differentiated one by one, each weighted by its
share of the batch. A batch that is one micro-batch is scored once: its graph is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from lm.device.amp import Amp
from lm.device.processes import gather
from lm.policy.protocol import Policy
from lm.policy.samples import Samples


class Part(NamedTuple):
    """One micro-batch, ready to be differentiated.

    Attributes
    ----------
    log_policy
        Shape (rows,), nats: differentiable.
    rows
        Its rows in the global batch.
    share
        What its mean loss is multiplied by, so that all parts of all processes add up to the mean
        over the global batch (processes average their gradients).
    """

    log_policy: Tensor
    rows: slice
    share: float


class MicroBatches:
    """Scores this process's rows of a batch and hands out their graphs, one at a time.

    Parameters
    ----------
    policy
        The policy that is trained; its scorer may be wrapped for several processes.
    accelerator, amp
        Of the run.
    size
        Rows of one forward and backward pass; None takes all rows of this process at once.
    off_policy
        The samples were drawn under another transform than the policy's.
    """

    def __init__(
        self,
        policy: Policy,
        accelerator: Accelerator,
        amp: Amp,
        *,
        size: int | None = None,
        off_policy: bool = False,
    ) -> None:
        self.policy = policy
        self._accelerator, self._amp, self._size = accelerator, amp, size
        self._off_policy = off_policy
        self._samples: Samples | None = None
        self._graph: Tensor | None = None

    def score(self, samples: Samples) -> Tensor:
        """Return log pi of all processes' samples; `parts` then gives what to differentiate.

        Parameters
        ----------
        samples
            This process's rows.

        Returns
        -------
        Tensor
            Shape (global batch,), nats, at least float32; no gradient.
        """
        self._samples, self._graph = samples, None
        if len(self._slices(samples)) > 1:
            return self.measure(samples)
        self._graph = self._differentiable(samples)
        return gather(self._accelerator, self._graph)

    @torch.no_grad()
    def measure(self, samples: Samples) -> Tensor:
        """Return what `score` does, and keep no graph."""
        return gather(self._accelerator, self.score_by(self.policy, samples))

    @torch.no_grad()
    def score_by(self, policy: Policy | None, samples: Samples) -> Tensor:
        """Return the log-probability of this process's samples under any policy, such as the base.

        Its micro-batches are the same, so that it needs no more memory than training does.

        Parameters
        ----------
        policy
            None stands for the law that the samples were drawn from, which they carry.
        samples
            Of this process.

        Returns
        -------
        Tensor
            Shape (n,), nats, at least float32; no gradient.
        """
        if policy is None:
            return samples.log_prob
        scored = []
        for rows in self._slices(samples):
            with self._amp.autocast():
                scored.append(policy.score(samples.rows(rows), off_policy=self._off_policy))
        return torch.cat(scored)

    @property
    def whole_graph(self) -> Tensor | None:
        """Shape (n,): the graph of the samples scored last, if it holds the whole global batch."""
        return self._graph if self._accelerator.num_processes == 1 else None

    def parts(self) -> Iterator[Part]:
        """Yield the micro-batches of the samples scored last, once; differentiate each in turn.

        Gradients are exchanged between processes in the last one's backward pass only.

        Raises
        ------
        RuntimeError
            Nothing was scored since the last time.
        """
        if self._samples is None:
            raise RuntimeError("score the samples before differentiating them")
        samples, graph = self._samples, self._graph
        self._samples = self._graph = None
        n = len(samples.tokens)
        first = self._accelerator.process_index * n
        for rows in self._slices(samples):
            with nullcontext() if rows.stop == n else self._unsynchronised():
                log_policy = self._differentiable(samples.rows(rows)) if graph is None else graph
                place = slice(first + rows.start, first + rows.stop)
                yield Part(log_policy, place, (rows.stop - rows.start) / n)

    def _differentiable(self, samples: Samples) -> Tensor:
        with self._amp.autocast():
            return self.policy.score(samples, off_policy=self._off_policy)

    def _slices(self, samples: Samples) -> list[slice]:
        n = len(samples.tokens)
        size = self._size or n
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _unsynchronised(self) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(self.policy.scorer)
