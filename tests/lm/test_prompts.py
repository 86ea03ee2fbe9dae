"""Prompts: padding on either side, checks, and shares of a batch."""

from __future__ import annotations

import pytest
import torch
from support.lm_tiny import CONTEXTS, TRANSFORMS, padded_prompts, tiny_gpt2, tiny_llama, tiny_policy

from lm.config.sampling import SamplingConfig
from lm.policy import SamplerMismatch
from lm.policy.causal.sampling import distinct_prompts
from lm.policy.prompts import PromptError, Prompts


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(prompts: Prompts) -> list[list[int]]:
    return [t[m].tolist() for t, m in zip(*prompts, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_to_the_left_and_tokens_keep_their_order(side):
    prompts = padded_prompts(side)
    left = prompts.checked(4)
    assert left.tokens.shape == (3, 3)
    assert _rows(left) == _rows(prompts) == [list(context) for context in CONTEXTS]
    assert left.mask.tolist() == [[False, False, True], [False, True, True], [True] * 3]
    from_ids = Prompts.from_ids(CONTEXTS)
    assert torch.equal(left.mask, from_ids.mask)
    assert _rows(from_ids) == _rows(left)
    assert left.lengths.tolist() == [1, 2, 3]


def test_repeated_rows_stand_together():
    prompts = Prompts.from_ids(CONTEXTS).repeat(2)
    assert _rows(prompts) == [list(CONTEXTS[i // 2]) for i in range(6)]
    assert _rows(prompts.rows(slice(2, 4))) == [[2, 3], [2, 3]]


def test_distinct_contexts_are_found_whatever_fills_their_padding():
    prompts = Prompts.from_ids([[2], [1, 2], [2], [0, 2]], pad_id=0)
    tokens = prompts.tokens.clone()
    tokens[2, 0] = 3
    distinct, place = distinct_prompts(Prompts(tokens, prompts.mask))
    assert len(distinct.tokens) == 3
    assert _rows(distinct.rows(place)) == [[2], [1, 2], [2], [0, 2]]
    # Equal rows take a short cut, which must not let the filling through either.
    equal = Prompts(torch.tensor([[-100, 2]] * 3), prompts.mask[:1].repeat(3, 1))
    same, place = distinct_prompts(equal)
    assert same.tokens.tolist() == [[0, 2]]
    assert place.tolist() == [0, 0, 0]


def test_prompts_that_make_no_sense_are_refused():
    good = torch.ones(2, 3, dtype=torch.bool)
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    hole = torch.tensor([[True, True, True], [True, False, True]])
    empty = torch.tensor([[True, True, True], [False, False, False]])
    foreign = torch.tensor([[0, 1, 2], [0, 4, 0]])
    for prompts, message in [
        (Prompts(tokens, good[:, :2]), r"got \(2, 3\) and \(2, 2\)"),
        (Prompts(tokens, good.long()), r"of torch\.int64"),
        (Prompts(tokens[:0], good[:0]), "there is no prompt"),
        (Prompts(tokens, hole), "prompt 1 has padding between its tokens"),
        (Prompts(tokens, empty), "prompt 1 has no token"),
        (Prompts(foreign, good), "prompt 1 has a token outside the model's 4 tokens"),
    ]:
        with pytest.raises(PromptError, match=message):
            _ = prompts.checked(4)
    # Padding may be anything.
    assert Prompts(torch.tensor([[-100, 3]]), torch.tensor([[False, True]])).checked(4)
    with pytest.raises(PromptError, match="there is no prompt"):
        _ = Prompts.from_ids([])
    with pytest.raises(PromptError, match="prompt 1 has no token"):
        _ = Prompts.from_ids([[1], []])
    assert issubclass(PromptError, ValueError)


def test_a_prompt_too_long_for_the_model_is_refused_with_the_numbers():
    policy = tiny_policy(tiny_gpt2(positions=6))
    # 3 tokens and 4 new ones: the last is never an input, so 6 positions hold them.
    _ = policy.sample(2, generator=_seeded(), prompts=Prompts.from_ids([[1], [0, 2, 3]]))
    long = Prompts.from_ids([[1], [0, 2, 3, 1]])
    message = r"prompt 1 has 4 tokens, and with 4 new ones it needs 7 positions; the model has 6"
    message += ": shorten the prompt, or set max_new_tokens to 3 or less"
    with pytest.raises(PromptError, match=message):
        _ = policy.sample(2, generator=_seeded(), prompts=long)
    tokens, mask = torch.ones(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(PromptError, match=message):
        _ = policy.log_prob(tokens, mask, prompts=long)
    with pytest.raises(PromptError, match="3 prompts do not go with 2 sequences"):
        _ = policy.log_prob(tokens, mask, prompts=padded_prompts("left"))


@pytest.mark.parametrize("transform", ["identity", "all"])
@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_shares_of_a_batch_are_its_rows(build, transform):
    policy = tiny_policy(
        build(positions=6, scale=5.0).double(), limit=4, transform=TRANSFORMS[transform]
    )
    prompts, n = padded_prompts("right"), 8
    whole = policy.sample(n, generator=_seeded(2), prompts=prompts)
    assert whole.prompts is not None
    assert _rows(whole.prompts) == [list(CONTEXTS[i // n]) for i in range(24)]
    # Uneven shares that cut through contexts; every process draws the same block of uniforms.
    for rows in (slice(0, 5), slice(5, 19), slice(19, 24)):
        share = policy.sample(n, generator=_seeded(2), prompts=prompts, rows=rows)
        assert torch.equal(share.tokens, whole.tokens[rows])
        assert share.prompts is not None
        assert _rows(share.prompts) == _rows(whole.prompts)[rows]
        # 1e-12: float64; Llama's norms compute in float32.
        torch.testing.assert_close(
            share.log_prob, whole.log_prob[rows], rtol=0, atol=1e-12 if build is tiny_gpt2 else 1e-5
        )
    plain = policy.sample(9, generator=_seeded(3))
    assert plain.prompts is None
    share = policy.sample(9, generator=_seeded(3), rows=slice(4, 9))
    assert torch.equal(share.tokens, plain.tokens[4:])
    with pytest.raises(ValueError, match="selects none of the 9 samples"):
        _ = policy.sample(9, generator=_seeded(3), rows=slice(9, 12))


def test_samples_of_another_transform_are_scored_only_when_asked_for():
    policy = tiny_policy(tiny_gpt2(), transform=SamplingConfig(top_k=2))
    whole = policy.with_transform(SamplingConfig())
    assert whole.model is policy.model
    samples = policy.sample(30, generator=_seeded())
    with pytest.raises(SamplerMismatch, match=r"top_k=2.*not this policy's.*set off_policy"):
        _ = whole.score(samples)
    _ = policy.score(samples)
    off_policy = whole.score(samples, off_policy=True)
    assert torch.equal(off_policy, whole.log_prob(samples.tokens, samples.mask))
    # Truncation only ever raises the probability of what it keeps.
    assert bool((off_policy <= samples.log_prob + 1e-12).all())
    part = samples.rows(torch.tensor([3, 1]))
    assert part.transform == samples.transform
    assert part.log_kept_mass is not None
    assert samples.log_kept_mass is not None
    assert torch.equal(part.log_kept_mass, samples.log_kept_mass[[3, 1]])
    assert issubclass(SamplerMismatch, ValueError)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_the_laws_along_samples_are_those_that_score_them(build):
    policy = tiny_policy(build(positions=6).double(), transform=TRANSFORMS["top_p"])
    samples = policy.sample(20, generator=_seeded(), prompts=padded_prompts("right"))
    with torch.no_grad():
        laws = policy.token_log_probs(samples)
        scored = policy.score(samples)
    assert laws.shape == (60, 4, 4)
    totals = laws.exp().sum(-1)
    torch.testing.assert_close(totals, torch.ones_like(totals), rtol=0, atol=1e-12)
    chosen = laws.gather(-1, samples.tokens[..., None]).squeeze(-1).where(samples.mask, 0.0)
    torch.testing.assert_close(
        chosen.sum(-1), scored, rtol=0, atol=1e-12 if build is tiny_gpt2 else 1e-5
    )
    assert policy.trainable_copy().token_log_probs(samples).requires_grad


def test_texts_are_prompt_and_completion():
    policy = tiny_policy(tiny_gpt2(positions=6), eos_ids=(1,))
    samples = policy.sample(3, generator=_seeded(), prompts=Prompts.from_ids([[0, 2, 3]]))
    for text, row, mask in zip(policy.decode(samples), samples.tokens, samples.mask, strict=True):
        completion = [token for token in row[mask].tolist() if token != 1]
        assert text == " ".join(map(str, [2, 3, *completion]))


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_one_call_of_the_model_scores_what_several_do(build):
    policy = tiny_policy(build(positions=6).double()).trainable_copy()
    samples = policy.sample(60, generator=_seeded(), prompts=padded_prompts("right"))
    calls, counts = [], []
    hook = policy.model.register_forward_hook(lambda *_: calls.append(1))
    results = []
    for single in (False, True):
        policy.scorer.single_group = single
        scores = policy.score(samples)
        weights = torch.randn(len(scores), generator=_seeded(1), dtype=torch.float64)
        gradient = torch.autograd.grad(scores @ weights, list(policy.model.parameters()))
        results.append((scores.detach(), torch.cat([g.flatten() for g in gradient])))
        counts.append(len(calls))
    hook.remove()
    assert counts[0] > 1
    assert counts[1] - counts[0] == 1
    (scores, gradient), (one_scores, one_gradient) = results
    tolerance = 1e-12 if build is tiny_gpt2 else 1e-5
    torch.testing.assert_close(scores, one_scores, rtol=0, atol=tolerance)
    assert float((gradient - one_gradient).norm() / gradient.norm()) < tolerance


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_scoring_in_chunks_is_scoring(build, transform):
    model = build(positions=6, scale=5.0).double()
    policy = tiny_policy(model, transform=TRANSFORMS[transform]).trainable_copy()
    samples = policy.sample(20, generator=_seeded(), prompts=padded_prompts("left"))
    results = []
    for chunk in (None, 7):
        policy.scorer.score_chunk = chunk
        assert policy.frozen_copy().scorer.score_chunk == chunk
        scores = policy.score(samples)
        weights = torch.randn(len(scores), generator=_seeded(1), dtype=torch.float64)
        gradient = torch.autograd.grad(scores @ weights, list(policy.model.parameters()))
        results.append((scores.detach(), torch.cat([g.flatten() for g in gradient])))
    (scores, gradient), (in_chunks, chunk_gradient) = results
    # 1e-12: the same sums in float64, a position at a time.
    torch.testing.assert_close(scores, in_chunks, rtol=0, atol=1e-12)
    assert float((gradient - chunk_gradient).norm() / gradient.norm()) < 1e-12
