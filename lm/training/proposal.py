"""The proposal q: from which distribution, and after which prompts, a step's samples are drawn.

Most runs draw from the policy itself. A transform that the policy does not have (``off_policy``)
makes another law of the same weights; a KL-adaptive proposal is a copy that is renewed when the
policy has become the better one. Importance weights pi/q then stand in the coefficients.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from fdpg_ref import forward_kl_gain
from lm.config import RunConfig
from lm.device.processes import gather, local_rows
from lm.device.streams import PROMPT_ORDER, TRAINING, random_stream
from lm.errors import RunError
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.training.sharding import WholeWeights


class Proposal:
    """Draws this process's samples of each step.

    Parameters
    ----------
    config
        A resolved configuration.
    policy
        The policy that is trained. It is copied here for a KL-adaptive proposal, so before it is
        wrapped for several processes.
    prompts
        All contexts of the run; None for the start token alone.
    accelerator
        Of the run.
    weights
        Lends policies with whole weights, for sampling.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        prompts: Prompts | None,
        accelerator: Accelerator,
        weights: WholeWeights,
    ) -> None:
        self._weights = weights
        self._config, self._accelerator, self._trained = config, accelerator, policy
        self._prompts = prompts
        self._copied = config.proposal.kind == "kl_adaptive"
        self.policy = policy.frozen_copy() if self._copied else policy
        if config.off_policy:
            self.policy = self.policy.with_transform(config.sampling)
        self.generator = random_stream(config.seed, TRAINING)

    def contexts(self, step: int) -> Tensor | None:
        """Return which prompts a step uses, shape (contexts,), int64; None without prompts."""
        if self._prompts is None:
            return None
        config = self._config
        number = len(self._prompts.tokens) - config.prompts.held_out
        return prompts_of_step(config.seed, step, number=number, per_step=config.prompts.per_step)

    def sample(self, contexts: Tensor | None) -> Samples:
        """Draw this process's rows of a batch, contexts outermost.

        Every process draws the uniforms of the whole batch: a sample does not depend on how many
        processes there are.

        Parameters
        ----------
        contexts
            As `contexts` returned them.
        """
        known = None
        if self._prompts is not None and contexts is not None:
            known = self._prompts.rows(contexts)
        with self._weights.of(self.policy) as policy:
            return policy.sample(
                self._config.samples_per_context,
                generator=self.generator,
                prompts=known,
                rows=local_rows(self._config.batch_size, self._accelerator),
            )

    def log_prob(self, samples: Samples, log_policy: Tensor) -> Tensor:
        """Return log q of all processes' samples, shape (contexts, n), in nats.

        Parameters
        ----------
        samples
            This process's.
        log_policy
            Shape (contexts, n): log pi before the batch's first update. Where the proposal is the
            policy itself that is log q, and no second scoring is needed.
        """
        if self.policy is self._trained:
            return log_policy
        return gather(self._accelerator, samples.log_prob).view_as(log_policy)

    def due(self, step: int) -> bool:
        """Whether policy and proposal are compared after this step."""
        return self._copied and step % self._config.proposal.every == 0

    def compare(
        self, log_policy: Tensor, log_proposal: Tensor, log_score: Tensor
    ) -> dict[str, float | bool | None]:
        """Adopt the policy as the proposal if it is closer to the target.

        Source: Khalifa et al. (2021), arXiv 2012.11635, Algorithm 2, by its KL criterion.

        Parameters
        ----------
        log_policy
            Shape (contexts x n,), nats: log pi as it is now, of samples of q.
        log_proposal, log_score
            Shape (contexts, n), nats: log q and log P of them. With prompts the gain is the mean
            over those whose target excludes not every sample.

        Returns
        -------
        dict
            ``proposal_gain``, the estimate of KL(p||q) - KL(p||pi) in nats (None where the target
            excludes every sample), and ``proposal_renewed``; the same on every process.

        Raises
        ------
        RunError
            The policy's log-probabilities are not finite; the copy stays as it was.
        """
        if not bool(torch.isfinite(log_policy).all()):
            raise RunError(
                "after the update the policy's log-probability of a sample is not finite: lower "
                "optimizer.lr"
            )
        gains = forward_kl_gain(log_policy.view_as(log_score), log_proposal, log_score)
        known = gains[~torch.isnan(gains)]
        if len(known) == 0:
            return {"proposal_gain": None, "proposal_renewed": False}
        gain = float(known.mean())
        if gain > 0:
            self._renew()
        return {"proposal_gain": gain, "proposal_renewed": gain > 0}

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs beside the policy: the copy's weights, if there is one."""
        return dict(self.policy.model.state_dict()) if self._copied else {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on with the proposal of a checkpoint."""
        if self._copied:
            self.policy.model.load_state_dict(tensors)

    @torch.no_grad()
    def _renew(self) -> None:
        self.policy.model.load_state_dict(self._trained.model.state_dict())


def prompts_of_step(seed: int, step: int, *, number: int, per_step: int) -> Tensor:
    """Return the prompts of a step: a function of seed and step, so that nothing is to be saved.

    Every epoch is a permutation of its own, cut into steps; the remainder that does not fill a
    step is left out, another one each time, so that no prompt occurs twice in a step.

    Parameters
    ----------
    seed
        Of the run.
    step
        From 1 on.
    number
        Prompts to choose from.
    per_step
        Prompts of each step.

    Returns
    -------
    Tensor
        Shape (per_step,), int64.

    Raises
    ------
    RunError
        There are fewer prompts than a step needs.
    """
    if number < per_step:
        raise RunError(
            f"prompts.per_step is {per_step}, but there are only {number} prompts: lower it"
        )
    epoch, place = divmod(step - 1, number // per_step)
    order = torch.randperm(number, generator=random_stream(seed, PROMPT_ORDER, epoch))
    return order[place * per_step : (place + 1) * per_step]
