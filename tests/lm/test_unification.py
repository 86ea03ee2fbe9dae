"""RLHF and DPG, as others write them, make f-DPG's updates on the same samples of a transformer."""

from __future__ import annotations

import json

import pytest
import torch
from support.lm_runs import BASE, scratch, tiny_model

from lm.cli.main import main
from lm.policy import load_policy
from lm.selfcheck import unification
from lm.selfcheck.unification import BOUNDS, PAIRS, agreements, make_batch
from lm.training.base import train_base

# Each makes updates of whole models in two precisions. `make test-slow` runs them.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(
        unification, "train_base", lambda config: train_base(config, cache=scratch())
    )


def test_every_pair_agrees_in_both_precisions():
    found = agreements(BASE)
    assert {(row.key, row.precision) for row in found} == {
        (pair.key, precision) for pair in PAIRS for precision in BOUNDS
    }
    assert {row.precision: row.bound for row in found} == {"float32": 1e-6, "float64": 1e-12}
    assert all(row.holds for row in found), found
    # Differences of exactly zero would mean that one formula was compared with itself.
    assert max(row.difference for row in found) > 0


@pytest.mark.parametrize("seed", range(3))
def test_one_step_of_descent_ends_at_the_same_weights(seed):
    base = load_policy(tiny_model(), dtype=torch.float64)
    for pair in PAIRS:
        ends = []
        for loss in (pair.known_loss, pair.our_loss):
            policy, batch = make_batch(base, seed=seed)
            start = [p.detach().clone() for p in policy.model.parameters()]
            optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
            torch.autograd.backward(loss(batch))
            _ = optimizer.step()
            moved = zip(policy.model.parameters(), start, strict=True)
            ends.append(torch.cat([(p.detach() - s).flatten() for p, s in moved]))
        assert float(ends[0].norm()) > 0
        assert float((ends[0] - ends[1]).norm() / ends[1].norm()) < BOUNDS["float64"]


def test_pairs_are_not_interchangeable():
    """Guards the guard: the three methods differ from one another on the same samples."""
    policy, batch = make_batch(load_policy(tiny_model(), dtype=torch.float64), seed=0)
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    gradients = [unification._gradient(pair.our_loss(batch), weights) for pair in PAIRS]
    for one in range(3):
        for other in range(one):
            assert float((gradients[one] - gradients[other]).norm()) > 1e-3
    assert bool(batch.satisfied.any())
    assert not bool(batch.satisfied.all())


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lm.cli.check_commands.BaseConfig", lambda: BASE)
    path = tmp_path / "unification.json"
    assert main(["unification", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert set(record) == {"command", "commit", *BOUNDS}
    assert set(record["float64"]) == {pair.key for pair in PAIRS}
    assert "RL with a KL penalty" in capsys.readouterr().out
