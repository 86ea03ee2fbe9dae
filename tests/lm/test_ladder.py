"""The precision ladder: what it measures is so, and a careless scorer or sampler would show."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fdpg_ref import DIVERGENCES, leave_one_out, score_coefficients, score_signal
from lm.device.amp import AUTOCAST, Amp
from lm.errors import NotFinite, RunError
from lm.models.folder import build_gpt2
from lm.policy.causal import CausalPolicy
from lm.policy.samples import Samples
from lm.selfcheck.ladder import GRADIENTS, measure_ladder, token_log_probs
from lm.selfcheck.ladder_report import ladder_notes, ladder_rows, write_ladder

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    ],
)
DEVICES = ["cpu", CUDA]
HALF = ["bfloat16", "float16"]
WIDE = Amp("float64", "cpu")


def _policy(
    kind: type[CausalPolicy] = CausalPolicy, *, device: str = "cpu", scale: float = 5.0
) -> CausalPolicy:
    """Build a small GPT-2, wider than at birth: some tokens likely, others rare."""
    model = build_gpt2(vocabulary_size=32, positions=10, layers=2, width=32, heads=4, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                _ = parameter.mul_(scale)
    policy = kind(model, bos_id=0, eos_ids=(1,), pad_id=1, max_new_tokens=10)
    _ = policy.scorer.to(device)
    return policy


@contextmanager
def _logits(policy: CausalPolicy) -> Iterator[list[Tensor]]:
    """Collect the logits of every call of the model, as the model returned them."""
    seen: list[Tensor] = []

    def keep(_module, _inputs, output) -> None:
        seen.append(output.logits.detach())

    hook = policy.model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _chain(logits: Tensor, tokens: Tensor) -> float:
    """Sum log-softmax over chosen tokens in float64; logits (length, V), tokens (length,)."""
    wide = torch.log_softmax(logits.double(), dim=-1)
    return float(wide[torch.arange(len(tokens)), tokens].sum())


# 1e-4: float32 rounding of ten terms of at most 15 nats, with room. A softmax or a sum in
# bfloat16 has a grid of 0.06 nats there and more, in float16 of 0.008.
ROUNDING = 1e-4


@pytest.mark.parametrize("precision", HALF)
def test_the_scorer_widens_half_precision_logits_before_softmax_and_sum(precision):
    policy = _policy()
    samples = policy.sample(12, generator=torch.Generator().manual_seed(0))
    amp = Amp(precision, "cpu")
    errors = []
    for row in range(len(samples.tokens)):
        one = samples.rows(slice(row, row + 1))
        with _logits(policy) as seen, amp.autocast(), torch.no_grad():
            scored = policy.score(one)
        assert seen[0].dtype == AUTOCAST[precision]
        assert scored.dtype == torch.float32
        length = int(one.mask.sum())
        errors.append(abs(float(scored[0]) - _chain(seen[0][0, -length:], one.tokens[0, :length])))
    assert max(errors) < ROUNDING


@pytest.mark.parametrize("precision", HALF)
def test_the_sampler_widens_half_precision_logits_before_softmax_and_sum(precision):
    policy, amp = _policy(), Amp(precision, "cpu")
    errors = []
    for seed in range(12):
        with _logits(policy) as seen, amp.autocast():
            one = policy.sample(1, generator=torch.Generator().manual_seed(seed))
        assert seen[0].dtype == AUTOCAST[precision]
        assert one.log_prob.dtype == torch.float32
        length = int(one.mask.sum())
        steps = torch.stack([logits[0, -1] for logits in seen[:length]])
        errors.append(abs(float(one.log_prob[0]) - _chain(steps, one.tokens[0, :length])))
    assert max(errors) < ROUNDING


def _batch(policy: CausalPolicy, *, n: int, seed: int) -> tuple[Samples, Tensor]:
    """Return samples of a float64 policy and their target: the policy, tilted by a reward."""
    samples = policy.sample(n, generator=torch.Generator().manual_seed(seed))
    reward = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return samples, samples.log_prob + reward - reward.exp().mean().log()


def _gradient(
    policy: CausalPolicy, samples: Samples, log_target: Tensor, *, divergence: str, amp: Amp = WIDE
) -> Tensor:
    with amp.autocast():
        log_policy = policy.score(samples)
    target = log_target.to(log_policy.dtype)
    signal = score_signal(log_policy.detach(), target, divergence=DIVERGENCES[divergence])
    weights = score_coefficients(signal, baseline=leave_one_out(signal))
    loss = (weights * log_policy).sum() / len(samples.tokens)
    gradients = torch.autograd.grad(loss, list(policy.model.parameters()))
    return torch.cat([gradient.flatten().double() for gradient in gradients])


class _Sensitivity(NamedTuple):
    """How far results move, in roundoffs, when every weight moves by one roundoff."""

    token: float
    sequence: float
    gradients: dict[str, float]


def _sensitivity(*, n: int = 48) -> _Sensitivity:
    """Measure the largest effects of four random changes of all weights, in float64."""
    change = 1e-6
    wide = _policy().trainable_copy()
    wide.model.double()
    samples, log_target = _batch(wide, n=n, seed=0)

    def results(policy: CausalPolicy) -> tuple[Tensor, Tensor, list[Tensor]]:
        with torch.no_grad():
            tokens, sequences = token_log_probs(policy, samples, rows=8), policy.score(samples)
        found = [_gradient(policy, samples, log_target, divergence=name) for name in GRADIENTS]
        return tokens, sequences, found

    tokens, sequences, gradients = results(wide)
    effects = []
    for seed in range(4):
        other, generator = wide.trainable_copy(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in other.model.parameters():
                sign = 2 * torch.randint(2, parameter.shape, generator=generator) - 1
                _ = parameter.mul_(1 + change * sign)
        moved = results(other)
        pairs = zip(moved[2], gradients, strict=True)
        effects.append(
            [
                float((moved[0] - tokens).abs().max()),
                float((moved[1] - sequences).abs().max()),
                *(float((there - here).norm() / here.norm()) for there, here in pairs),
            ]
        )
    token, sequence, *turned = (max(column) / change for column in zip(*effects, strict=True))
    return _Sensitivity(token, sequence, dict(zip(GRADIENTS, turned, strict=True)))


# Half a unit of the last place, of 24, 8 and 11 binary digits.
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# To how many roundoffs of the weights the roundings of a product amount. Their signs are random, so
# that they grow with the root of their number. In float32 that is one for each term, of which
# there are at most 128. Half precision sums in float32, and rounds weights, input and output.
ROUNDINGS = {"float32": 128**0.5, "bfloat16": 3**0.5, "float16": 3**0.5}


@pytest.mark.parametrize("device", DEVICES)
def test_each_rung_is_as_far_from_float64_as_its_bits_say(device):
    ladder = measure_ladder(_policy(device=device), n=48)
    wide, *narrow = ladder.rungs
    assert [rung.precision for rung in ladder.rungs] == list(AUTOCAST)
    assert not any(rung.unavailable for rung in ladder.rungs)
    # float64 is compared with itself: only sampler and scorer, in other shapes, can differ.
    assert wide.sequence_error_max == wide.token_error_max == wide.tokens_outside == 0.0
    assert all(wide.gradients[name].one_minus_cosine == 0.0 for name in GRADIENTS)
    sensitivity = _sensitivity()
    assert wide.sampler_scorer_max < 2 * ROUNDINGS["float32"] * 2.0**-53 * sensitivity.sequence
    for rung in narrow:
        unit = ROUNDOFF[rung.precision]
        step = ROUNDINGS[rung.precision] * unit
        # A sequence that is off by less was not computed in this precision.
        assert 0.1 * unit < rung.sequence_error_mean <= rung.sequence_error_max
        assert rung.sequence_error_max < step * sensitivity.sequence
        assert rung.token_error_max < step * sensitivity.token
        assert rung.sampler_scorer_max < 2 * step * sensitivity.sequence
        for name in GRADIENTS:
            bound = step * sensitivity.gradients[name]
            # 1 - cosine is half the square of the relative error of a gradient.
            assert rung.gradients[name].one_minus_cosine < bound**2 / 2
            assert abs(rung.gradients[name].norm_ratio - 1) < bound
    half = ladder.rungs[3]
    assert half.loss_scale == 65536 / 2**half.overflows
    assert all(rung.loss_scale == 1.0 for rung in ladder.rungs[:3])


def test_gradients_are_those_of_training_toward_a_tilted_policy():
    n, policy = 48, _policy()
    rung = measure_ladder(policy, n=n, seed=3).rungs[2]
    # The same once more, step by step.
    wide = policy.trainable_copy()
    wide.model.double()
    samples, log_target = _batch(wide, n=n, seed=3)
    found = [
        _gradient(model.trainable_copy(), samples, log_target, divergence="reverse_kl", amp=amp)
        for model, amp in ((wide, WIDE), (policy, Amp("bfloat16", "cpu")))
    ]
    cosine = torch.dot(*found) / (found[0].norm() * found[1].norm())
    error = rung.gradients["reverse_kl"]
    # 1e-9: 1 - cosine loses its digits below the rounding of one; the angle itself is 1e-4.
    assert error.one_minus_cosine == pytest.approx(1 - float(cosine), abs=1e-9)
    assert error.one_minus_cosine > 1e-7
    assert error.norm_ratio == pytest.approx(float(found[1].norm() / found[0].norm()), rel=1e-9)


class _Careless(CausalPolicy):
    """A policy whose float32 is wrong on purpose, by amounts that the ladder must find."""

    def token_log_probs(self, samples: Samples) -> Tensor:
        found = super().token_log_probs(samples)
        if found.dtype == torch.float64:
            return found
        # The odd tokens' ratios become e^0.2, outside the band, and those of one sequence that is
        # scored alone lose 0.01 nats.
        shift = 0.2 * (torch.arange(found.shape[-1]) % 2) - 0.01 * (len(found) == 1)
        return found + shift

    def log_prob(self, tokens, mask, **options) -> Tensor:
        scored = super().log_prob(tokens, mask, **options)
        return scored if scored.dtype == torch.float64 else scored + 0.25


def test_a_careless_policy_is_found_out():
    single = measure_ladder(_policy(_Careless), n=24).rungs[1]
    reference = _policy().trainable_copy()
    reference.model.double()
    samples = reference.sample(24, generator=torch.Generator().manual_seed(0))
    odd = float((samples.tokens[samples.mask] % 2).double().mean())
    assert 0.1 < odd < 0.9
    assert single.tokens_outside == pytest.approx(odd, abs=1e-12)
    # 1e-4: float32 rounding beside the planted errors.
    assert single.token_error_max == pytest.approx(0.2, abs=1e-4)
    assert single.batch_shape_max == pytest.approx(0.01, abs=1e-4)
    assert single.sequence_error_max == pytest.approx(0.25, abs=1e-4)
    assert single.sequence_error_mean == pytest.approx(0.25, abs=1e-4)
    assert single.sampler_scorer_max == pytest.approx(0.25, abs=1e-4)
    assert single.sampler_scorer_mean == pytest.approx(0.25, abs=1e-4)
    assert single.same_draws == 1.0


def test_a_model_beyond_float16s_range_is_said_to_be(tmp_path):
    policy = _policy()
    with torch.no_grad():
        # Activations of 1e5 and more, scaled back by the next product: fine in bfloat16, but
        # infinite in float16, as in models that were trained in bfloat16.
        _ = policy.model.transformer.h[0].mlp.c_fc.weight.mul_(1e5)
        _ = policy.model.transformer.h[0].mlp.c_proj.weight.mul_(1e-5)
    ladder = measure_ladder(policy, n=8)
    half = ladder.rungs[3]
    assert half.unavailable == "the model's log-probabilities are not finite in float16"
    assert ladder.rungs[2].unavailable is None
    assert "not finite in float16" in ladder_notes(ladder)[0]
    assert {row[4] for row in ladder_rows(ladder)} == {"–"}
    written = write_ladder(ladder, tmp_path, about={"model": "m", "device": "cpu"})
    record = json.loads(written[0].read_text(encoding="utf-8"))
    assert record["rungs"][3] == {"precision": "float16", "unavailable": half.unavailable}


@pytest.mark.parametrize(
    ("kind", "message", "known"),
    [
        (RuntimeError, "not implemented for 'Half'", True),
        (RuntimeError, "another", False),
        (ValueError, "another", False),
        (RunError, "another", False),
    ],
)
def test_a_missing_kernel_is_said_and_any_other_failure_is_raised(
    monkeypatch, kind, message, known
):
    ours = Amp.autocast

    def autocast(self):
        if self.precision == "float16":
            raise kind(message)
        return ours(self)

    monkeypatch.setattr(Amp, "autocast", autocast)
    if known:
        assert measure_ladder(_policy(), n=4).rungs[3].unavailable == message
    else:
        with pytest.raises(kind, match=message):
            _ = measure_ladder(_policy(), n=4)


def test_a_model_that_is_not_finite_at_all_stops_the_ladder():
    policy = _policy()
    with torch.no_grad():
        _ = policy.model.transformer.ln_f.weight.fill_(math.nan)
    with pytest.raises(NotFinite, match="not finite"):
        _ = measure_ladder(policy, n=4)


def test_a_model_without_any_gradient_still_makes_a_record(tmp_path):
    policy = _policy()
    with torch.no_grad():
        # One token has all the probability: every gradient is zero, and has no direction.
        _ = policy.model.transformer.ln_f.weight.mul_(1e4)
    ladder = measure_ladder(policy, n=4)
    assert "nan" in {row[2] for row in ladder_rows(ladder)}
    written = write_ladder(ladder, tmp_path, about={"model": "m", "device": "cpu"})
    record = json.loads(written[0].read_text(encoding="utf-8"))
    assert record["rungs"][1]["gradients"]["forward_kl"]["one_minus_cosine"] == "nan"


def test_the_model_that_was_given_is_left_as_it_was():
    policy = _policy().frozen_copy()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    _ = measure_ladder(policy, n=4)
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_table_figure_and_json_hold_every_rung(tmp_path):
    ladder = measure_ladder(_policy(), n=16)
    rows = ladder_rows(ladder)
    assert all(len(row) == 1 + len(AUTOCAST) for row in rows)
    named = " ".join(row[0] for row in rows)
    for words in ("[0.9, 1.1]", "forward KL", "reverse KL", "Jensen–Shannon", "among 8", "scorer"):
        assert words in named
    written = write_ladder(ladder, tmp_path / "new", about={"model": "tiny", "device": "cpu"})
    assert [path.name for path in written] == ["ladder.json", "ladder.png"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    record = json.loads(written[0].read_text(encoding="utf-8"))
    assert (record["model"], record["sequences"]) == ("tiny", 16)
    assert record["tokens"] == len(ladder.token_errors["float32"])
    for stored, rung in zip(record["rungs"], ladder.rungs, strict=True):
        assert stored["sequence_error_max"] == rung.sequence_error_max
        assert stored["gradients"].keys() == set(GRADIENTS)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "ladder.json",
        "ladder.png",
    ]
