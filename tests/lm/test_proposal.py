"""From which distribution samples come: several updates, stale and adaptive proposals, prompts."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from support.lm_runs import MILD
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_policy
from torch import Tensor

from fdpg_ref import DIVERGENCES, leave_one_out, score_coefficients, score_signal
from lm.config import (
    BaselineConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    SamplingConfig,
    TargetConfig,
    resolve,
)
from lm.device.amp import Amp
from lm.device.processes import build_accelerator
from lm.errors import RunError
from lm.policy.causal import CausalPolicy
from lm.policy.samples import Samples
from lm.surrogate import surrogate_loss
from lm.target.proven_status import status_of
from lm.training.accumulate import MicroBatches
from lm.training.proposal import Proposal, prompts_of_step
from lm.training.sharding import WholeWeights

TOKENS, MASK = enumerate_sequences(eos_ids=(1,), pad_id=0, limit=4)
BATCHES, SIZE = 150, 32
PEARSON = {
    "divergence": "pearson_chi2",
    "partition": PartitionConfig(policy="same_batch"),
    "baseline": BaselineConfig(kind="none"),
}
OWN_Z = {
    "partition": PartitionConfig(policy="leave_one_out"),
    "baseline": BaselineConfig(kind="none"),
}
PROMPTED = {
    "target": TargetConfig(kind="reward_tilted", reward={"letters": 1.0}),
    "prompts": PromptsConfig("prompts.txt", per_step=4),
    "divergence": "forward_kl",
}


def _policy(seed: int) -> CausalPolicy:
    return tiny_policy(tiny_gpt2(seed=seed, scale=5.0)).trainable_copy()


def _config(**changes: object) -> RunConfig:
    given = {"target": MILD, "batch_size": SIZE, "device": "cpu", "precision": "float64"}
    return RunConfig(**(given | changes))  # pyright: ignore[reportArgumentType]


def _proposal(config: RunConfig, policy: CausalPolicy) -> Proposal:
    weights = WholeWeights(policy, sharded=False)
    return Proposal(config, policy, None, build_accelerator("cpu"), weights)


def _log_target(log_prob: Tensor, tokens: Tensor) -> Tensor:
    """Return an unnormalised target: texts with a token 2 are twice as probable as under q."""
    return log_prob + math.log(2.0) * (tokens == 2).any(-1)


def _flat_gradient(policy: CausalPolicy) -> Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def _exact_gradient(policy: CausalPolicy, log_target: Tensor, divergence: str) -> Tensor:
    """Return grad sum p g(pi/p), by the enumeration of every sequence."""
    policy.model.zero_grad()
    log_policy = policy.log_prob(TOKENS, MASK)
    value = DIVERGENCES[divergence].density(log_policy, log_target).sum()
    value.backward()
    return _flat_gradient(policy)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("kind", ["kl_adaptive", "off_policy"])
def test_samples_of_another_distribution_give_the_gradient_of_this_one(kind, divergence):
    policy, changed = _policy(0), _policy(0)
    if kind == "kl_adaptive":
        config = _config(proposal=ProposalConfig("kl_adaptive"))
    else:
        config = _config(sampling=SamplingConfig(temperature=1.4), off_policy=True)
    proposal = _proposal(config, policy)
    with torch.no_grad():  # the policy moves on, a stale proposal stays
        for parameter, other in zip(
            policy.model.parameters(), _policy(1).model.parameters(), strict=True
        ):
            _ = parameter.lerp_(other, 0.1)
        log_base = changed.log_prob(TOKENS, MASK)
        target = _log_target(log_base, TOKENS.where(MASK, 0))
        log_z = target.logsumexp(0)
    exact = _exact_gradient(policy, target - log_z, divergence)
    batches = MicroBatches(
        policy, build_accelerator("cpu"), Amp("float64", "cpu"), off_policy=config.off_policy
    )
    gradients = []
    for step in range(BATCHES):
        samples = proposal.sample(proposal.contexts(step + 1))
        log_policy = batches.score(samples)[None]
        log_proposal = proposal.log_prob(samples, log_policy)
        if kind == "kl_adaptive":
            expected = changed.score(samples).detach()
            torch.testing.assert_close(log_proposal[0], expected, rtol=0, atol=1e-9)
        log_score = _log_score(changed, samples)[None]
        signal = score_signal(log_policy, log_score - log_z, divergence=DIVERGENCES[divergence])
        coefficients = score_coefficients(
            signal, baseline=leave_one_out(signal), log_weights=log_policy - log_proposal
        )
        policy.model.zero_grad()
        for part in batches.parts():
            _ = surrogate_loss(part.log_policy, coefficients[0]).backward()
        gradients.append(_flat_gradient(policy))
    _assert_mean(torch.stack(gradients), exact)


def _log_score(base: CausalPolicy, samples: Samples) -> Tensor:
    with torch.no_grad():
        log_base = base.score(samples, off_policy=True)
    return _log_target(log_base, samples.tokens.where(samples.mask, 0))


def _assert_mean(gradients: Tensor, exact: Tensor) -> None:
    """Compare the mean of independent gradients with the exact one, along fixed directions."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(40, len(exact), generator=generator, dtype=torch.float64)
    directions = torch.cat([directions, exact[None] / exact.norm()])
    errors = (gradients - exact) @ directions.T
    z = errors.mean(0) / (errors.std(0) / math.sqrt(len(errors)))
    # 41 correlated z-scores of one fixed seed: 4 would be passed by chance once in 400 seeds.
    assert float(z.abs().max()) < 4.0
    # The estimate is sharp enough to tell a missing weight from none: it is not all noise.
    along = gradients @ (exact / exact.norm())
    assert float(exact.norm()) > 5 * float(along.std()) / math.sqrt(len(along))


def test_the_proposal_is_the_policy_unless_something_else_is_asked_for():
    policy = _policy(0)
    proposal = _proposal(_config(), policy)
    assert proposal.policy is policy
    log_policy = torch.zeros(1, SIZE)
    assert proposal.log_prob(proposal.sample(None), log_policy) is log_policy
    assert not any(proposal.due(step) for step in range(1, 30))
    assert proposal.state_tensors() == {}


def _gains(policy: CausalPolicy, proposal: Proposal, log_score: Tensor) -> float:
    """Return KL(p||q) - KL(p||pi) exactly."""
    with torch.no_grad():
        log_target = log_score - log_score.logsumexp(0)
        gain = policy.log_prob(TOKENS, MASK) - proposal.policy.log_prob(TOKENS, MASK)
        return float((log_target.exp() * gain).sum())


@pytest.mark.parametrize("toward", [True, False], ids=["toward", "away"])
def test_a_kl_adaptive_proposal_adopts_the_better_policy_and_no_other(toward):
    policy = _policy(0)
    config = _config(proposal=ProposalConfig("kl_adaptive", every=3), batch_size=4000)
    proposal = _proposal(config, policy)
    assert [step for step in range(1, 10) if proposal.due(step)] == [3, 6, 9]
    with torch.no_grad():
        log_score = _log_target(policy.log_prob(TOKENS, MASK), TOKENS.where(MASK, 0))
        start = {name: value.clone() for name, value in policy.model.state_dict().items()}
    exact = _exact_gradient(policy, log_score - log_score.logsumexp(0), "forward_kl")
    size = 0.05 / float(exact.norm())
    with torch.no_grad():
        for parameter in policy.model.parameters():
            assert parameter.grad is not None
            _ = parameter.add_(parameter.grad, alpha=-size if toward else size)
    truth = _gains(policy, proposal, log_score)
    assert (truth > 0) == toward
    samples = proposal.sample(None)
    with torch.no_grad():
        log_policy = policy.score(samples)[None]
        log_proposal = proposal.log_prob(samples, log_policy)
        scores = _log_score(_with(start), samples).view_as(log_proposal)
    outcome = proposal.compare(log_policy, log_proposal, scores)
    # 5 standard errors of a self-normalised mean, by the delta method; they must tell the sign.
    weights = (scores - log_proposal).softmax(-1)
    gains = log_policy - log_proposal
    error = float((weights * (gains - (weights * gains).sum())).norm())
    gain = outcome["proposal_gain"]
    assert gain is not None
    assert abs(gain - truth) < 5 * error < abs(truth)
    assert outcome["proposal_renewed"] == toward
    expected = policy.model.state_dict() if toward else start
    for name, value in proposal.policy.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert not any(p.requires_grad for p in proposal.policy.model.parameters())


def _with(state: dict[str, Tensor]) -> CausalPolicy:
    policy = _policy(0).frozen_copy()
    _ = policy.model.load_state_dict(state)
    return policy


def test_a_policy_that_is_not_a_number_is_not_compared():
    policy = _policy(0)
    proposal = _proposal(_config(proposal=ProposalConfig("kl_adaptive")), policy)
    zeros = torch.zeros(1, SIZE, dtype=torch.float64)
    with pytest.raises(RunError, match=r"not finite: lower optimizer\.lr"):
        _ = proposal.compare(zeros + math.nan, zeros, zeros)


def test_a_batch_without_target_mass_renews_nothing():
    policy = _policy(0)
    proposal = _proposal(_config(proposal=ProposalConfig("kl_adaptive")), policy)
    zeros = torch.zeros(1, SIZE, dtype=torch.float64)
    outcome = proposal.compare(zeros + 1, zeros, zeros - math.inf)
    assert outcome == {"proposal_gain": None, "proposal_renewed": False}
    # With prompts, those that the target excludes entirely are left out.
    mixed = torch.cat([zeros, zeros])
    scores = torch.cat([zeros - math.inf, zeros])
    assert proposal.compare(mixed + 1, mixed, scores)["proposal_gain"] == pytest.approx(1.0)


def test_a_stale_proposal_survives_a_checkpoint():
    config = _config(proposal=ProposalConfig("kl_adaptive"))
    one = _proposal(config, _policy(0))
    other = _proposal(config, _policy(1))
    other.load_state_tensors({name: t.clone() for name, t in one.state_tensors().items()})
    _ = other.generator.set_state(one.generator.get_state())
    here, there = one.sample(None), other.sample(None)
    assert torch.equal(here.tokens, there.tokens)
    assert torch.equal(here.log_prob, there.log_prob)


def test_every_epoch_shows_every_prompt_once_in_an_order_of_its_own():
    def epoch(seed: int, first: int) -> list[int]:
        steps = range(first, first + 3)
        return torch.cat([prompts_of_step(seed, s, number=12, per_step=4) for s in steps]).tolist()

    orders = [epoch(0, 1), epoch(0, 4), epoch(0, 7), epoch(1, 1)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    # A function of seed and step alone: what a run that goes on at step 5 sees is what it was.
    assert prompts_of_step(0, 5, number=12, per_step=4).tolist() == orders[1][4:8]


def test_no_prompt_occurs_twice_in_a_step_and_the_rest_gets_its_turn():
    steps = [prompts_of_step(0, s, number=7, per_step=3).tolist() for s in range(1, 41)]
    assert all(len(set(step)) == 3 for step in steps)
    counts = torch.tensor(steps).flatten().bincount(minlength=7)
    # 20 epochs of 6 prompts out of 7: each is left out 20/7 times, give or take 1.6.
    assert int(counts.min()) >= 20 - 9
    with pytest.raises(RunError, match=r"prompts\.per_step is 8, but there are only 7 prompts"):
        _ = prompts_of_step(0, 1, number=7, per_step=8)


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "unbiased", "Z is exact"),
        ({"updates_per_batch": 2}, "biased", "updated on again"),
        ({"proposal": ProposalConfig("kl_adaptive")}, "unbiased", "Z is exact"),
        ({"sampling": SamplingConfig(temperature=0.8), "off_policy": True}, "unbiased", "exact"),
        ({"sampling": SamplingConfig(top_k=9), "off_policy": True}, "biased", "missing"),
        ({"sampling": SamplingConfig(top_k=9)}, "unbiased", "Z is exact"),
        (PEARSON, "proportional", "on samples of the policy"),
        ({**PEARSON, "proposal": ProposalConfig("kl_adaptive")}, "biased", r"O\(1/n\)"),
        (PROMPTED, "biased", "in each prompt by a factor of its own"),
        ({**PROMPTED, **PEARSON}, "proportional", "on samples of the policy"),
        ({**PROMPTED, "divergence": "reverse_kl"}, "unbiased", "by a constant only"),
        # What Z is made of is cut along with the policy: no batch is large enough.
        ({"sampling": SamplingConfig(top_k=9), **OWN_Z}, "biased", "however many samples"),
        (
            {"sampling": SamplingConfig(top_k=9), **OWN_Z, "divergence": "forward_kl"},
            "proportional",
            "kept tokens held fixed",
        ),
    ],
)
def test_the_status_of_a_run_knows_where_its_samples_come_from(changes, verdict, word):
    status = status_of(resolve(_config(**changes)))
    assert status.verdict == verdict
    assert re.search(word, status.reason)


def test_pearson_with_z_of_the_same_batch_is_proportional_on_samples_of_the_policy_only():
    """The claims above, by all batches of two samples from five outcomes."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    log_policy, log_target, log_other = logits.log_softmax(-1)
    scores = torch.eye(5, dtype=torch.float64) - log_policy.exp()  # of a softmax

    def expected(log_proposal: Tensor) -> Tensor:
        total = torch.zeros(5, dtype=torch.float64)
        for batch in itertools.product(range(5), repeat=2):
            rows = torch.tensor(batch)
            log_q, log_pi, log_p = (x[rows] for x in (log_proposal, log_policy, log_target))
            log_z = torch.logsumexp(log_p - log_q, 0) - math.log(2)
            signal = score_signal(log_pi, log_p - log_z, divergence=DIVERGENCES["pearson_chi2"])
            coefficients = score_coefficients(signal, log_weights=log_pi - log_q)
            total += log_q.sum().exp() * (coefficients[:, None] * scores[rows]).mean(0)
        return total

    signal = score_signal(log_policy, log_target, divergence=DIVERGENCES["pearson_chi2"])
    exact = (log_policy.exp() * signal) @ scores
    torch.testing.assert_close(expected(log_policy), exact / 2, rtol=1e-12, atol=1e-14)
    cosine = torch.nn.functional.cosine_similarity(expected(log_other), exact, dim=0)
    assert float(cosine) < 0.999


def test_an_error_of_each_prompts_z_turns_the_gradient_over_prompts():
    """Forward KL, two prompts of five texts, every sum exact: only within one is it a factor."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
    log_policy, log_target = logits.log_softmax(-1)
    # One logit vector for both prompts, as shared weights have it, shifted by each prompt.
    scores = torch.eye(5, dtype=torch.float64) - log_policy.exp()[:, None, :]

    def gradients(log_error: Tensor) -> Tensor:
        log_p = log_target - log_error[:, None]
        signal = score_signal(log_policy, log_p, divergence=DIVERGENCES["forward_kl"])
        return torch.einsum("cx,cxt->ct", log_policy.exp() * signal, scores)

    true, wrong = gradients(torch.zeros(2)), gradients(torch.tensor([1.0, -1.0]))
    factors = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).exp()
    torch.testing.assert_close(wrong, factors * true, rtol=1e-12, atol=1e-14)
    cosine = torch.nn.functional.cosine_similarity(wrong.sum(0), true.sum(0), dim=0)
    assert float(cosine) < 0.99
