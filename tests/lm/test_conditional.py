"""Contexts, against enumeration: Z, coefficients and divergences of each prompt on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_policy
from torch import Tensor

from fdpg_ref import (
    DIVERGENCES,
    InfiniteDivergence,
    exact_divergence,
    leave_one_out,
    score_coefficients,
    score_signal,
)
from lm.config import (
    EvaluationConfig,
    PartitionConfig,
    PromptsConfig,
    RunConfig,
    SamplingConfig,
    TargetConfig,
)
from lm.device.processes import build_accelerator
from lm.errors import RunError
from lm.evaluation.evaluate import Evaluator
from lm.evaluation.evidence import prefix_sums
from lm.features import registry as features
from lm.features.registry import feature, score
from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.policy.samples import Samples
from lm.run.records import PROMPT_MARK
from lm.target.partition import Partition
from lm.target.problem import Problem, build_partition, build_problem, describe_problem
from lm.training.proposal import Proposal
from lm.training.sharding import WholeWeights

LIMIT, BETA = 3, 0.6
# Token ids as texts: these models have no tokenizer. The lengths differ, and ends occur inside.
PROMPTS = ("2", "3 1", "2 2 3")
PLAIN, CUT = SamplingConfig(), SamplingConfig(top_k=3)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(features, "FEATURES", dict(features.FEATURES))
    monkeypatch.setattr(features, "SCORES", dict(features.SCORES))
    _ = feature("twos")(lambda tokens: [float(row.count(2)) for row in tokens])
    _ = feature("has_three")(lambda tokens: [float(3 in row) for row in tokens])
    _ = feature("after_three")(lambda tokens, prompts: [float("3" in text) for text in prompts])
    _ = score("no_twos")(
        lambda log_base, tokens: [
            -math.inf if 2 in row else a for a, row in zip(log_base, tokens, strict=True)
        ]
    )


@cache
def _model(seed: int, transform: SamplingConfig = PLAIN) -> CausalPolicy:
    model = tiny_gpt2(seed=seed, scale=8.0, positions=8)
    return tiny_policy(model, pad_id=1, limit=LIMIT, transform=transform)


def _problem(
    prompts: tuple[str, ...] = PROMPTS,
    *,
    base: CausalPolicy | None = None,
    target: TargetConfig | None = None,
    policy: Any = "frozen",
    divergence: str = "jensen_shannon",
    samples: int = 6000,
) -> Problem:
    config = RunConfig(
        model="tiny",
        target=target or _tilted(),
        divergence=divergence,
        partition=PartitionConfig(policy=policy, samples=samples),
    )
    return build_problem(config, base or _model(0), prompts)


def _tilted() -> TargetConfig:
    return TargetConfig(kind="reward_tilted", reward={"twos": 1.0}, beta=BETA)


class Enumeration:
    """Every sequence after every prompt: log-probabilities of shape (contexts, sequences)."""

    def __init__(self, prompts: tuple[str, ...], base: CausalPolicy, policy: CausalPolicy) -> None:
        tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=LIMIT)
        rows = base.vocabulary.encode_prompts(list(prompts))
        self.size = len(tokens)
        self.contexts = Prompts.from_ids(rows, pad_id=1).repeat(self.size)
        self.tokens, self.mask = tokens.repeat(len(rows), 1), mask.repeat(len(rows), 1)
        self.log_base, self.log_policy = self.of(base), self.of(policy)
        twos = ((self.tokens == 2) & self.mask).sum(-1).double().reshape(self.log_base.shape)
        self.log_score = self.log_base + twos / BETA
        self.log_z = torch.logsumexp(self.log_score, -1)

    @torch.no_grad()
    def of(self, policy: CausalPolicy) -> Tensor:
        found = policy.log_prob(self.tokens, self.mask, prompts=self.contexts)
        return found.reshape(-1, self.size)

    def divergence(self, name: str) -> Tensor:
        log_target = self.log_score - self.log_z[:, None]
        return exact_divergence(self.log_policy, log_target, divergence=DIVERGENCES[name])


@cache
def _enumeration(prompts: tuple[str, ...] = PROMPTS) -> Enumeration:
    return Enumeration(prompts, _model(0), _model(1))


def test_the_problems_are_hard_enough_to_tell_contexts_apart():
    log_z = _enumeration().log_z
    gaps = (log_z[:, None] - log_z).abs() + torch.eye(3).double() * 9
    # Z of one prompt in place of another would be off by far more than any error below.
    assert float(gaps.min()) > 0.25
    assert float(_enumeration().log_policy.exp().sum(-1).sub(1).abs().max()) < 1e-12


@pytest.mark.parametrize("policy", ["frozen", "leave_one_out"])
def test_z_of_every_prompt_agrees_with_its_sum(policy):
    problem, exact = _problem(policy=policy), _enumeration().log_z
    assert problem.offline is not None
    estimate = problem.offline.estimate
    assert problem.offline.samples == 2000
    ratio = torch.exp(estimate.log_z - exact)
    z = (ratio - 1) / (ratio * estimate.relative_standard_error)
    assert float(z.abs().max()) < 5
    # Z of two prompts differ by at least 30 %: an error of 8 % tells them apart.
    assert float(estimate.relative_standard_error.max()) < 0.08
    assert torch.equal(problem.log_z, estimate.log_z)


def test_features_of_the_target_are_means_over_prompts():
    target, exact = _problem().target, _enumeration()
    twos = (exact.log_score - exact.log_base) * BETA
    for found, log_prob in (
        (target.base_moments, exact.log_base),
        (target.moments, exact.log_score - exact.log_z[:, None]),
    ):
        moment = float((log_prob.exp() * twos).sum(-1).mean())
        # 2,000 samples a prompt of a count between 0 and 3: an error of 0.02 to 0.05.
        assert float(found) == pytest.approx(moment, abs=0.15)


@pytest.mark.parametrize("policy", ["frozen", "past_only", "leave_one_out", "same_batch"])
def test_a_contexts_coefficients_do_not_depend_on_the_other_contexts(policy):
    problem, exact = _problem(), _enumeration()
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(exact.size, (3, 7), generator=generator)
    contexts = torch.tensor([2, 0, 1])
    log_policy = exact.log_policy[contexts].gather(1, rows)
    log_score = exact.log_score[contexts].gather(1, rows)
    estimate = problem.offline.estimate.log_z if problem.offline else None

    def coefficients(*where: int) -> Tensor:
        some = torch.tensor(where)
        partition = Partition(policy, estimate, torch.full((3,), 2000.0))
        q, scores = log_policy[some], log_score[some]
        log_z = partition.log_z(scores, q, contexts=contexts[some])
        signal = score_signal(q, scores - log_z, divergence=DIVERGENCES["jensen_shannon"])
        return score_coefficients(signal, baseline=leave_one_out(signal))

    together = coefficients(0, 1, 2)
    alone = torch.cat([coefficients(0), coefficients(1), coefficients(2)])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)


def test_the_mean_coefficient_gradient_is_that_of_the_mean_divergence():
    # Over all sequences of every prompt, in place of samples, and with the exact Z of each.
    exact = _enumeration()
    policy = _model(1).trainable_copy()
    found = policy.log_prob(exact.tokens, exact.mask, prompts=exact.contexts)
    log_policy = found.reshape(3, -1)
    divergence = DIVERGENCES["forward_kl"]
    partition = Partition("frozen", exact.log_z)
    log_z = partition.log_z(exact.log_score, log_policy, contexts=torch.arange(3))
    signal = score_signal(log_policy.detach(), exact.log_score - log_z, divergence=divergence)
    coefficients = score_coefficients(signal) * log_policy.detach().exp()
    loss = (coefficients * log_policy).sum(-1).mean()
    log_target = exact.log_score - exact.log_z[:, None]
    whole = (log_target.exp() * (log_target - log_policy)).sum(-1).mean()
    parameters = list(policy.model.parameters())
    pairs = [torch.autograd.grad(value, parameters, retain_graph=True) for value in (loss, whole)]
    one, other = (torch.cat([part.flatten() for part in gradient]) for gradient in pairs)
    # 1e-10: a float64 identity (mathematics, section 5).
    assert float((one - other).norm() / other.norm()) < 1e-10


def test_past_only_updates_the_contexts_it_saw_and_no_other():
    log_z = torch.tensor([0.5, -1.0, 2.0]).double()
    partition = Partition("past_only", log_z, torch.tensor([4.0, 5.0, 6.0]), forgetting=0.5)
    log_score = torch.tensor([[0.3, -1.0], [2.0, 1.0]]).double()
    log_proposal = torch.tensor([[-0.5, -0.7], [-0.1, -2.0]]).double()
    seen = torch.tensor([2, 0])
    before = partition.log_z(log_score, log_proposal, contexts=seen)
    assert before.tolist() == [[2.0], [0.5]]
    partition.observe(log_score, log_proposal, contexts=seen)
    weights = torch.exp(log_score - log_proposal).sum(-1)
    expected = [
        math.log((0.5 * 4 * math.exp(0.5) + float(weights[1])) / (0.5 * 4 + 2)),
        -1.0,
        math.log((0.5 * 6 * math.exp(2.0) + float(weights[0])) / (0.5 * 6 + 2)),
    ]
    state = partition.state_tensors()
    assert state["log_z"].tolist() == pytest.approx(expected, abs=1e-12)
    assert state["weight"].tolist() == [4.0, 5.0, 5.0]
    again = Partition("past_only", log_z, torch.tensor([1.0, 1.0, 1.0]), forgetting=0.5)
    again.load_state_tensors(state)
    assert torch.equal(
        again.log_z(log_score, log_proposal, contexts=torch.tensor([0, 2])),
        partition.log_z(log_score, log_proposal, contexts=torch.tensor([0, 2])),
    )
    with pytest.raises(RunError, match="it belongs to another run"):
        Partition("frozen", log_z[:2]).load_state_tensors(state)


def test_a_batch_without_target_mass_cannot_give_its_own_z():
    log_score = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0]])
    for policy, found in (("leave_one_out", 1), ("same_batch", 0)):
        scores = log_score if found else log_score.log()[:, 1:]
        with pytest.raises(RunError, match=rf"\(number 0 of the batch\) {found} have any"):
            _ = Partition(policy).log_z(scores, torch.zeros_like(scores))


def _measured(prompts: tuple[str, ...], samples: int) -> dict[str, Any]:
    problem = _problem(prompts)
    # With the exact Z only the divergence itself is estimated.
    problem = replace(problem, log_z=_enumeration(prompts).log_z)
    config = EvaluationConfig(samples=samples, group=64)
    evaluator = Evaluator(problem, config, divergence="le_cam", seed=5)
    return evaluator.measure(_model(1), step=1, samples=64).record


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_estimate_of_one_context_agrees_with_its_sum(prompt):
    exact, estimates = _enumeration((prompt,)), _measured((prompt,), 2048)["estimates"]
    target = exact.log_score - exact.log_z[:, None]
    expected: dict[str, Callable[[], Tensor]] = {
        "kl_policy_base": lambda: exact.log_policy.exp() * (exact.log_policy - exact.log_base),
        "kl_target_base": lambda: target.exp() * (target - exact.log_base),
        "entropy": lambda: torch.special.entr(exact.log_policy.exp()),
        "entropy_target": lambda: torch.special.entr(target.exp()),
        "feature/twos": lambda: exact.log_policy.exp() * (exact.log_score - exact.log_base) * BETA,
        "length": lambda: exact.log_policy.exp() * exact.mask.sum(-1).reshape(1, -1),
    }
    values = {name: float(terms().sum()) for name, terms in expected.items()}
    names = ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon", "le_cam")
    values |= {name: float(exact.divergence(name)) for name in names}
    for name, value in values.items():
        for estimator, fields in estimates[name].items():
            z = (fields["value"] - value) / fields["standard_error"]
            assert abs(z) < 5, (name, estimator, value, fields)
            # Errors of at most 15 %: a factor of two would be seen.
            assert fields["standard_error"] < 0.15 * abs(value) + 0.01, (name, fields)


def test_estimates_over_contexts_are_means_with_the_spread_of_contexts():
    record, exact = _measured(PROMPTS, 6144), _enumeration()
    assert record["contexts"] == 3
    for name in ("forward_kl", "reverse_kl", "jensen_shannon"):
        values, fields = exact.divergence(name), record["estimates"][name]["sampled"]
        spread = float(values.std()) / math.sqrt(3)
        # Within a context 2,048 samples leave a few percent, hence the spread shows through.
        assert fields["standard_error"] == pytest.approx(spread, rel=0.25)
        assert fields["value"] == pytest.approx(float(values.mean()), rel=0.1)
    zhat = record["estimates"]["log_z"]["sampled"]
    # Its error is that of estimating these Z: it does not hold their spread.
    assert abs(zhat["value"] - float(exact.log_z.mean())) < 5 * zhat["standard_error"]
    assert zhat["standard_error"] < 0.1 * float(exact.log_z.std())
    # Both estimates of a KL look at the same contexts, so that a z would be blind.
    assert "z" not in record["estimates"]["kl_policy_base"]["rao_blackwell"]


@pytest.mark.parametrize("transform", [PLAIN, SamplingConfig(temperature=0.6), CUT])
def test_prefix_sums_average_to_the_sequences_own_exactly(transform):
    policy = _model(1).with_transform(transform)
    base = _model(0)
    exact = Enumeration(PROMPTS, base, policy)
    samples = Samples(exact.tokens, exact.mask, exact.log_policy.flatten(), exact.contexts)
    with torch.no_grad():
        log_base, kl, entropy = prefix_sums(policy, base, samples)
    probability = exact.log_policy.exp()
    ratio = (exact.log_policy - exact.log_base).where(probability > 0, 0.0)
    # The chain rule, as float64 sums of 30 terms of at most a few nats.
    for found, terms in (
        (kl, probability * ratio),
        (entropy, torch.special.entr(probability)),
    ):
        average = (probability * found.reshape(3, -1)).sum(-1)
        torch.testing.assert_close(average, terms.sum(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_base.reshape(3, -1), exact.log_base, rtol=0, atol=1e-12)


def test_a_cut_policy_is_measured_with_its_kept_mass_and_its_infinities():
    base, policy = _model(0, CUT), _model(1, CUT)
    problem = _problem(base=base)
    evaluator = Evaluator(
        problem, EvaluationConfig(samples=768, group=32), divergence="forward_kl", seed=1
    )
    at_base = evaluator.measure(base, step=0, samples=0).record["estimates"]
    assert at_base["kl_policy_base"]["rao_blackwell"]["value"] == 0.0
    estimates = evaluator.measure(policy, step=1, samples=0).record["estimates"]
    # At most one of four tokens is cut, the least probable one.
    assert 0.75 <= estimates["kept_mass"]["sampled"]["value"] < 1.0
    assert estimates["kl_policy_base"]["sampled"]["value"] == "inf"
    assert "cuts off" in estimates["kl_policy_base"]["sampled"]["reason"]
    assert estimates["reverse_kl"]["sampled"] == {
        "value": "inf",
        "reason": "policy mass outside the target",
    }
    assert 0 < estimates["jensen_shannon"]["sampled"]["value"] < math.log(2)


def test_texts_show_the_prompts_in_turn():
    problem = _problem()
    config = EvaluationConfig(samples=96, group=4)
    texts = (
        Evaluator(problem, config, divergence="forward_kl", seed=0)
        .measure(problem.base, step=0, samples=0)
        .texts
    )
    assert len(texts) == 96
    assert [text.partition(PROMPT_MARK)[0] for text in texts[:6]] == list(PROMPTS) * 2


def test_a_reading_knows_its_prompts():
    problem = _problem(target=TargetConfig(kind="reward_tilted", reward={"after_three": 1.0}))
    assert problem.prompts is not None
    generator = torch.Generator().manual_seed(0)
    reading = problem.read(problem.base.sample(2, generator=generator, prompts=problem.prompts))
    assert reading.prompts == [text for text in PROMPTS for _ in range(2)]
    assert reading.features[:, 0].tolist() == [0, 0, 1, 1, 1, 1]
    for text, prompt, completion in zip(
        reading.texts, reading.prompts, reading.completions, strict=True
    ):
        assert text.split() == [*prompt.split(), *completion.split()]


def test_a_prompt_without_target_mass_is_named():
    # After "2" this base never writes a three among so few samples.
    impossible = TargetConfig(kind="constrained", constraints=("twos", "has_three", "after_three"))
    with pytest.raises(ValueError, match="no text of the base that continues '2' satisfies"):
        _ = _problem(target=impossible)


def test_the_holes_of_a_custom_target_meet_no_infinite_slope():
    custom = TargetConfig(kind="custom", score="no_twos")
    with pytest.raises(InfiniteDivergence, match="reverse_kl is infinite: the target excludes"):
        _ = _problem(target=custom, divergence="reverse_kl")
    problem = _problem(target=custom)
    exact = _enumeration()
    without = ((exact.tokens == 2) & exact.mask).any(-1).reshape(3, -1)
    log_z = torch.logsumexp(exact.log_base.masked_fill(without, -math.inf), -1)
    assert problem.offline is not None
    estimate = problem.offline.estimate
    z = (estimate.log_z - log_z) / estimate.relative_standard_error
    assert float(z.abs().max()) < 5
    assert describe_problem(problem)["features"] == []


def test_too_few_base_samples_and_a_heavy_one_are_said():
    with pytest.raises(RunError, match="less than two base samples for each of 3 prompts"):
        _ = _problem(samples=5)
    steep = TargetConfig(kind="reward_tilted", reward={"twos": 1.0}, beta=0.05)
    warnings = _problem(target=steep, samples=30).warnings()
    assert len(warnings) == 1
    assert "of 10 base samples makes up" in warnings[0]
    assert "of 3 prompts (worst: " in warnings[0]
    assert _problem().warnings() == []


def test_held_out_prompts_are_measured_and_never_trained_on(tmp_path):
    path = tmp_path / "prompts.txt"
    _ = path.write_text("\n".join(["2", "3", "2 2", "2 3", "3 3", "2 2 2"]))
    config = RunConfig(
        model="tiny",
        target=_tilted(),
        prompts=PromptsConfig(file=str(path), per_step=2, held_out=2),
        partition=PartitionConfig(policy="frozen", samples=600),
        batch_size=4,
    )
    problem = build_problem(config, _model(0))
    assert problem.evaluated.tolist() == [4, 5]
    assert problem.log_z.isfinite().all()
    accelerator = build_accelerator("cpu")
    policy = _model(0).trainable_copy()
    weights = WholeWeights(policy, sharded=False)
    proposal = Proposal(config, policy, problem.prompts, accelerator, weights)
    steps = [proposal.contexts(step) for step in range(1, 9)]
    assert {int(one) for step in steps if step is not None for one in step} == {0, 1, 2, 3}

    # Some are chosen among those held out; not all can be.
    few = replace(config, evaluation=EvaluationConfig(contexts=1))
    assert build_problem(few, _model(0)).evaluated.tolist() in ([4], [5])
    every = replace(config, prompts=replace(config.prompts, held_out=6))
    with pytest.raises(RunError, match=r"held_out is 6, but there are 6 prompts: none is left"):
        _ = build_problem(every, _model(0))
    with pytest.raises(ValueError, match=r"held_out is 1, but there is no prompts\.file"):
        _ = PromptsConfig(text="2", held_out=1)


def test_build_partition_has_a_z_for_every_prompt():
    config = RunConfig(model="tiny", target=_tilted(), partition=PartitionConfig(policy="frozen"))
    problem = _problem()
    partition = build_partition(config, problem)
    found = partition.log_z(torch.zeros(2, 4), torch.zeros(2, 4), contexts=torch.tensor([2, 1]))
    assert found.dtype == torch.float32
    expected = problem.log_z[[2, 1]][:, None].float()
    assert torch.equal(found, expected)
