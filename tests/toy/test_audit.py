"""Audits: the dictionary of KL penalties, users' losses, wrong losses, and the pytest helper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fdpg_ref import DIVERGENCES, alpha_divergence, skew_jensen_shannon
from toy.audit.audits import AuditError, assert_descends, audit
from toy.audit.losses import F7, PENALTIES, k1, k2, k3
from toy.audit.oracle import compare, divergence_gradient, expected_gradient, problems
from toy.audit.problems import LEVELS, AuditProblem, grid_problems
from toy.families import Family, SoftmaxFamily
from toy.oracle import definition_gradient
from toy.sequences import TabularFamily

ROOT = Path(__file__).resolve().parents[2]

# Mathematics, F7: (row, penalty, placement, samples) -> what is descended, with its factor. An
# empty dictionary is a zero gradient, None no named divergence nor a sum of two.
DICTIONARY = {
    (1, "k1", "loss", "on_policy"): {},
    (1, "k1", "reward", "on_policy"): {"reverse_kl": 1.0},
    (2, "k2", "loss", "on_policy"): {"reverse_kl": 1.0},
    (2, "k2", "reward", "on_policy"): None,
    (3, "k3", "loss", "on_policy"): {"forward_kl": 1.0},
    (3, "k3", "reward", "on_policy"): {"reverse_kl": 1.0, "forward_kl": -1.0},
    (4, "abs", "loss", "on_policy"): {"total_variation": 2.0},
    (4, "abs", "reward", "on_policy"): None,
    (5, "k3_reversed", "loss", "on_policy"): {"pearson_chi2": 0.5},
    (5, "k3_reversed", "reward", "on_policy"): {"pearson_chi2": 0.5, "reverse_kl": -1.0},
    (6, "ratio_k1", "loss", "on_policy"): {"reverse_kl": 1.0},
    (6, "ratio_k1", "loss", "stale"): {"reverse_kl": 1.0},
    (7, "ratio_k3", "loss", "on_policy"): {"reverse_kl": 1.0},
    (7, "ratio_k3", "loss", "stale"): {"reverse_kl": 1.0},
    (8, "ratio_k2", "loss", "on_policy"): None,
    (8, "ratio_k2", "loss", "stale"): None,
    (9, "k1", "loss", "stale"): None,
    (9, "k2", "loss", "stale"): None,
    (9, "k3", "loss", "stale"): None,
    (10, "js_value", "loss", "on_policy"): None,
    (10, "js_value", "reward", "on_policy"): None,
    (11, "skew", "reward", "on_policy"): {"jensen_shannon": 2.0},
}


def family_of(problem: AuditProblem) -> Family:
    rows, tokens = problem.policy.shape
    length = problem.mask.shape[1]
    return SoftmaxFamily(tokens) if rows == 1 else TabularFamily(tokens - 1, length)


def test_the_listed_uses_are_those_of_the_dictionary():
    assert [tuple(entry) for entry in F7] == list(DICTIONARY)
    assert {entry.penalty for entry in F7} == set(PENALTIES)


@pytest.mark.parametrize("use", DICTIONARY, ids=lambda use: "-".join(map(str, use)))
def test_the_dictionary_of_penalties(use):
    _, penalty, placement, samples = use
    report = audit(penalty, placement=placement, samples=samples)
    found, expected = report.comparison, DICTIONARY[use]
    assert found.zero_gradient == (expected == {})
    assert not report.ascends
    if not expected:
        assert found.best_match is None
        assert found.combination == ()
    elif len(expected) == 1:
        assert found.best_match in expected
        assert found.scale == pytest.approx(expected[found.best_match], rel=1e-10)
    else:
        assert found.best_match is None
        assert {k: pytest.approx(c, rel=1e-8) for c, k in found.combination} == expected
    if found.zero_gradient:
        assert found.cosine is None
        assert found.relative_residual is None
        return
    assert found.relative_residual is not None
    least = min(found.relative_residual.values())
    assert least <= 1e-8 if found.best_match else least >= 1e-3
    # All of them are means over samples, so the batch size is no matter; 1e-12 is rounding.
    assert max(report.batch_change.values()) < 1e-12


def test_stale_k1_ascends_the_forward_kl_to_the_behaviour_policy():
    match = audit("k1", samples="stale").behavior_match
    assert match is not None
    assert (match.best_match, match.ascends) == ("forward_kl", True)
    assert match.scale == pytest.approx(-1.0, rel=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_exact_gradients_are_those_of_the_definition(name, level):
    """Against complex steps through the textbook generators, which share no code with the audit."""
    for problem in problems(level):
        theta = problem.policy.flatten().numpy()
        log_reference = problem.log_probs(problem.reference, level="sequence").numpy()
        judge = definition_gradient(
            family_of(problem), theta, np.exp(log_reference), divergence=name
        )
        found = divergence_gradient(problem, name).numpy()
        # Terms of Neyman reach e^6 times their sum; 1e-10 of the norm leaves room for that.
        assert np.linalg.norm(found - judge) <= 1e-10 * np.linalg.norm(judge)


@pytest.mark.parametrize("problem", [*problems(), *problems("token"), *grid_problems()])
def test_the_problems_can_tell_divergences_apart(problem):
    policies = problem.policy, problem.reference, problem.behavior
    logs = [problem.log_probs(logits, level="sequence") for logits in policies]
    assert [float(log.exp().sum()) for log in logs] == pytest.approx([1.0] * 3, rel=1e-12)
    ratio = logs[0] - logs[1]
    assert float(ratio.min()) < -1
    assert float(ratio.max()) > 1
    assert float(ratio.abs().min()) > 0.05  # off the kink of total variation


def test_the_recovered_signal_is_the_derivative_of_the_generator():
    """A penalty h(u) in the loss has f'(e^u) = h'(u): here 4 u^3, of no named divergence."""
    report = audit(lambda log_policy, log_reference: (log_policy - log_reference) ** 4)
    signal = report.signal
    assert signal is not None
    np.testing.assert_allclose(signal.values[0], 4 * signal.log_ratio**3, atol=1e-9)
    assert (signal.of_ratio, signal.shape) == (True, "increasing")
    assert report.comparison.best_match is None
    assert "descends an f-divergence that is none of the named" in report.sentence


def test_an_unnamed_divergence_can_be_ascended():
    report = audit(lambda log_policy, log_reference: -((log_policy - log_reference) ** 4))
    assert report.ascends
    assert "ascends an f-divergence" in report.sentence


@pytest.mark.parametrize(
    ("penalty", "placement", "samples", "shape", "of_ratio"),
    [
        ("k3", "loss", "on_policy", "increasing", True),
        ("abs", "loss", "on_policy", "increasing", True),
        ("k2", "reward", "on_policy", "neither", True),
        ("k1", "loss", "on_policy", "flat", True),
        ("k3", "loss", "stale", "neither", False),
    ],
)
def test_the_signal_tells_an_f_divergence(penalty, placement, samples, shape, of_ratio):
    signal = audit(penalty, placement=placement, samples=samples).signal
    assert signal is not None
    assert (signal.shape, signal.of_ratio) == (shape, of_ratio)


def test_tokens_against_sequences():
    """F9: the sum of k1 with the whole return is exact; k2 and k3 per token are not."""
    exact = audit("k1", placement="reward", level="token")
    assert (exact.comparison.best_match, exact.comparison.scale) == ("reverse_kl", pytest.approx(1))
    assert audit("k1", level="token").comparison.zero_gradient
    for penalty in ("k2", "k3"):
        found = audit(penalty, level="token").comparison
        assert found.best_match is None
        assert found.relative_residual is not None
        assert min(found.relative_residual.values()) > 1e-3


def test_padding_is_not_harmless_to_a_loss_that_ignores_the_mask():
    def summed(log_policy, log_reference):
        return (log_policy - log_reference).sum(-1) ** 2 / 2

    def masked(log_policy, log_reference, mask):
        return ((log_policy - log_reference) * mask).sum(-1) ** 2 / 2

    assert_descends(masked, "reverse_kl", level="token")
    with pytest.raises(AssertionError, match="none of the named"):
        assert_descends(summed, "reverse_kl", level="token")


def variance(log_policy, log_reference):
    return (log_policy - log_reference).var() / 2


def test_losses_that_compare_the_samples_of_a_batch():
    """F14: half the variance of u has the gradient of KL(pi||p)."""
    assert_descends(variance, "reverse_kl", batch_size=2)
    report = audit(variance, batch_size=2)
    assert report.comparison.scale == pytest.approx(1.0, rel=1e-12)
    assert list(report.batch_change) == [3]


def test_the_dependence_on_the_batch_size_is_told():
    def summed(log_policy, log_reference):
        return ((log_policy - log_reference) ** 2).sum() / 2

    def centred(log_policy, log_reference):
        u = (log_policy - log_reference).detach()
        return (u - u.mean() / 2) * log_policy

    assert "rescales the gradient (x2 at n = 2, x3 at n = 3)" in audit(summed).sentence
    # Half the batch mean as a baseline leaves 1 - (1/2)/n of the gradient: 1/2, 3/4, 5/6.
    assert "(x1.5 at n = 2, x1.667 at n = 3)" in audit(centred).sentence

    def spread(log_policy, log_reference):
        u = log_policy - log_reference
        return (u**2).mean() / 2 + u.abs().max().detach() * log_policy

    assert "differs by" in audit(spread).sentence


def test_a_scalar_in_the_reward_is_the_value_of_one_sample():
    report = audit(
        lambda log_policy, log_reference: k1(log_policy, log_reference).mean(), placement="reward"
    )
    assert report.comparison.best_match == "reverse_kl"
    assert report.batch_change == {}


def test_the_expected_reward_is_no_divergence():
    def objective(log_policy, log_reference, reward):
        return -3.0 * reward * log_policy + 0.5 * k3(log_policy, log_reference)

    found = audit(objective).comparison
    assert (found.best_match, found.scale) == ("forward_kl", pytest.approx(0.5, rel=1e-10))
    assert found.reward_factor == pytest.approx(3.0, rel=1e-10)
    assert "half forward KL, KL(reference‖policy) and ascends 3 x the" in audit(objective).sentence
    alone = audit(lambda log_policy, reward: -reward * log_policy)
    assert alone.comparison.zero_gradient
    assert "only ascends the expected reward" in alone.sentence


@pytest.mark.parametrize("divergence", [alpha_divergence(0.3), skew_jensen_shannon(0.2)])
def test_any_divergence_can_be_asserted(divergence):
    def loss(log_policy, log_reference):
        return divergence.signal((log_policy - log_reference).detach()) * log_policy

    assert_descends(loss, divergence)
    with pytest.raises(AssertionError, match="should descend reverse_kl, but"):
        assert_descends(loss, "reverse_kl")


def test_the_helper_fails_where_the_loss_descends_something_else():
    assert_descends(k3, "forward_kl")
    assert_descends("k1", "reverse_kl", placement="reward")
    wrong = {
        k1: "expected gradient is zero",
        k3: "descends forward KL",
        (lambda p, r: -k2(p, r)): "ascends reverse KL",
    }
    for loss, reason in wrong.items():
        with pytest.raises(AssertionError, match=reason):
            assert_descends(loss, "reverse_kl")
    with pytest.raises(ValueError, match="Did you mean 'reverse_kl'"):
        assert_descends(k2, "revers_kl")


def test_a_detached_loss_has_a_zero_gradient_and_says_why():
    def detached(log_policy, log_reference):
        with torch.no_grad():
            return k3(log_policy, log_reference)

    with torch.no_grad():  # the caller's own mode is no matter
        report = audit(detached)
        assert audit(k3).comparison.best_match == "forward_kl"
    assert report.comparison.zero_gradient
    assert "nothing requires grad" in report.sentence


class Proximal(torch.nn.Module):
    """A penalty towards the behaviour policy, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.ones(()))

    def forward(self, log_policy, log_behavior):
        return proximal(log_policy, log_behavior)


def proximal(log_policy, log_behavior):
    return (log_policy - log_behavior) ** 2 / 2


def timed(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("samples", ["on_policy", "stale"])
@pytest.mark.parametrize("other", [Proximal(), timed(proximal), timed(timed(proximal))])
def test_a_module_and_a_plain_decorator_are_the_function_they_hold(other, samples):
    """Called by position they would get log_reference in the place of log_behavior."""
    plain, found = audit(proximal, samples=samples), audit(other, samples=samples)
    assert plain.comparison == found.comparison
    ends = [report.sentence.partition(" in the loss ")[2] for report in (plain, found)]
    assert ends[0] == ends[1]
    assert ends[0].endswith("does nothing." if samples == "on_policy" else "no minimum there.")


def single(penalty):
    def computed_in_float32(log_policy, log_reference):
        return penalty(log_policy.float(), log_reference.float()).double()

    return computed_in_float32


@pytest.mark.parametrize(
    ("penalty", "placement", "descends"),
    [
        (k2, "loss", "descends reverse KL"),
        (k3, "loss", "descends forward KL"),
        (k3, "reward", "descends reverse KL - forward KL"),
        (k1, "loss", "minimises nothing"),
        (k2, "reward", "descends none of the named divergences"),
    ],
)
def test_a_loss_in_float32_is_judged_by_its_own_precision(penalty, placement, descends):
    report = audit(single(penalty), placement=placement)
    assert descends in report.sentence
    assert "leaves 0.0%" not in report.sentence
    exact = audit(penalty, placement=placement)
    assert report.at_reference == exact.at_reference


def test_a_mask_in_float32_costs_no_precision():
    def masked(log_policy, log_reference, mask):
        return ((log_policy - log_reference) * mask.float()).sum(-1) ** 2 / 2

    report = audit(masked, level="token")
    assert report.comparison.best_match == "reverse_kl"
    assert report.precision.match == 1e-8


def group_mean(log_policy, reward):
    return -(reward - reward.mean()) * log_policy


def peers_mean(log_policy, reward):
    n = len(reward)
    return -(reward - (reward.sum() - reward) / (n - 1)) * log_policy


def summed_reward(log_policy, reward):
    return -(reward * log_policy).sum()


def test_a_baseline_and_a_sum_depend_on_the_batch_size_for_different_reasons():
    """(n-1)/n of the gradient is left under the batch mean; a sum grows with n."""
    baseline = audit(group_mean, batch_size=2).sentence
    assert "(x1.333 at n = 3): (n - 1)/n of it is left" in baseline
    assert "a sum" not in baseline
    alone = audit(group_mean).sentence
    assert "audit it with a batch size of 2 or more" in alone
    assert "(n - 1)/n of it is left" in alone
    assert "(x2 at n = 2, x3 at n = 3): it is a sum over the batch" in audit(summed_reward).sentence
    assert "batch size n" not in audit(peers_mean, batch_size=2).sentence


def test_rounding_is_no_part_of_the_expected_reward():
    def k1_of_any_reward(log_policy, log_reference, reward):
        return (1 + 0 * reward) * k1(log_policy, log_reference)

    report = audit(k1_of_any_reward)
    assert report.comparison.reward_factor == 0
    assert report.sentence.endswith("its expected gradient is zero. It does nothing.")


def penalised_reward(log_policy, log_reference, reward):
    return k2(log_policy, log_reference) - reward * log_policy


def quartic(log_policy, log_reference):
    return (log_policy - log_reference) ** 4


def wrong_sign(log_policy, log_reference):
    return -k2(log_policy, log_reference)


def detached_k2(log_policy, log_reference):
    return k2(log_policy, log_reference).detach()


def saddle(log_policy, log_reference):
    """Pulls back from everywhere but where a rare outcome, of 10 % or less, moves alone."""
    rare = log_reference < -2.3
    u = (log_policy - log_reference).detach()
    return torch.where(rare, -0.15, 1.0) * u * log_policy


ENDINGS = [
    (k3, {}, "It has its minimum at the reference."),
    (quartic, {}, "It has its minimum at the reference."),
    ("ratio_k3", {"samples": "stale"}, "It has its minimum at the reference."),
    (k2, {"samples": "stale"}, "It has a local minimum at the reference."),
    (k2, {"level": "token"}, "It has a local minimum at the reference."),
    (
        quartic,
        {"samples": "stale"},
        "It pulls back to the reference from every point that was tried around it.",
    ),
    (saddle, {}, "It has no minimum at the reference."),
    (k3, {"placement": "reward"}, "It has no minimum at the reference."),
    (wrong_sign, {}, "It has no minimum at the reference."),
    (k1, {"samples": "stale"}, "It has no minimum at the reference."),
    (penalised_reward, {}, "Without the reward it has its minimum at the reference."),
    (k1, {}, "It does nothing."),
    (detached_k2, {}, "It does nothing."),
    (summed_reward, {}, "It uses no reference, so it has no minimum there."),
    (proximal, {}, "It uses no reference, and it does nothing."),
]


@pytest.mark.parametrize(("loss", "how", "ending"), ENDINGS)
def test_a_sentence_ends_with_what_it_means(loss, how, ending):
    sentence = audit(loss, **how).sentence
    assert sentence.endswith(ending), sentence


def test_a_loss_with_parameters_of_its_own_alone_requires_no_grad():
    class Detached(Proximal):
        def forward(self, log_policy, log_behavior):
            return (self.unused * proximal(log_policy, log_behavior).detach()).double()

    for placement, said in (("loss", "nothing requires grad in log_policy"), ("reward", "zero")):
        report = audit(Detached(), placement=placement)
        assert report.comparison.zero_gradient
        assert report.attached is (placement == "reward")
        assert said in report.sentence


def _noisy(log_policy, log_reference):
    return (log_policy - log_reference) * torch.rand(())


def _raising(log_policy, log_reference):
    raise KeyError("beta")


WRONG = {
    "not deterministic": _noisy,
    r"raised KeyError: 'beta'": _raising,
    r"returned shape \(1, 1\)": lambda p, r: (p - r)[None],
    "returned float": lambda p, r: 0.5,
    r"returned torch\.float32": lambda p, r: (p - r).float(),
    "the loss is nan at log pi/ref": lambda p, r: (p - r).log(),
    "finite but its gradient is not": lambda p, r: torch.where(p < 0, p, (p - p).sqrt() * (p - r)),
    "Did you mean 'log_behavior'": lambda p, r, log_behaviour: p,
    "takes 'beta', which is none": lambda p, r, beta: p,
    "not a function": 3,
    "use functools.wraps": lambda *args, **kwargs: args[0],
    "computes in torch.bfloat16": lambda p, r: (p.bfloat16() - r.bfloat16()).double() ** 2,
}


@pytest.mark.parametrize("message", WRONG)
def test_a_loss_that_cannot_be_audited(message):
    with pytest.raises(AuditError, match=message):
        _ = audit(WRONG[message])


def test_a_wrong_option_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'reward'"):
        _ = audit("k1", placement="rewards")
    with pytest.raises(ValueError, match="Did you mean 'stale'"):
        _ = audit("k1", samples="stal")
    with pytest.raises(ValueError, match="Did you mean 'token'"):
        _ = audit("k1", level="tokens")
    with pytest.raises(ValueError, match="batch_size is 4: choose 1 to 3"):
        _ = audit("k1", batch_size=4)


def test_a_loss_may_work_in_place():
    """What one call does to its tensors is not seen by the next."""

    def in_place(log_policy, log_reference):
        log_reference.neg_()
        return (log_policy + log_reference) ** 2 / 2

    assert_descends(in_place, "reverse_kl")


def test_the_oracle_and_the_comparison_stand_alone():
    """What the museum uses: gradients of another loss, compared."""
    gradients = [expected_gradient(k2, problem, n=2) for problem in problems()]
    found = compare(gradients, problems())
    assert (found.best_match, found.ascends) == ("reverse_kl", False)
    turned = compare([-gradient for gradient in gradients], problems())
    assert (turned.best_match, turned.ascends) == ("reverse_kl", True)
