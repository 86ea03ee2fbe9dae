"""The conformance test itself: its model, its gradients, and what it says of known steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.conformance import TinyProblem, assert_descends_on_model, descends_on_model
from lm.conformance.candidates import (
    REWARD,
    SCALED_REWARD,
    TO_BASE,
    TO_TARGET,
    candidates,
    named,
)
from lm.conformance.problem import COMPLETIONS, PROMPTS, ids_of
from lm.conformance.verdict import TOLERANCE, _fit

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def problem(request: pytest.FixtureRequest, tmp_path_factory: Any) -> TinyProblem:
    return TinyProblem(tmp_path_factory.mktemp(request.param), family=request.param)


def log_prob(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """Score one completion token by token, each prefix alone."""
    total = torch.zeros((), dtype=torch.float64)
    for i, token in enumerate(completion):
        logits = model(input_ids=torch.tensor([prompt + completion[:i]])).logits[0, -1]
        total = total + torch.log_softmax(logits.double(), -1)[token]
    return total


def table(model: Any) -> Tensor:
    """Return the log-probabilities of all completions of all prompts."""
    rows = [[log_prob(model, ids_of(p), list(c)) for c in COMPLETIONS] for p in PROMPTS]
    return torch.stack([torch.stack(row) for row in rows])


def step_of(value: Callable[[Tensor, Tensor, TinyProblem], Tensor], rate: float = 64.0) -> Any:
    """Return a step of plain descent on a function of log pi and log ref."""

    def step(problem: TinyProblem) -> None:
        model = problem.start(problem.policy().float())
        wide = problem.policy()
        with torch.no_grad():
            log_base = table(problem.base())
        weights = list(wide.parameters())
        parts = torch.autograd.grad(value(table(wide), log_base, problem), weights)
        with torch.no_grad():
            for weight, part in zip(model.parameters(), parts, strict=True):
                _ = weight.sub_(rate * part)

    return step


def weighted(terms: Tensor, log_policy: Tensor) -> Tensor:
    """Return the mean over samples of the policy, which are held fixed."""
    return (log_policy.detach().exp() * terms).sum(1).mean()


def test_a_batch_is_the_policy(problem: TinyProblem):
    """64 completions a prompt, each as often as its probability says, to float32's rounding."""
    with torch.no_grad():
        probs = table(problem.policy()).exp()
    assert float((probs.sum(1) - 1).abs().max()) < 1e-6
    drawn = Counter((tuple(prompt), tuple(ids)) for prompt, ids in problem.batch)
    for prompt, row in zip(PROMPTS, probs, strict=True):
        counts = [drawn[tuple(ids_of(prompt)), ids] for ids in COMPLETIONS]
        assert min(counts) >= 1
        torch.testing.assert_close(64 * row, torch.tensor(counts).double(), rtol=0, atol=1e-5)


def test_the_target_differs_everywhere_and_z_is_its_mass(problem: TinyProblem):
    with torch.no_grad():
        log_base, log_policy = table(problem.base()), table(problem.policy())
    log_score = log_base + problem.rewards / problem.beta
    torch.testing.assert_close(problem.log_score, log_score, rtol=0, atol=1e-5)
    expected = log_score.exp().sum(1).log()
    torch.testing.assert_close(torch.tensor(problem.log_z).double(), expected, rtol=0, atol=1e-5)
    # Off the kink of total variation, and far enough to tell divergences apart.
    log_ratio = log_policy - log_score + expected[:, None]
    assert float(log_ratio.abs().min()) > 0.05
    assert float(log_ratio.max()) > 1
    assert float(log_ratio.min()) < -1


def test_generate_answers_each_prompt_whatever_its_padding(problem: TinyProblem):
    model = problem.start(problem.policy().float())
    width = max(map(len, PROMPTS))
    rows, masks = [], []
    for prompt in PROMPTS * problem.group:
        empty = width - len(prompt)
        rows.append([1] * empty + ids_of(prompt))
        masks.append([0] * empty + [1] * len(prompt))
    out = model.generate(input_ids=torch.tensor(rows), attention_mask=torch.tensor(masks))
    found = Counter(
        (tuple(ids_of(PROMPTS[i % 3])), tuple(row)) for i, row in enumerate(out[:, width:].tolist())
    )
    # A completion of one token is padded by the end token.
    batch = Counter((tuple(p), tuple((*ids, 1)[:2])) for p, ids in problem.batch)
    assert found == batch
    assert problem.unequal_draws() == ""
    with pytest.raises(ValueError, match=r"asked for completions of 'cc', none of"):
        _ = model.generate(input_ids=torch.tensor([[3, 3]]))


def js(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
    p = torch.softmax(log_base + problem.rewards / problem.beta, 1)
    pi = log_policy.exp()
    m = (p + pi) / 2
    return ((p * (p / m).log() + pi * (pi / m).log()).sum(1) / 2).mean()


def k3(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
    u = log_policy - log_base
    return weighted((-u).exp() - 1 + u, log_policy)


def rl(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
    """The reward with a detached KL as a part of it: reverse KL to the target, times beta."""
    gain = problem.rewards - problem.beta * (log_policy - log_base).detach()
    return weighted(-gain * log_policy, log_policy)


def scaled(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
    probs, r = log_policy.detach().exp(), problem.rewards
    mean = (probs * r).sum(1, keepdim=True)
    std = (probs * (r - mean) ** 2).sum(1, keepdim=True).sqrt()
    return weighted(-(r - mean) / std * log_policy, log_policy)


def by_token(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
    """Half k3 of the first token and of the second, each as a sample of its own law."""
    found = torch.zeros((), dtype=torch.float64)
    for of_policy, of_base in zip(log_policy, log_base, strict=True):
        # A first letter's law is the sum over what follows it; an end stands alone.
        pi, ref = (
            torch.cat([x[:1], x[1:].reshape(3, 4).logsumexp(1)]) for x in (of_policy, of_base)
        )
        found = found + (pi.detach().exp() * ((ref - pi).exp() + pi)).sum()
        second = of_policy[1:].reshape(3, 4) - pi[1:, None]
        second_ref = of_base[1:].reshape(3, 4) - ref[1:, None]
        weights = of_policy[1:].reshape(3, 4).detach().exp()
        found = found + (weights * ((second_ref - second).exp() + second)).sum()
    return found / (2 * len(PROMPTS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "asked", "parts"),
    [
        (js, "jensen_shannon", [(1.0, "Jensen–Shannon to the target")]),
        (rl, "reverse_kl", [(0.5, "reverse KL to the target")]),
        (k3, "forward_kl", [(1.0, "forward KL to the base")]),
        (
            by_token,
            "forward_kl",
            [(0.5, "forward KL to the base, token by token on prefixes taken as given")],
        ),
        (
            lambda *a: 3 * rl(a[0], a[0].detach(), a[2]) + k3(*a),
            "reverse_kl",
            [(3.0, "minus the expected reward"), (1.0, "forward KL to the base")],
        ),
        # Half as much KL as the target has: also a sum of a reward and reverse KL to the target.
        (
            lambda *a: 2 * rl(a[0], a[0].detach(), a[2]) + weighted((a[0] - a[1]) ** 2 / 4, a[0]),
            "forward_kl",
            [(2.0, "minus the expected reward"), (0.5, "reverse KL to the base")],
        ),
        (
            scaled,
            "reverse_kl",
            [(1.0, "minus the expected reward over its standard deviation on each prompt")],
        ),
    ],
)
def test_known_steps_are_named(value, asked, parts):
    verdict = descends_on_model(step_of(value), asked, family="gpt2", learning_rate=64.0)
    assert [name for _, name in verdict.parts] == [name for _, name in parts]
    # Weights are float32, moved by 64 times the gradient.
    assert [f for f, _ in verdict.parts] == pytest.approx([f for f, _ in parts], rel=1e-5)
    assert verdict.descends == (parts[0][1].endswith("to the target"))
    assert verdict.descends == (verdict.relative_error < 1e-5)
    assert parts[0][1] in verdict.sentence


@pytest.mark.slow
@pytest.mark.parametrize("target", ["reward", "verifier"])
def test_no_objective_passes_for_another_or_for_a_reward_and_a_penalty(tmp_path, target):
    """Verdicts are unique: whatever is not the same by algebra differs by ten tolerances."""
    for family in ("llama", "gpt2"):
        problem = TinyProblem(tmp_path / family, target=target, family=family)
        known = candidates(problem, "forward_kl")
        # Reverse KL to a target of the reward is the reward and reverse KL to the base.
        same = {REWARD, named("reverse_kl", TO_TARGET), named("reverse_kl", TO_BASE)}
        for name, gradient in known.items():
            others = [one for one in known if one != name]
            pairs = [(r, n) for r in (REWARD, SCALED_REWARD) for n in others if n != r]
            for choice in [*((one,) for one in others), *(p for p in pairs if name not in p)]:
                if {name, *choice} != same or target != "reward":
                    _, left = _fit(gradient, [known[one] for one in choice])
                    assert left > 10 * TOLERANCE, (name, choice)


@pytest.mark.slow
def test_the_assertion_says_what_is_descended_instead():
    step = step_of(lambda *a: -rl(*a))
    with pytest.raises(AssertionError, match=r"descends -0\.5 times reverse KL to the target"):
        assert_descends_on_model(step, learning_rate=64.0)
    assert_descends_on_model(step_of(rl), learning_rate=64.0)


@pytest.mark.slow
def test_a_verifier_and_a_target_of_your_own():
    def verifier(log_policy: Tensor, log_base: Tensor, problem: TinyProblem) -> Tensor:
        inside = problem.rewards == 1
        p = torch.softmax(log_base.masked_fill(~inside, -torch.inf), 1)
        return -(p * log_policy.masked_fill(~inside, 0.0)).sum(1).mean()

    assert_descends_on_model(step_of(verifier), "forward_kl", "verifier", learning_rate=64.0)
    mine = lambda log_base, rewards: log_base.masked_fill(rewards < 0, -torch.inf)  # noqa: E731
    verdict = descends_on_model(step_of(verifier), "forward_kl", mine, learning_rate=64.0)
    assert not verdict.descends
    with pytest.raises(ValueError, match="reverse_kl is infinite for a target that excludes"):
        _ = descends_on_model(step_of(verifier), "reverse_kl", "verifier")


@pytest.mark.slow
def test_what_cannot_be_judged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="never called problem"):
        _ = descends_on_model(lambda problem: None)
    with pytest.raises(ValueError, match=r"no gradient of .* missing"):
        _ = descends_on_model(lambda problem: {"lm_head.weight": torch.zeros(4, 16)})
    with pytest.raises(ValueError, match="divergence is 'kl'; there are"):
        _ = descends_on_model(lambda problem: None, "kl")
    for options, message in (
        ({"target": "rewards"}, "target is 'rewards': there are reward, verifier"),
        ({"family": "bert"}, "family is 'bert': there are llama, gpt2"),
    ):
        with pytest.raises(ValueError, match=message):
            _ = TinyProblem(tmp_path, **options)  # pyright: ignore[reportArgumentType]

    def broken(problem: TinyProblem) -> dict[str, Tensor]:
        policy = problem.policy()
        return {name: torch.full_like(w, torch.nan) for name, w in policy.named_parameters()}

    with pytest.raises(ValueError, match="gradient is NaN or infinite"):
        _ = descends_on_model(broken)

    def half(problem: TinyProblem) -> None:
        model = problem.start(problem.base())
        _ = model.generate(input_ids=torch.tensor([ids_of("ab")] * 32))

    with pytest.raises(ValueError, match="drew 32 completions of 'ab': it takes 64 of each"):
        _ = descends_on_model(half)
    problem = TinyProblem(tmp_path / "one")
    with pytest.raises(ValueError, match="other weights than those of the model in"):
        _ = problem.start(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a completion holds 'x': the tiny model writes a, e"):
        _ = problem.reward(["ax"])
    wrong: Any = lambda log_base, rewards: rewards[0]  # noqa: E731
    with pytest.raises(ValueError, match=r"the target returned shape \(13,\) for \(3, 13\)"):
        _ = TinyProblem(tmp_path / "two", target=wrong).log_score


def test_the_tiny_model_is_written_over_no_other(tmp_path):
    _ = (tmp_path / "model.safetensors").write_text("mine")
    for taken in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="is not empty: the tiny model needs a folder of its"):
            _ = TinyProblem(taken)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_step_without_trl_of_the_page_is_exact():
    *_, block = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {
        "__name__": "page",
        "assert_descends_on_model": assert_descends_on_model,
    }
    exec(compile(block, "docs/conformance.md", "exec"), names)
    verdict = descends_on_model(names["own_step"], "jensen_shannon")
    # Without weights that move, only float32's share of the policy's law is left.
    assert verdict.scale == pytest.approx(1.0, rel=1e-5)
    assert verdict.relative_error < 1e-5
