"""Training and caching of base models."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lm.config.base import BaseConfig
from lm.errors import RunError
from lm.features.registry import feature_values
from lm.models.vocabulary import CharVocabulary
from lm.policy import load_policy
from lm.training.base import base_facts, batch_loss, read_facts, train_base

ROOT = Path(__file__).resolve().parents[2]
TINY = BaseConfig(layers=1, width=16, heads=2, steps=200, batch_size=256, learning_rate=1e-2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache):
    reports = []
    folder = train_base(TINY, progress=lambda *report: reports.append(report), cache=cache)
    return folder, reports


def test_training_learns_the_source(trained):
    folder, reports = trained
    assert [step for step, _, _ in reports] == list(range(10, 201, 10))
    assert {total for _, total, _ in reports} == {200}
    facts = read_facts(folder)
    # Uniform over 29 tokens costs log 29 = 3.37 nats; letter frequencies alone give about 2.7.
    assert reports[-1][2] < reports[0][2]
    assert facts.source_nats_per_character < facts.nats_per_character < 2.2
    # Entropy of the 25 % mix over its mean length, computed once by other means.
    assert facts.source_nats_per_character == pytest.approx(0.93986, abs=1e-5)
    assert facts.moments.keys() == {"listed", "female", "male", "ends_in_i"}
    total = facts.moments["female"] + facts.moments["male"]
    assert total == pytest.approx(facts.moments["listed"], rel=1e-9)


def test_the_folder_is_a_policy_with_these_facts(trained):
    policy = load_policy(trained[0])
    assert policy.max_new_tokens == 12
    assert policy.vocabulary_size == 29
    assert base_facts(policy, 0.25) == read_facts(trained[0])
    content = json.loads((trained[0] / "base.json").read_text())
    assert BaseConfig(**content["config"]) == TINY
    samples = policy.sample(3, generator=torch.Generator().manual_seed(0))
    assert len(policy.vocabulary.decode(samples.tokens, samples.mask)) == 3


def test_exact_moments_agree_with_samples(trained):
    policy = load_policy(trained[0])
    n = 4_000
    samples = policy.sample(n, generator=torch.Generator().manual_seed(0))
    texts = policy.vocabulary.decode(samples.tokens, samples.mask)
    values = torch.from_numpy(feature_values(("listed", "female", "male"), texts))
    # Enough of each for the normal law.
    assert float(values.sum(0).min()) > 30
    moments = read_facts(trained[0]).moments
    exact = torch.tensor([moments[name] for name in ("listed", "female", "male")])
    z = (values.mean(0) - exact) / (values.std(0) / n**0.5)
    # Five standard errors at a fixed seed.
    assert float(z.abs().max()) < 5.0


def test_the_batch_loss_counts_repeated_names(trained):
    policy = load_policy(trained[0], dtype=torch.float64)
    tokens, mask = CharVocabulary(policy.ids.letters or "").encode(
        ["mary", "bob", "anna", "christopher"]
    )
    draws = torch.tensor([1, 0, 1, 3, 1, 1])
    # Each draw scored by itself; 1e-12 for another order of the same float64 sum.
    slow = [float(policy.log_prob(tokens[[i]], mask[[i]])) for i in draws.tolist()]
    expected = -sum(slow) / (4 * 4 + 5 + 12)
    assert float(batch_loss(policy, tokens, mask, draws)) == pytest.approx(expected, rel=1e-12)


def test_the_last_reported_loss_is_that_of_the_facts(trained):
    folder, reports = trained
    # A batch of 256 names has a standard error of about 0.03 nats per character; 5 of them.
    assert reports[-1][2] == pytest.approx(read_facts(folder).nats_per_character, abs=0.15)


def test_a_cached_base_is_not_trained_again(trained, cache):
    def fail(*_):
        raise AssertionError("trained again")

    assert train_base(TINY, progress=fail, cache=cache) == trained[0]
    assert trained[0].parent == cache / "base"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"facts": {"other": 1}}', 3000 * "["])
def test_damaged_facts_say_what_to_delete(tmp_path, content):
    _ = (tmp_path / "base.json").write_text(content)
    with pytest.raises(RunError, match=r"base\.json does not hold .*: delete .*trained again"):
        _ = read_facts(tmp_path)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    config = dataclasses.replace(TINY, steps=5)
    _ = torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load_policy(train_base(config, cache=tmp_path / "a"))
    # The caller's random numbers are left alone, and do not matter.
    assert torch.equal(torch.random.get_rng_state(), before)
    _ = torch.manual_seed(2)
    again = load_policy(train_base(config, cache=tmp_path / "b"))
    other = load_policy(train_base(dataclasses.replace(config, seed=1), cache=tmp_path / "c"))
    weights = [dict(p.model.named_parameters()) for p in (first, again, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(*(w["transformer.wte.weight"] for w in (weights[0], weights[2])))


def test_an_interrupted_training_leaves_nothing(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _ = train_base(TINY, progress=interrupt, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_field_changes_the_fingerprint():
    changed = [
        BaseConfig(layers=3),
        BaseConfig(width=32),
        BaseConfig(heads=2),
        BaseConfig(max_new_tokens=13),
        BaseConfig(female_share=0.5),
        BaseConfig(steps=1),
        BaseConfig(batch_size=1),
        BaseConfig(learning_rate=1e-3),
        BaseConfig(seed=1),
        BaseConfig(initial="a-folder"),
    ]
    assert len(changed) == len(dataclasses.fields(BaseConfig))
    assert len({config.fingerprint() for config in [BaseConfig(), *changed]}) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"heads": 3}, "heads must divide width, got 3 and 64"),
        ({"max_new_tokens": 11}, "at least 12 to hold every listed name, got 11"),
        ({"female_share": 1.1}, r"female_share must lie in \[0, 1\], got 1.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_a_meaningless_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _ = BaseConfig(**changes)


def test_the_configuration_is_read_without_torch():
    code = (
        "import sys; import lm.config.base, lm.features.registry; "
        "lm.config.base.BaseConfig().fingerprint(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_default_base_reaches_its_figures(tmp_path):
    facts = read_facts(train_base(BaseConfig(), cache=tmp_path))
    # The study behind the demonstration's settings used 1.006 nats per character and 85 % listed.
    assert facts.nats_per_character < 1.02
    assert facts.moments["listed"] > 0.83
    assert 0.2 < facts.moments["female"] / facts.moments["listed"] < 0.27
    assert 0.002 < facts.moments["ends_in_i"] < 0.008
