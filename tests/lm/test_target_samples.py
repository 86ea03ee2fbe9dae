"""Samples of the target and the two sides of a measurement, against enumeration."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.lm_runs import finished_run, tiny_config, tiny_model
from support.lm_tiny import enumerate_sequences, tiny_gpt2, tiny_policy

from fdpg_ref import DIVERGENCES, exact_divergence
from lm.cli import main as cli
from lm.config import EvaluationConfig, PartitionConfig, RunConfig, TargetConfig
from lm.errors import RunError
from lm.evaluation import target_samples as drawing
from lm.evaluation.evaluate import Evaluator
from lm.evaluation.evidence import Points
from lm.evaluation.target_file import (
    find_target_samples,
    read_target_samples,
    stored_target_samples,
)
from lm.evaluation.target_samples import draw_target_samples, token_rows
from lm.evaluation.two_sides import TargetSide, two_sided_entries, unseen_share
from lm.features import registry as features
from lm.features.registry import feature
from lm.policy import load_policy
from lm.policy.causal import CausalPolicy
from lm.report.sides import disagreement, drawn_sentence, side_rows
from lm.run.records import FOUR
from lm.target.bounds import largest_log_weight
from lm.target.problem import Problem, build_problem
from lm.target.targets import log_score

LIMIT, BETA = 3, 1.5
PROMPTS = ("2", "3 1", "2 2 3")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(features, "FEATURES", dict(features.FEATURES))
    _ = feature("twos")(lambda tokens: [float(row.count(2)) for row in tokens])
    _ = feature("has_three")(lambda tokens: [float(3 in row) for row in tokens])


def _tilted(**bounds: tuple[float, float]) -> TargetConfig:
    """Return the base, tilted by the number of twos; its bounds are right unless given."""
    known = bounds or {"twos": (0.0, 3.0)}
    return TargetConfig(kind="reward_tilted", reward={"twos": 1.0}, beta=BETA, bounds=known)


def _hard() -> TargetConfig:
    return TargetConfig(kind="constrained", constraints=("has_three",))


@cache
def _model(seed: int) -> CausalPolicy:
    return tiny_policy(tiny_gpt2(seed=seed, scale=8.0, positions=8), pad_id=1, limit=LIMIT)


def _problem(
    target: TargetConfig | None = None, prompts: tuple[str, ...] | None = PROMPTS
) -> Problem:
    config = RunConfig(
        model="tiny", target=target or _tilted(), divergence="jensen_shannon",
        partition=PartitionConfig(policy="frozen", samples=3_000),
    )  # fmt: skip
    return build_problem(config, _model(0), prompts)


def _laws(problem: Problem, policy: CausalPolicy) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """Return the place of each sequence, log p and log pi, (contexts, sequences), all of them."""
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=LIMIT)
    rows = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    places = {tuple(row): place for place, row in enumerate(rows)}
    n, c = len(tokens), problem.contexts
    contexts = None if problem.prompts is None else problem.prompts.repeat(n)
    tokens, mask = tokens.repeat(c, 1), mask.repeat(c, 1)
    with torch.no_grad():
        log_base, log_policy = (
            model.log_prob(tokens, mask, prompts=contexts).double().reshape(c, n)
            for model in (problem.base, policy)
        )
    tilted = problem.target.config.kind == "reward_tilted"
    phi = [float(row.count(2) if tilted else 3 in row) for row in rows]
    values = torch.tensor(phi, dtype=torch.float64).repeat(c, 1)[..., None]
    score = log_score(problem.target.config, problem.target.weights, log_base, values)
    return places, score - torch.logsumexp(score, -1, keepdim=True), log_policy


@pytest.mark.parametrize("target", [_tilted, _hard])
def test_what_is_accepted_is_distributed_as_the_target(target):
    problem = _problem(target())
    found = draw_target_samples(
        problem, EvaluationConfig(target_samples=3_000, target_draws=60_000)
    )
    assert found.samples is not None
    assert found.contexts.tolist() == [0, 1, 2]
    places, log_target, _ = _laws(problem, _model(0))
    rows = token_rows(found.samples)
    assert len(rows) == 3_000
    for context in range(3):
        own = rows[1_000 * context : 1_000 * (context + 1)]
        counts = torch.zeros(log_target.shape[1], dtype=torch.float64)
        for row in own:
            counts[places[tuple(row)]] += 1
        p = log_target[context].exp()
        assert float(counts[p == 0].sum()) == 0
        usual = p * 1_000 >= 10
        z = (counts - 1_000 * p)[usual] / (1_000 * p * (1 - p))[usual].sqrt()
        # The largest of some dozen z-scores.
        assert float(z.abs().max()) < 5


@pytest.mark.parametrize(
    ("accepted", "contexts", "each"),
    [
        ((45, 41, 43), [0, 1, 2], 41),  # none has all of the 64
        ((64, 60, 2), [0, 1], 60),
        ((3, 64, 2), [1], 64),
        ((64, 64, 64), [0, 1, 2], 64),
    ],
)
def test_of_contexts_that_accept_few_as_many_samples_are_kept_as_can_be(
    accepted, contexts, each, monkeypatch
):
    rows = [[[3, 1]] * number for number in accepted]
    monkeypatch.setattr(drawing, "_reject", lambda *_, **options: (rows, 999, sum(accepted)))
    monkeypatch.setattr(drawing, "LEAST", 10)
    found = draw_target_samples(
        _problem(), EvaluationConfig(target_samples=3 * 64, target_draws=3 * 64)
    )
    assert found.contexts.tolist() == contexts
    assert found.samples is not None
    assert len(found.samples.tokens) == each * len(contexts)
    assert (found.reason is None) == (len(contexts) == 3)


def test_the_acceptance_rate_is_z_over_the_bound():
    problem = _problem()
    found = draw_target_samples(
        problem, EvaluationConfig(target_samples=1_500, target_draws=60_000)
    )
    tokens, _, _ = _laws(problem, _model(0))
    assert tokens
    log_bound = largest_log_weight(problem.target, None, most_tokens=LIMIT)
    assert log_bound == pytest.approx(3.0 / BETA)
    # Contexts take part until each has its samples, so that the rate lies between theirs.
    rates = torch.exp(problem.log_z - 3.0 / BETA)
    rate = found.accepted / found.drawn
    error = 5 * math.sqrt(rate / found.drawn)
    assert float(rates.min()) - error < rate < float(rates.max()) + error


def test_a_teacher_is_sampled_and_nothing_is_rejected():
    problem = _problem()
    target = replace(problem.target, teacher=_model(1))
    found = draw_target_samples(
        replace(problem, target=target), EvaluationConfig(target_samples=300)
    )
    assert found.drawn == found.accepted == 300
    assert found.samples is not None


def test_a_teachers_entropy_is_that_of_its_own_samples():
    """The base and the policy hardly ever say what this teacher says: their weights are heavy."""
    problem = _problem(prompts=("2",))
    teacher = tiny_policy(tiny_gpt2(seed=3, scale=16.0, positions=8), pad_id=1, limit=LIMIT)
    target = replace(problem.target, teacher=teacher, log_z=0.0)
    problem = replace(problem, target=target, log_z=torch.zeros_like(problem.log_z))
    _, _, log_p = _laws(problem, teacher)
    exact = float(torch.special.entr(log_p.exp()).sum())
    evaluator = Evaluator(problem, EvaluationConfig(samples=2048), divergence="forward_kl", seed=5)
    found = evaluator.measure(_model(1), step=1, samples=64).record["estimates"]["entropy_target"]
    assert set(found) == {"rao_blackwell"}
    value, error = found["rao_blackwell"]["value"], found["rao_blackwell"]["standard_error"]
    assert abs(value - exact) < 5 * error
    assert error < 0.05


def test_a_feature_without_bounds_is_named():
    target = TargetConfig(kind="reward_tilted", reward={"twos": 1.0}, beta=BETA)
    found = draw_target_samples(_problem(target), EvaluationConfig())
    assert found.samples is None
    assert "state target.bounds of twos" in (found.reason or "")


def test_bounds_that_do_not_hold_are_an_error():
    target = _tilted(twos=(0.0, 1.0))
    with pytest.raises(RunError, match=r"above 0\.666667, the most that target\.bounds allows"):
        _ = draw_target_samples(_problem(target), EvaluationConfig())


@pytest.mark.parametrize(
    ("bounds", "message"),
    [({"three": (0.0, 1.0)}, "no feature of this target"), ({"twos": (1.0, 0.0)}, "finite least"),
     ({"twos": (0.0, math.inf)}, "finite least")],
)  # fmt: skip
def test_bounds_that_mean_nothing_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        _ = _tilted(**bounds)


def test_too_few_accepted_samples_say_what_to_raise():
    # Some dozen are accepted, and 100 are too few to be believed.
    config = EvaluationConfig(target_samples=256, target_draws=120)
    found = draw_target_samples(_problem(), config)
    assert found.samples is None
    assert 2 < found.accepted < 100
    assert "too few: raise evaluation.target_draws" in (found.reason or "")
    nothing = draw_target_samples(_problem(), EvaluationConfig(target_samples=0))
    assert (nothing.samples, nothing.drawn) == (None, 0)


@pytest.mark.parametrize("prompts", [PROMPTS, ("2",), ("2 2 3",), None], ids=str)
@pytest.mark.parametrize("name", FOUR)
def test_the_targets_side_agrees_with_the_sum(name, prompts):
    problem, record = _measured(prompts)
    _, log_target, log_policy = _laws(problem, _model(1))
    exact = exact_divergence(log_policy, log_target, divergence=DIVERGENCES[name]).mean()
    found = record["estimates"][name]["target_samples"]
    # The error of several is that of a mean over prompts like these, of which the sum has all.
    assert abs(found["value"] - float(exact)) < 5 * found["standard_error"]


@cache
def _measured(prompts: tuple[str, ...] | None) -> tuple[Problem, dict[str, Any]]:
    problem = _problem(prompts=prompts)
    config = EvaluationConfig(samples=1_500, group=64, target_samples=1_500, target_draws=60_000)
    evaluator = Evaluator(problem, config, divergence="jensen_shannon", seed=0)
    return problem, evaluator.measure(_model(1), step=0, samples=0).record


def _by_hand(
    policy: torch.Tensor, target: torch.Tensor, n: int, *, on_list: Points | None = None
) -> Any:
    """Return the entries of samples that hold each outcome as often as its law says."""

    def points(law: torch.Tensor) -> Points:
        rows = torch.arange(len(law)).repeat_interleave((law * n).round().long())[None]
        own = [x.log()[rows] for x in (policy, policy, target)]
        listed = torch.full(rows.shape, on_list is not None)
        return Points.mixed(own[0], own[1], own[2], listed)

    evidence: Any = SimpleNamespace(from_policy=points(policy), on_list=on_list)
    side = TargetSide(torch.tensor([0]), points(target), 0.0)
    return two_sided_entries(evidence, side, FOUR)


@pytest.mark.parametrize("name", FOUR)
def test_both_sides_are_the_divergence_when_samples_are_the_distribution(name):
    policy = torch.tensor([1, 1, 4, 2, 3, 1], dtype=torch.float64) / 12
    target = torch.tensor([3, 1, 2, 4, 1, 1], dtype=torch.float64) / 12
    exact = float(exact_divergence(policy.log(), target.log(), divergence=DIVERGENCES[name]))
    found = _by_hand(policy, target, 12)[name]
    # A dozen float64 terms.
    assert found["target_samples"]["value"] == pytest.approx(exact, rel=1e-12)
    assert found["policy_samples"]["value"] == pytest.approx(exact, rel=1e-12)


def test_what_the_policy_dropped_only_the_target_shows():
    # A fifth of the target lies where the policy has one sample in 100,000; none is among 1,000.
    policy = torch.tensor([0.6, 0.4 - 1e-5, 1e-5], dtype=torch.float64)
    target = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = _by_hand(policy, target, 1_000)
    exact = float(
        exact_divergence(policy.log(), target.log(), divergence=DIVERGENCES["forward_kl"])
    )
    sides = found["forward_kl"]
    # The policy's share of the mixture rounds 1e-5 to no sample: an error of that size.
    assert sides["target_samples"]["value"] == pytest.approx(exact, abs=1e-4)
    # The rest, normalised: KL of (5/8, 3/8) to (0.6, 0.4).
    seen = 0.625 * math.log(0.625 / 0.6) + 0.375 * math.log(0.375 / 0.4)
    assert sides["policy_samples"]["value"] == pytest.approx(seen, abs=1e-4)
    # 1,000 samples of the policy expect 0.01 of the third outcome, and hundreds of the others.
    assert found["unseen_share"]["target_samples"]["value"] == pytest.approx(0.2)

    record = {"estimates": found, "target_samples": {"samples": 1_000, "contexts": 1, "drawn": 0}}
    sentence = disagreement(record)
    assert sentence is not None
    assert "the policy has dropped about 20% of the target" in sentence
    assert len(side_rows(record)) == 4


def test_rounding_is_no_disagreement_of_the_two_sides():
    """A policy that is its own target: total variation of 1e-7 and 4e-7, to a few per cent."""
    pairs = {"target_samples": (1.7e-7, 2e-8), "policy_samples": (3.8e-7, 4e-8)}
    sides = {by: {"value": v, "standard_error": e} for by, (v, e) in pairs.items()}
    record = {"estimates": {"total_variation": sides}}
    assert disagreement(record) is None
    assert [row[-1] for row in side_rows(record)] == ["+0.2"]


@pytest.mark.parametrize(("n", "share"), [(100, 0.5), (1_000, 0.18), (200_000, 0.0)])
def test_the_unseen_share_depends_on_the_policys_samples(n, share):
    # A sample of the first part stands for 1e-5 of the policy, one of the second for 1e-4.
    policy = torch.tensor([[1e-4, 0.004, 0.9959]], dtype=torch.float64)
    target = torch.tensor([[0.1, 0.4, 0.5]], dtype=torch.float64)
    rows = torch.arange(3).repeat_interleave(torch.tensor([10, 40, 50]))
    points = Points.mixed(
        policy.log()[:, rows], policy.log()[:, rows], target.log()[:, rows], rows[None] < 0
    )
    found = unseen_share(points, n)
    assert found["value"] == pytest.approx(share)


def test_what_is_infinite_on_the_list_is_not_made_finite_by_samples_that_miss_it():
    # The policy has a billionth on a name that the target excludes, and no sample shows it.
    policy = torch.tensor([0.5, 0.5 - 1e-9, 1e-9], dtype=torch.float64)
    target = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    listed = torch.ones(3, dtype=torch.bool)
    whole = Points.mixed(policy.log(), policy.log(), target.log(), listed)
    found = _by_hand(policy, target, 10, on_list=whole)
    for by in ("target_samples", "policy_samples"):
        assert found["reverse_kl"][by] == {
            "value": "inf",
            "reason": "policy mass outside the target",
        }
        assert math.isfinite(found["jensen_shannon"][by]["value"])


def test_a_name_that_neither_can_draw_is_no_hole_in_the_comparison():
    law = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    target = torch.tensor([0.2, 0.3, 0.5, 0.0], dtype=torch.float64)
    whole = Points.mixed(law.log(), law.log(), target.log(), law >= 0)
    found = _by_hand(law, target, 100, on_list=whole)
    # Each sample holds every outcome as often as its law says: nothing is left to deviate.
    for name in FOUR:
        assert found[name]["target_samples"]["z"] == pytest.approx(0.0, abs=1e-6)


def test_no_sample_with_target_mass_is_said_so():
    policy = torch.tensor([1.0 - 1e-9, 1e-9], dtype=torch.float64)
    target = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = _by_hand(policy, target, 100)
    assert found["forward_kl"]["policy_samples"]["value"] == "inf"
    assert "no sample" in str(found["forward_kl"]["policy_samples"]["reason"])
    assert found["forward_kl"]["target_samples"]["value"] == pytest.approx(
        9 * math.log(10), abs=1e-6
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (None, ""),
        ({"samples": 0, "contexts": 0, "drawn": 9, "reason": "too few"},
         "No samples of the target: too few."),
        ({"samples": 256, "contexts": 1, "drawn": 1024, "acceptance": 0.31},
         "256 samples of the target, from 1,024 draws of which 31% were accepted."),
        ({"samples": 16, "contexts": 1, "drawn": 4096, "acceptance": 0.0039},
         "16 samples of the target, from 4,096 draws of which 0.0039 were accepted."),
    ],
)  # fmt: skip
def test_the_cost_of_the_samples_is_said(facts, words):
    assert drawn_sentence({"target_samples": facts} if facts else {}) == words


def test_a_run_goes_on_where_its_samples_cannot_be_shared(tmp_path, capsys):
    """In a folder that one may read only: the run writes its own copy, wherever that is."""
    config = RunConfig(model="tiny", target=_tilted(), divergence="jensen_shannon")
    written: dict[str, str] = {}
    run: Any = SimpleNamespace(partial=tmp_path, main=True, write_text=written.__setitem__)
    _ = (tmp_path / "cache").write_text("a file: nothing can be written below it")
    found = find_target_samples(config, _problem(), run, cache=tmp_path / "cache")
    assert found.samples is not None
    assert list(written) == ["target_samples.jsonl"]
    assert "are not kept for later runs of this task: " in capsys.readouterr().err


def test_runs_of_a_task_share_their_samples_and_another_base_does_not(tmp_path):
    problem, config = (
        _problem(),
        RunConfig(model="tiny", target=_tilted(), divergence="jensen_shannon"),
    )
    written: list[str] = []
    run: Any = SimpleNamespace(
        partial=tmp_path, main=True, write_text=lambda name, text: written.append(text)
    )
    first = find_target_samples(config, problem, run, cache=tmp_path)
    (stored,) = (tmp_path / "target_samples").iterdir()
    before = stored.stat().st_mtime_ns
    again = find_target_samples(replace(config, seed=1), problem, run, cache=tmp_path)
    assert first.samples is not None
    assert again.samples is not None
    assert torch.equal(first.samples.log_prob, again.samples.log_prob)
    assert (first.drawn, first.accepted) == (again.drawn, again.accepted)
    assert stored.stat().st_mtime_ns == before
    assert written[0] == written[1] == stored.read_text(encoding="utf-8")

    # One sample of which base and target say something else is enough to draw them all again.
    *lines, last = written[0].splitlines()
    record = json.loads(last)
    record["log_base"] += 0.1
    _ = stored.write_text("\n".join([*lines, json.dumps(record)]), encoding="utf-8")
    mended = find_target_samples(config, problem, run, cache=tmp_path)
    assert mended.samples is not None
    assert stored.read_text(encoding="utf-8") == written[0]

    # The same names, other weights: what is stored says something else, and is drawn anew.
    other = build_problem(
        replace(config, partition=PartitionConfig(policy="frozen")), _model(2), PROMPTS
    )
    changed = find_target_samples(config, other, run, cache=tmp_path)
    assert changed.samples is not None
    log_prob = _model(2).score(changed.samples)
    # float64 weights: a dozen ulp apart, where another model is nats apart.
    assert torch.allclose(changed.samples.log_prob, log_prob, atol=1e-5)
    assert stored.read_text(encoding="utf-8") != written[0]


GOOD = '{"prompt": "2", "tokens": [2, 1]}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "no json"], "line 2 is no JSON"),
        ([GOOD, "[1]"], 'line 2 needs an object with "text" or "tokens"'),
        ([GOOD, '{"prompt": "2", "tokens": null}'], 'line 2 needs an object with "text"'),
        ([GOOD, '{"prompt": "2", "text": {}}'], 'line 2 needs an object with "text"'),
        ([GOOD, '{"prompt": ["2"], "text": "2"}'], "line 2: .prompt. is .*and must be text"),
        ([GOOD, '{"prompt": "2", "tokens": [true, 1]}'], "line 2: tokens must be ids"),
        ([GOOD, 3000 * "["], "line 2 is no JSON"),
        ([GOOD, '{"tokens": [2, 1]}'], "line 2 continues '', which is no prompt of this run"),
        ([GOOD, '{"prompt": "2", "tokens": [99]}'], "line 2: tokens must be ids from 0 to 3"),
        ([GOOD, '{"prompt": "2", "tokens": []}'], "line 2: tokens must be ids"),
        ([GOOD, '{"prompt": "2", "tokens": [2, 2, 2, 1]}'], "line 2 has 4 tokens, the run's limit"),
        ([GOOD, '{"prompt": "2", "text": "x"}'], "line 2: "),
        ([GOOD], "less than two samples of each prompt"),
        ([], "less than two samples"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, lines, message):
    path = tmp_path / "p.jsonl"
    _ = path.write_text("\n".join(lines))
    with pytest.raises(RunError, match=message):
        _ = read_target_samples(path, _problem())


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "{}", 3000 * "[", '{"contexts": null}', '{"contexts": [1e999]}'),
        '{"contexts": [0], "drawn": Infinity, "accepted": 1}\n{"tokens": [2, 1]}',
        '{"contexts": [0], "drawn": 1, "accepted": 1}\n{"tokens": [99999]}',
        '{"contexts": [0], "drawn": 1, "accepted": 1}\n{"tokens": 2}',
        '{"contexts": [0], "drawn": 1, "accepted": 1}\n[]',
    ],
)
def test_stored_samples_that_were_damaged_are_an_error_with_a_name(tmp_path, content):
    path = tmp_path / "stored.jsonl"
    _ = path.write_text(content)
    with pytest.raises(RunError, match="reading stored samples of the target"):
        _ = stored_target_samples(path, _problem())


def test_a_text_may_hold_every_kind_of_line_break_but_the_files_own(tmp_path):
    path = tmp_path / "p.jsonl"
    _ = path.write_text(2 * '{"prompt": "2", "text": " 3\u2028"}\r\n', encoding="utf-8")
    found = read_target_samples(path, _problem())
    assert found.samples is not None
    assert token_rows(found.samples) == [[3, 1], [3, 1]]


def test_a_file_of_other_texts_is_no_sample_of_a_hard_target(tmp_path):
    path = tmp_path / "p.jsonl"
    _ = path.write_text("\n".join([GOOD, GOOD]))
    with pytest.raises(RunError, match="the target excludes"):
        _ = read_target_samples(path, _problem(_hard()))
    with pytest.raises(RunError, match="cannot be read"):
        _ = read_target_samples(tmp_path / "absent", _problem())


def test_texts_and_tokens_are_the_same_samples(tmp_path):
    problem = _problem()
    lines = {
        "tokens": ['{"prompt": "2", "tokens": [3, 1]}', '{"prompt": "2", "tokens": [2, 3, 1]}'],
        "text": ['{"prompt": "2", "text": " 3"}', '{"prompt": "2", "text": " 2 3"}'],
    }
    found = []
    for name, own in lines.items():
        path = tmp_path / f"{name}.jsonl"
        _ = path.write_text("\n".join(own))
        found.append(read_target_samples(path, problem))
    assert found[0].contexts.tolist() == [0]
    assert "without 2 of 3 contexts" in (found[0].reason or "")
    assert token_rows(found[0].samples) == token_rows(found[1].samples) == [[3, 1], [2, 3, 1]]


@pytest.mark.slow
def test_a_run_keeps_its_samples_and_evaluate_takes_others(tmp_path, capsys, monkeypatch):
    folder = finished_run()
    lines = (folder / "target_samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]).keys() == {"contexts", "drawn", "accepted", "reason"}
    own = tmp_path / "mine.jsonl"
    names = [json.loads(line)["text"] for line in lines[1:6]]
    _ = own.write_text("\n".join(json.dumps({"text": name}) for name in names))
    record = tmp_path / "record.json"
    words = ["evaluate", str(folder), "--samples", "256", "--json", str(record)]
    assert cli.main([*words, "--p_samples", str(own)]) == 0
    text = capsys.readouterr().out
    assert "from both sides" in text
    assert f"5 samples of the target; from {own}" in text.replace("\n", "")
    assert json.loads(record.read_text())["target_samples"]["samples"] == 5
    assert cli.main([*words, "--p_samples", str(tmp_path / "absent")]) == 2


@pytest.mark.slow
def test_on_the_list_the_bound_is_reached_and_never_passed():
    base = build_problem(tiny_config(Path("unused")), _names(), None)
    bound = largest_log_weight(base.target, base.listing, most_tokens=12)
    assert bound is not None
    assert base.listing is not None
    log_base, atoms = base.listing.with_remainder()
    weights = base.target.log_score(log_base, atoms) - log_base
    # Addition and subtraction of log a round by its size.
    assert float(weights.max()) == pytest.approx(bound, abs=1e-12)


def _names() -> CausalPolicy:
    return load_policy(tiny_model())
