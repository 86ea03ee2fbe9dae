"""The examples in docstrings print what they say: doctest, on every module that has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import fdpg_ref
import lm.surrogate
import toy.categorical
import toy.exact

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("fdpg_ref", "toy", "lm", "study")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
# Those that a user calls first.
FIRST = (
    fdpg_ref.score_signal,
    fdpg_ref.score_coefficients,
    fdpg_ref.exact_divergence,
    fdpg_ref.estimate_divergence,
    fdpg_ref.leave_one_out,
    fdpg_ref.reward_tilted,
    fdpg_ref.constrained,
    fdpg_ref.exponential_family,
    fdpg_ref.fit_multipliers,
    fdpg_ref.importance_log_partition,
    fdpg_ref.leave_one_out_log_partition,
    fdpg_ref.update_partition,
    fdpg_ref.alpha_divergence,
    fdpg_ref.find_divergence,
    fdpg_ref.effective_sample_size,
    lm.surrogate.surrogate_loss,
    toy.categorical.sample,
    toy.exact.exact_gradient,
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_print_what_they_say(name, capsys):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert failed == 0, capsys.readouterr().out
    assert attempted > 0


@pytest.mark.parametrize("function", FIRST, ids=lambda function: function.__name__)
def test_what_a_user_calls_first_has_an_example(function):
    assert "Examples\n    --------\n    >>> " in function.__doc__
