"""Metrics against slow loops, exact enumeration and z-scores."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from support.lm_runs import MILD, finished_run, tiny_config, tiny_model

from fdpg_ref import DIVERGENCES, exact_divergence
from lm.config import EvaluationConfig, TargetConfig, resolve
from lm.evaluation.diversity import distinct_n, distinct_share, over_groups, self_bleu
from lm.evaluation.entries import bound_warnings, entry
from lm.evaluation.evaluate import Evaluator
from lm.evaluation.evidence import prefix_sums
from lm.evaluation.statistics import effective_share, ratio_of_means, split_sum
from lm.policy import load_policy
from lm.run.records import FOUR, best
from lm.target.problem import build_problem
from lm.training.describe import gradient_signal_to_noise

TEXTS = ["anna", "anna", "hanna", "bo", "bob", "b", "banana", "nab", "anna"]
TOKENS = [[ord(letter) for letter in text] for text in TEXTS]


def _bleu_by_definition(own: list[int], others: list[list[int]]) -> float:
    order = min(4, len(own))
    total = 0.0
    for n in range(1, order + 1):
        grams = [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]
        clipped = 0
        for gram in set(grams):
            most = max(
                sum(tuple(other[i : i + n]) == gram for i in range(len(other) - n + 1))
                for other in others
            )
            clipped += min(grams.count(gram), most)
        if clipped == 0:
            return 0.0
        total += math.log(clipped / len(grams)) / order
    closest = min((len(other) for other in others), key=lambda k: (abs(k - len(own)), k))
    return math.exp(total + min(0.0, 1.0 - closest / len(own)))


def test_self_bleu_is_the_definition():
    slow = [
        _bleu_by_definition(own, TOKENS[:row] + TOKENS[row + 1 :]) for row, own in enumerate(TOKENS)
    ]
    assert self_bleu(TOKENS) == pytest.approx(sum(slow) / len(slow), abs=1e-12)


def test_self_bleu_of_copies_is_one_and_of_strangers_zero():
    assert self_bleu([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1.0, abs=1e-12)
    assert self_bleu([[1, 2, 3], [4, 5, 6]]) == 0.0


def test_distinct_counts_by_hand():
    assert distinct_share(TOKENS) == pytest.approx(7 / 9)
    # "bo" and "bob" hold the bigrams bo, bo, ob.
    assert distinct_n([[1, 2], [1, 2, 1]], 2) == pytest.approx(2 / 3)
    assert distinct_n([[1], [2]], 2) == 0.0


def test_groups_are_averaged_with_the_error_of_their_spread():
    estimate = over_groups(TOKENS, 3, lambda part: float(len(part[0])))
    values = [4.0, 2.0, 6.0]
    mean = sum(values) / 3
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
    assert (float(estimate.mean), float(estimate.standard_error)) == pytest.approx((mean, error))


def test_groups_do_not_mix_contexts():
    # Two contexts of four samples: within a context all are alike, between them none is.
    sequences = [[1, 2]] * 4 + [[3, 4]] * 4
    estimate = over_groups(sequences, 3, distinct_share, contexts=2)
    assert (float(estimate.mean), float(estimate.standard_error)) == (pytest.approx(1 / 3), 0.0)
    by_length = over_groups([[1]] * 4 + [[1, 2]] * 4, 2, lambda part: len(part[0]), contexts=2)
    # Two values, 1 and 2, one a context.
    assert (float(by_length.mean), float(by_length.standard_error)) == pytest.approx((1.5, 0.5))


# Six outcomes, the first three on the list; each sample holds every outcome as often as its
# distribution says, so that both estimates must equal the sum.
BASE = torch.tensor([3, 1, 2, 4, 1, 1], dtype=torch.float64) / 12
POLICY = torch.tensor([1, 1, 4, 2, 3, 1], dtype=torch.float64) / 12
LISTED = torch.tensor([True, True, True, False, False, False])


@pytest.mark.parametrize("name", FOUR)
def test_split_sums_are_the_divergence_when_samples_are_the_distribution(name):
    target = torch.tensor([0.3, 0.2, 0.1, 0.2, 0.05, 0.15], dtype=torch.float64)
    divergence = DIVERGENCES[name]
    density = divergence.density(POLICY.log(), target.log())
    terms = density / ((BASE + POLICY) / 2)
    base = torch.arange(6).repeat_interleave((BASE * 12).round().long())
    policy = torch.arange(6).repeat_interleave((POLICY * 12).round().long())
    result = split_sum(
        density[LISTED],
        terms[base][None],
        terms[policy][None],
        base_listed=LISTED[base][None],
        policy_listed=LISTED[policy][None],
        listed_error=0.1,
    )
    assert result.combined is not None
    exact = float(exact_divergence(POLICY.log(), target.log(), divergence=divergence))
    # Twelve float64 terms.
    assert float(result.combined.mean) == pytest.approx(exact, rel=1e-12)
    assert float(result.sampled.mean) == pytest.approx(exact, rel=1e-12)
    assert result.z == pytest.approx(0.0, abs=1e-9)
    rest = torch.where(LISTED, 0.0, terms)
    error = math.hypot(float(rest[base].std()), float(rest[policy].std())) / math.sqrt(12) / 2
    assert float(result.combined.standard_error) == pytest.approx(error, rel=1e-12)


def _jackknife(values: torch.Tensor, statistic) -> float:
    n = len(values)
    keep = ~torch.eye(n, dtype=torch.bool)
    left_out = torch.stack([statistic(values[row]) for row in keep])
    return float(((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt())


def test_delta_method_errors_agree_with_the_jackknife():
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    log_weights = values[:, 0] * 0.8
    share = effective_share(log_weights[None])
    weights = log_weights.exp()
    assert float(share.mean) == pytest.approx(
        float(weights.sum() ** 2 / weights.square().sum() / 400), rel=1e-12
    )
    slow = _jackknife(weights, lambda w: w.mean() ** 2 / w.square().mean())
    # Both are first-order in 1/n; they differ by O(1/n) of themselves, times the weights' skew.
    assert float(share.standard_error) == pytest.approx(slow, rel=0.1)
    pairs = torch.stack([values[:, 0] + 3, values[:, 1] + 5], dim=-1)
    ratio = ratio_of_means(pairs[None, :, 0], pairs[None, :, 1])
    slow = _jackknife(pairs, lambda p: p[:, 0].mean() / p[:, 1].mean())
    assert float(ratio.standard_error) == pytest.approx(slow, rel=0.02)


def test_signal_to_noise_of_a_gradient_from_its_halves():
    weight = torch.tensor([2.0, -1.0], requires_grad=True)
    rows = torch.tensor([[1.0, 0.0], [1.0, 2.0], [3.0, 1.0], [1.0, -1.0]])
    coefficients = torch.tensor([1.0, 2.0, -1.0, 4.0])
    one = (coefficients[:2, None] * rows[:2]).mean(0)
    other = (coefficients[2:, None] * rows[2:]).mean(0)
    signal, noise = float(one @ other), float((one - other).square().sum()) / 4
    found = gradient_signal_to_noise(rows @ weight, coefficients, [weight])
    assert found == pytest.approx(math.sqrt(max(signal, 0.0) / noise), rel=1e-6)
    same = torch.cat([rows[:2], rows[:2]]) @ weight
    assert gradient_signal_to_noise(same, coefficients[[0, 1, 0, 1]], [weight]) is None
    assert gradient_signal_to_noise(same, torch.tensor([1.0, 1, -1, -1]), [weight]) == 0.0


def test_bounds_stop_an_exact_value_and_warn_of_an_estimate():
    with pytest.raises(ArithmeticError, match=r"jensen_shannon \(exact\) is 0\.7, outside"):
        _ = bound_warnings({"jensen_shannon": {"exact": entry(0.7)}})
    sampled = {"total_variation": {"sampled": entry(1.3, 0.05)}}
    assert len(bound_warnings(sampled)) == 1
    assert not bound_warnings({"total_variation": {"sampled": entry(1.2, 0.05)}})
    assert not bound_warnings({"jensen_shannon": {"exact": entry(math.log(2))}})


def test_an_entry_holds_only_what_json_can():
    assert entry(math.inf, reason="holes") == {"value": "inf", "reason": "holes"}
    assert entry(1.0, math.nan, z=math.inf) == {"value": 1.0}
    assert best({"estimates": {"x": {"exact": {"value": "inf"}}}}, "x") == (math.inf, 0.0)


TARGETS = {
    "mild": MILD,
    "hard": TargetConfig(kind="constrained", constraints=("listed",)),
    "letters": TargetConfig(moments={"letters": 6.0}),
}


@cache
def _evaluator(target: str) -> Evaluator:
    divergence = "le_cam" if target == "hard" else "pearson_chi2"
    config = tiny_config(tiny_model(), target=TARGETS[target], divergence=divergence)
    problem = build_problem(resolve(config), load_policy(tiny_model()))
    evaluation = EvaluationConfig(samples=4096, group=64)
    return Evaluator(problem, evaluation, divergence=divergence, seed=3)


@cache
def _trained(target: str) -> dict:
    policy = load_policy(finished_run() / "policy")
    return _evaluator(target).measure(policy, step=4, samples=128).record


def test_at_the_base_every_divergence_is_known_exactly_and_met():
    # At pi = a the ratio to p is one constant off the list, so that lumping it loses nothing.
    problem = _evaluator("mild").problem
    record = _evaluator("mild").measure(problem.base, step=0, samples=0).record
    assert problem.listing is not None
    log_base = problem.listing.support.with_remainder(problem.listing.log_base)
    features = problem.listing.reading.features
    features = torch.cat([features, features.new_zeros(1, 2)])
    log_target = problem.target.log_score(log_base, features) - problem.log_z
    for name in (*FOUR, "pearson_chi2"):
        exact = float(exact_divergence(log_base, log_target, divergence=DIVERGENCES[name]))
        entries = record["estimates"][name]
        for estimator in ("list_and_remainder", "sampled"):
            fields = entries[estimator]
            # Float32 log-probabilities stand behind both, which leaves a millionth.
            assert abs(fields["value"] - exact) < 5 * fields["standard_error"] + 1e-6
        assert abs(entries["sampled"]["z"]) < 5
    assert best(record, "kl_policy_base")[0] == pytest.approx(0.0, abs=1e-6)
    exact = float(exact_divergence(log_target, log_base, divergence=DIVERGENCES["reverse_kl"]))
    assert best(record, "kl_target_base") == (pytest.approx(exact, rel=1e-12), 0.0)


def test_estimates_of_a_trained_policy_agree_with_each_other():
    estimates = _trained("mild")["estimates"]
    compared = [
        (quantity, estimator, fields["z"])
        for quantity, entries in estimates.items()
        for estimator, fields in entries.items()
        if "z" in fields
    ]
    names = {quantity for quantity, _, _ in compared}
    assert names >= {
        *FOUR,
        "feature/female",
        "feature/listed",
        "kl_policy_base",
        "entropy",
        "distinct_share",
        "log_z",
    }
    assert [item for item in compared if not abs(item[2]) < 5] == []


def test_features_on_the_list_are_sums_over_the_list():
    policy = load_policy(finished_run() / "policy")
    listing = _evaluator("mild").problem.listing
    assert listing is not None
    support = listing.support
    log_prob = policy.log_prob(support.tokens, support.mask).double()
    listed = float(log_prob.exp().sum())
    estimates = _trained("mild")["estimates"]
    # Float32 log-probabilities of the same names, scored in other groups of rows.
    assert estimates["feature/listed"]["exact"]["value"] == pytest.approx(listed, rel=1e-5)
    assert estimates["list_mass"]["exact"]["value"] == pytest.approx(listed, rel=1e-5)


def test_a_hard_target_is_exact_and_its_infinities_say_why():
    estimates = _trained("hard")["estimates"]
    problem = _evaluator("hard").problem
    policy = load_policy(finished_run() / "policy")
    assert problem.listing is not None
    log_policy = problem.listing.support.log_prob(policy)
    log_target = problem.listing.log_base - torch.logsumexp(problem.listing.log_base, 0)
    target = log_target.exp()
    listed = float(log_policy.exp().sum())
    forward = float(target @ (log_target - log_policy))
    distance = float((target - log_policy.exp()).abs().sum() + 1 - listed) / 2
    # Sums of 5,163 float64 terms without the mass correction; the list's own mass is float32.
    assert estimates["forward_kl"]["exact"]["value"] == pytest.approx(forward, abs=1e-6)
    assert estimates["total_variation"]["exact"]["value"] == pytest.approx(distance, abs=1e-6)
    assert estimates["reverse_kl"]["exact"]["value"] == "inf"
    assert "mass where the hard constraint has none" in estimates["reverse_kl"]["exact"]["reason"]
    assert "le_cam" in estimates
    assert estimates["kl_target_base"]["exact"]["value"] == pytest.approx(
        -float(problem.log_z), abs=1e-9
    )


def test_a_target_off_the_list_is_measured_by_samples():
    estimates = _trained("letters")["estimates"]
    assert set(estimates["feature/letters"]) == {"sampled"}
    assert set(estimates["log_z"]) == {"sampled"}
    assert best(_trained("letters"), "forward_kl")[0] > 0


def test_prefix_sums_are_the_slow_loop_and_average_to_the_sequences_own():
    base = load_policy(tiny_model())
    policy = load_policy(finished_run() / "policy")
    samples = policy.sample(3000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        log_base, kl, entropy = prefix_sums(policy, base, samples)
        expected = base.log_prob(samples.tokens, samples.mask)
        # Float32 sums of about seven terms in another order of rows.
        torch.testing.assert_close(log_base, expected, rtol=0, atol=1e-4)
        row = 7
        length = int(samples.mask[row].sum())
        total_kl = total_entropy = 0.0
        for position in range(length):
            prefix = torch.cat([torch.tensor([1]), samples.tokens[row, :position]])[None]
            p = torch.log_softmax(policy.model(input_ids=prefix).logits[0, -1].double(), -1)
            a = torch.log_softmax(base.model(input_ids=prefix).logits[0, -1].double(), -1)
            total_kl += float(p.exp() @ (p - a))
            total_entropy -= float(p.exp() @ p)
    assert float(kl[row]) == pytest.approx(total_kl, abs=1e-4)
    assert float(entropy[row]) == pytest.approx(total_entropy, abs=1e-4)
    for sums, terms in ((kl, samples.log_prob - log_base), (entropy, -samples.log_prob)):
        difference = (sums - terms).double()
        assert abs(difference.mean() / (difference.std() / math.sqrt(3000))) < 5


def test_the_distinct_share_is_what_groups_of_samples_show():
    problem = _evaluator("mild").problem
    samples = problem.base.sample(4096, generator=torch.Generator().manual_seed(9))
    texts = problem.read(samples).texts
    shares = [len(set(texts[start : start + 64])) / 64 for start in range(0, 4096, 64)]
    values = torch.tensor(shares, dtype=torch.float64)
    record = _evaluator("mild").measure(problem.base, step=0, samples=0).record
    value, error = best(record, "distinct_share")
    spread = math.hypot(error, float(values.std()) / 8)
    assert abs(float(values.mean()) - value) < 5 * spread
