"""ListedSupport: exact sums over the listed names."""

from __future__ import annotations

import math

import pytest
import torch
from support.lm_tiny import tiny_gpt2, tiny_policy

from lm.features.registry import feature_values
from lm.models.folder import build_gpt2
from lm.models.vocabulary import CharVocabulary, VocabularyError
from lm.policy.causal import CausalPolicy
from lm.target.listed import ListedSupport, Listing

FEATURES = ("female", "listed", "ends_in_i")


def _character_policy(limit: int = 12) -> CausalPolicy:
    model = build_gpt2(
        vocabulary_size=29, positions=limit, layers=1, width=16, heads=2, seed=0
    ).double()
    with torch.no_grad():
        # Untrained weights are nearly uniform over 29 tokens; sharper ones favour some names.
        _ = model.transformer.wte.weight.mul_(20.0)
    vocabulary = CharVocabulary()
    return CausalPolicy(
        model,
        bos_id=vocabulary.bos_id,
        eos_ids=(vocabulary.eos_id,),
        pad_id=vocabulary.pad_id,
        max_new_tokens=limit,
        letters=vocabulary.letters,
    )


@pytest.fixture(scope="module")
def listed() -> ListedSupport:
    return ListedSupport(FEATURES)


@pytest.fixture(scope="module")
def log_prob(listed) -> torch.Tensor:
    return listed.log_prob(_character_policy())


def test_log_prob_of_every_name_is_the_policys(listed, log_prob):
    policy = _character_policy()
    assert log_prob.shape == (5163,)
    assert log_prob.dtype == torch.float64
    assert not log_prob.requires_grad
    assert float(log_prob.std()) > 1.0
    for index in (0, 17, 2500, 5162, listed.names.index("mary")):
        tokens, mask = CharVocabulary(policy.ids.letters or "").encode([listed.names[index]])
        expected = float(policy.log_prob(tokens, mask).detach())
        # 1e-12: float64 with another batch shape.
        assert float(log_prob[index]) == pytest.approx(expected, abs=1e-12)


def test_a_float32_policy_gives_float64_sums(listed, log_prob):
    policy = _character_policy()
    _ = policy.model.float()
    single = listed.log_prob(policy)
    assert single.dtype == torch.float64
    # 1e-4: log-probabilities near -40 in float32, a dozen terms each.
    torch.testing.assert_close(single, log_prob, rtol=0, atol=1e-4)


def test_moments_are_sums_over_the_list(listed, log_prob):
    values = feature_values(FEATURES, listed.names)
    slow = [
        math.fsum(math.exp(lp) * row[k] for lp, row in zip(log_prob.tolist(), values, strict=True))
        for k in range(3)
    ]
    assert listed.exact_moments(log_prob).tolist() == pytest.approx(slow, rel=1e-12)
    # A leading axis is a batch of policies.
    both = listed.exact_moments(torch.stack([log_prob, log_prob - math.log(2.0)]))
    assert both[1].tolist() == pytest.approx([m / 2 for m in slow], rel=1e-12)


def test_the_remainder_completes_the_list_to_one(listed, log_prob):
    whole = listed.with_remainder(log_prob)
    assert whole.shape == (5164,)
    assert float(whole.exp().sum()) == pytest.approx(1.0, abs=1e-14)
    assert torch.equal(whole[:-1], log_prob)
    reading = listed.reading(listed.feature_names)
    with_rest, features = Listing(listed, log_prob, reading).with_remainder()
    assert torch.equal(with_rest, whole)
    assert features.shape == (5164, 3)
    assert features[-1].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(features[:-1], listed.features)


def test_a_tiny_remainder_keeps_its_digits(listed):
    # Two names hold 1 - 2^-40 of the mass: the remainder is exactly representable.
    log_prob = torch.full((5163,), -torch.inf, dtype=torch.float64)
    log_prob[:2] = math.log1p(-(2.0**-40)) - math.log(2.0)
    # 1e-3 relative: a mass known to 1e-16 leaves a remainder of 1e-12 four digits.
    remainder = float(listed.with_remainder(log_prob)[-1].exp())
    assert remainder == pytest.approx(2.0**-40, rel=1e-3)


def test_a_list_that_holds_everything_has_no_remainder(listed):
    log_prob = torch.log_softmax(torch.linspace(0.0, 5.0, 5163, dtype=torch.float64), -1)
    for excess in (0.0, 1e-9):
        remainder = float(listed.with_remainder(log_prob + excess)[-1].exp())
        # At most the rounding of a sum of 5,163 numbers; never NaN from a log of a negative.
        assert 0.0 <= remainder < 1e-14


def test_a_mass_above_one_is_refused(listed, log_prob):
    too_much = torch.log_softmax(log_prob, -1) + 1e-3
    with pytest.raises(ValueError, match=r"total probability exp\(0\.001\)"):
        listed.with_remainder(too_much)
    with pytest.raises(ValueError, match=r"total probability exp\(nan\)"):
        listed.with_remainder(torch.full((5163,), torch.nan))


def test_a_feature_off_the_list_is_refused():
    with pytest.raises(ValueError, match="'letters' is not zero for unlisted texts"):
        _ = ListedSupport(("listed", "letters"))
    with pytest.raises(ValueError, match="did you mean 'female'"):
        _ = ListedSupport(("femle",))


def test_another_vocabulary_is_refused(listed):
    with pytest.raises(VocabularyError, match="letters None are not the list's"):
        listed.log_prob(tiny_policy(tiny_gpt2()))
    letters = CharVocabulary("zyxwvutsrqponmlkjihgfedcba")
    with pytest.raises(VocabularyError, match="are not the list's"):
        _ = ListedSupport(FEATURES, letters).log_prob(_character_policy())


def test_a_limit_below_the_longest_name_is_refused(listed):
    with pytest.raises(ValueError, match="a sequence has 12 tokens; this policy's have 1 to 11"):
        listed.log_prob(_character_policy(limit=11))
