"""The self-check: it passes here, its oracle is exact, and what is broken makes it fail."""

from __future__ import annotations

import json
import math

import pytest
import torch
from support.lm_tiny import enumerate_sequences

import lm.selfcheck.run
import lm.selfcheck.trials
from fdpg_ref import DIVERGENCES
from lm.cli.main import main
from lm.errors import RunError, RunInterrupted
from lm.selfcheck.oracle import (
    enumerable_policy,
    estimator_gradient,
    every_sequence,
    exact_gradient,
    oracle_problem,
    relative_error,
    sampling_z_scores,
)
from lm.selfcheck.run import Check, run_checks, selfcheck_record
from lm.selfcheck.trials import TRIALS, Bound

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    ],
)
DEVICES = ["cpu", CUDA]
QUICK = (
    "sampler and scorer are one law",
    "estimator against exact gradient",
    "precision ladder",
    "float16 scaler on an overflow",
)


def test_every_sequence_is_listed_once_as_an_independent_listing_does():
    sequences = every_sequence()
    tokens, mask = enumerate_sequences(eos_ids=(1,), pad_id=1, limit=4)
    assert {tuple(map(int, t[m])) for t, m in zip(*sequences, strict=True)} == {
        tuple(map(int, t[m])) for t, m in zip(tokens, mask, strict=True)
    }
    assert len(sequences.tokens) == len(tokens) == 121


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_exact_gradient_is_a_difference_quotient_of_the_divergence(name):
    # An oracle of the oracle: the divergence by its textbook sum, moved along one direction.
    problem = oracle_problem(seed=4)
    policy, sequences, log_target = problem
    gradient = exact_gradient(problem, name)
    assert relative_error(gradient, gradient) == 0.0
    parameters = list(policy.model.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) / p.numel() ** 0.5
        for p in parameters
    ]
    values = []
    for sign in (1, -1):
        moved = policy.trainable_copy()
        with torch.no_grad():
            for parameter, step in zip(moved.model.parameters(), direction, strict=True):
                _ = parameter.add_(step, alpha=sign * 1e-5)
            log_ratio = moved.log_prob(*sequences) - log_target
        terms = log_target.exp() * DIVERGENCES[name].generator(log_ratio)
        values.append(float(terms.sum()))
    slope = float(torch.dot(gradient, torch.cat([d.flatten() for d in direction])))
    # 1e-6: a step h of 1e-5 leaves h^2 of curvature and 1e-16 / h of rounding.
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16", "float16"])
def test_the_estimators_expectation_is_the_exact_gradient(precision, device):
    problem = oracle_problem(device=device)
    # Roundoffs of the dtypes through forward and backward pass, as in the self-check.
    largest = {"float64": 1e-10, "float32": 5e-6, "bfloat16": 2e-2, "float16": 4e-3}[precision]
    for name in DIVERGENCES:
        expected = exact_gradient(problem, name)
        actual = estimator_gradient(problem, name, precision)
        assert relative_error(actual, expected) < largest, name


def test_counts_of_another_law_are_noticed():
    problem = oracle_problem()
    assert float(sampling_z_scores(problem, 20_000).abs().max()) < 5.0
    other = problem._replace(policy=_Shifted.of(enumerable_policy()))
    assert float(sampling_z_scores(other, 20_000).abs().max()) > 10.0


class _Shifted:
    """A policy that samples from one model and scores with another."""

    def __init__(self, sampler, scorer):
        self.sample, self.log_prob = sampler.sample, scorer.log_prob

    @classmethod
    def of(cls, policy):
        return cls(policy, enumerable_policy(seed=7))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", QUICK)
def test_each_quick_check_passes_with_room_for_its_figures(name, device, tmp_path):
    bounds, details = TRIALS[name](device, tmp_path)
    assert bounds
    assert [bound for bound in bounds if not bound.holds] == []
    assert json.dumps(details, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_whole_self_check_passes_as_a_command(device, tmp_path, capsys):
    path = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--device", device, "--json", str(path)]) == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["passed"] is True
    assert record["device"] == device
    assert [check["name"] for check in record["checks"]] == list(TRIALS)
    assert all(bound["holds"] for check in record["checks"] for bound in check["bounds"])
    assert record["environment"]["torch"] == torch.__version__
    out = capsys.readouterr().out
    assert f"all {len(TRIALS)} checks passed" in out
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_a_broken_bound_and_a_crash_fail_the_check_and_the_command(monkeypatch, capsys, tmp_path):
    def crash(_device, _scratch):
        raise ZeroDivisionError("a kernel is missing")

    trials = {
        "fine": lambda *_: ([Bound("x", 1.0, 1.0)], {"more": {"figures": (math.inf, 1)}}),
        "beyond": lambda *_: ([Bound("y", 1.5, 1.0)], {}),
        "unknown": lambda *_: ([Bound("z", math.nan, 1.0)], {}),
        "crash": crash,
    }
    monkeypatch.setattr(lm.selfcheck.run, "TRIALS", trials)
    path = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--json", str(path)]) == 1
    out = capsys.readouterr().out
    assert "FAILED: beyond; unknown; crash" in out
    assert "crash: ZeroDivisionError: a kernel is missing" in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [check["passed"] for check in record["checks"]] == [True, False, False, False]
    assert record["passed"] is False
    assert record["checks"][0]["more"] == {"figures": ["inf", 1]}
    assert record["checks"][2]["bounds"][0]["value"] == "nan"
    assert "ZeroDivisionError" in record["checks"][3]["error"]
    monkeypatch.setattr(lm.selfcheck.run, "TRIALS", {"fine": trials["fine"]})
    assert main(["selfcheck"]) == 0


def test_a_signal_ends_the_self_check_instead_of_failing_it(monkeypatch):
    def stopped(_device, _scratch):
        raise RunInterrupted("SIGTERM", 1, 10, "folder")

    monkeypatch.setattr(lm.selfcheck.run, "TRIALS", {"stopped": stopped})
    with pytest.raises(KeyboardInterrupt):
        _ = run_checks("cpu")


def test_a_check_without_figures_has_not_passed():
    check = Check("name", (), "Traceback", 0.1, {})
    assert not check.passed
    assert selfcheck_record("cpu", [check])["passed"] is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_self_check_says_so(capsys):
    with pytest.raises(RunError, match="torch sees no GPU"):
        _ = run_checks("cuda")
    assert main(["selfcheck", "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_a_run_that_does_not_descend_fails(monkeypatch, tmp_path):
    records = [{"estimates": {"jensen_shannon": {"sampled": v}}} for v in _values(0.30, 0.29)]
    monkeypatch.setattr(lm.selfcheck.trials, "train", lambda _config: tmp_path)
    monkeypatch.setattr(lm.selfcheck.trials, "read_records", lambda _folder, _kind: records)
    bounds, _ = TRIALS["ten training steps"]("cpu", tmp_path)
    assert not bounds[0].holds
    records[1]["estimates"]["jensen_shannon"]["sampled"]["value"] = 0.1
    bounds, _ = TRIALS["ten training steps"]("cpu", tmp_path)
    assert bounds[0].holds


def _values(*values):
    return [{"value": value, "standard_error": 0.01} for value in values]
