"""What a run may aim at beside a target of features: a teacher, and a reward without a penalty."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from importlib import resources

import pytest
import torch
from support.lm_models import make_llama_folder
from support.lm_runs import SMALL, lines, tiny_config, tiny_model

from fdpg_ref import (
    REVERSE_KL,
    InfiniteDivergence,
    leave_one_out,
    score_coefficients,
    score_signal,
)
from lm.config import (
    CheckpointConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    TargetConfig,
    resolve,
)
from lm.config.base import RECIPE_VERSION, BaseConfig
from lm.errors import RunError
from lm.features.census import DATA_FILE
from lm.models.folder import build_gpt2
from lm.models.tokenizer import TokenizerVocabulary
from lm.policy import CausalPolicy, load_policy
from lm.run.start import partial_folder
from lm.selfcheck.oracle import enumerable_policy, every_sequence
from lm.surrogate import surrogate_loss
from lm.target.decoded import Reading
from lm.target.fit import reward_alone
from lm.target.problem import build_problem, measured_problem
from lm.target.teacher import check_teacher, teacher_log_prob
from lm.train import StepRecord, train
from lm.training.base import train_base

RARE = TargetConfig(moments={"ends_in_i": 0.5})
REWARD = TargetConfig(kind="reward", reward={"listed": 2.0})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A model fine-tuned from the tiny one, for a few steps."""
    config = BaseConfig(
        layers=1, width=32, heads=4, steps=20, batch_size=64, female_share=1.0,
        initial=str(tiny_model()),
    )  # fmt: skip
    return str(train_base(config, cache=tmp_path_factory.mktemp("models")))


def _of_teacher(folder: str) -> TargetConfig:
    return TargetConfig(kind="teacher", teacher=folder)


def test_fine_tuning_starts_from_the_given_model(teacher, tmp_path):
    start = load_policy(tiny_model()).model.state_dict()
    tuned = load_policy(teacher).model.state_dict()
    moved = max(float((tuned[name] - value).abs().max()) for name, value in start.items())
    # Twenty steps of Adam within their warm-up move no weight further than twenty rates.
    assert 0 < moved < 20 * 4e-3
    with pytest.raises(RunError, match=r"has 1 layers of width 32 and 4 heads.*2, 32 and 4"):
        _ = train_base(
            BaseConfig(layers=2, width=32, heads=4, steps=1, initial=str(tiny_model())),
            cache=tmp_path,
        )


def test_a_cached_model_of_another_start_is_not_taken(tmp_path):
    start = shutil.copytree(tiny_model(), tmp_path / "start")
    config = BaseConfig(layers=1, width=32, heads=4, steps=1, batch_size=64, initial=str(start))
    folder = train_base(config, cache=tmp_path / "cache")
    assert train_base(config, cache=tmp_path / "cache") == folder
    weights = start / "model.safetensors"
    _ = weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunError, match=r"start has changed since .* delete .*, and it is fine-tun"):
        _ = train_base(config, cache=tmp_path / "cache")


def test_what_is_left_out_does_not_change_a_cached_models_name():
    plain = BaseConfig(layers=1)
    assert plain.fingerprint() != replace(plain, initial="folder").fingerprint()
    # The name that models had before there was anything to leave out.
    given = {name: value for name, value in asdict(plain).items() if name != "initial"}
    recipe = json.dumps([RECIPE_VERSION, given], sort_keys=True).encode()
    data = resources.files("lm.features").joinpath("data", DATA_FILE).read_bytes()
    expected = hashlib.sha256(hashlib.sha256(data).digest() + recipe).hexdigest()[:16]
    assert plain.fingerprint() == expected


def test_a_teachers_score_is_its_log_probability_of_every_sequence():
    policy, sequences = enumerable_policy(), every_sequence()
    rows = [row[keep].tolist() for row, keep in zip(*sequences, strict=True)]
    nothing, texts = torch.zeros(len(rows), 0), [""] * len(rows)
    listed = torch.zeros(len(rows), dtype=torch.bool)
    reading = Reading(texts, texts, texts, rows, nothing, listed, {})
    found = teacher_log_prob(policy, reading)
    torch.testing.assert_close(found, policy.log_prob(*sequences).detach(), rtol=0, atol=1e-12)
    # Its partition function is 1: nothing has to be estimated.
    assert float(torch.logsumexp(found, -1)) == pytest.approx(0.0, abs=1e-12)


def test_a_teacher_is_a_target_with_a_known_z_and_without_features(teacher):
    config = resolve(tiny_config(tiny_model(), target=_of_teacher(teacher)))
    assert config.partition.policy == "exact"
    base, model = load_policy(tiny_model()), load_policy(teacher)
    problem = build_problem(config, base)
    assert problem.target.log_z == 0.0
    assert problem.offline is None
    assert problem.listing is not None
    expected = problem.listing.support.log_prob(model)
    torch.testing.assert_close(problem.list_log_score, expected, rtol=0, atol=1e-5)
    samples = base.sample(16, generator=torch.Generator().manual_seed(0))
    log_score = problem.log_score(base.score(samples), problem.read(samples))
    torch.testing.assert_close(log_score, model.score(samples), rtol=0, atol=1e-5)


def test_a_teacher_completes_prompts(teacher):
    config = tiny_config(
        tiny_model(), target=_of_teacher(teacher), max_new_tokens=11,
        prompts=PromptsConfig(file="given to build_problem", per_step=2),
    )  # fmt: skip
    base = load_policy(tiny_model(), max_new_tokens=11)
    model = load_policy(teacher, max_new_tokens=11)
    problem = build_problem(resolve(config), base, ["a", "b"])
    assert problem.log_z.tolist() == [0.0, 0.0]
    prompts = problem.prompts
    assert prompts is not None
    samples = base.sample(4, generator=torch.Generator().manual_seed(0), prompts=prompts)
    log_score = problem.log_score(base.score(samples), problem.read(samples))
    torch.testing.assert_close(log_score, model.score(samples), rtol=0, atol=1e-5)


def test_training_toward_a_teacher_comes_nearer_and_is_measured_against_it(teacher, tmp_path):
    changes = {"steps": 12, "divergence": "alpha_0.5", "batch_size": 128, "report": False}
    config = tiny_config(tmp_path / "run", target=_of_teacher(teacher), **changes)
    folder = train(replace(config, evaluation=replace(SMALL, every=12)))
    first, last = (record["estimates"] for record in lines(folder, "evaluation"))
    before, after = (e["alpha_0.5"]["list_and_remainder"] for e in (first, last))
    error = float(before["standard_error"]) + float(after["standard_error"])
    assert float(after["value"]) < float(before["value"]) - 3 * error
    assert not (folder / "report.html").exists()


def test_a_teacher_with_other_tokens_or_another_limit_is_refused(teacher):
    base = load_policy(tiny_model())
    with pytest.raises(RunError, match="stops after 11 tokens and the model after 12"):
        check_teacher(load_policy(teacher, max_new_tokens=11), base)
    model = build_gpt2(vocabulary_size=29, positions=12, layers=1, width=8, heads=1, seed=0)
    foreign = CausalPolicy(model, bos_id=0, eos_ids=(1,), pad_id=1, max_new_tokens=12)
    with pytest.raises(RunError, match=r"target\.teacher has another vocabulary"):
        check_teacher(foreign, base)


def test_a_teacher_with_a_tokenizer_is_taken_by_its_tokens_and_not_as_an_object(tmp_path):
    folder = make_llama_folder(tmp_path / "model")
    base, teacher = (load_policy(folder, max_new_tokens=4) for _ in range(2))
    # The very folder that is trained, loaded twice: two tokenizers with the same tokens.
    check_teacher(teacher, base)
    teacher.ids = replace(teacher.ids, eos_ids=teacher.ids.eos_ids[::-1])
    check_teacher(teacher, base)
    teacher.ids = replace(teacher.ids, eos_ids=teacher.ids.eos_ids[:1])
    with pytest.raises(RunError, match=r"end tokens are \[265\] there and \[264, 265\] here"):
        check_teacher(teacher, base)
    other = load_policy(folder, max_new_tokens=4)
    assert isinstance(other.vocabulary, TokenizerVocabulary)
    _ = other.vocabulary.tokenizer.add_tokens(["new"])
    with pytest.raises(RunError, match="the id of 'new' is 266 there and None here"):
        check_teacher(other, base)


def test_a_teacher_may_have_more_rows_than_its_tokenizer_has_tokens_but_not_fewer(tmp_path):
    folder = make_llama_folder(tmp_path / "model")
    base, padded = (load_policy(folder, max_new_tokens=4) for _ in range(2))
    padded.model.resize_token_embeddings(base.vocabulary_size + 6)
    check_teacher(padded, base)
    with pytest.raises(RunError, match="it has 266 ids and the model 272"):
        check_teacher(base, padded)


def test_a_reward_alone_has_the_gradient_of_its_expectation():
    policy, sequences = enumerable_policy(), every_sequence()
    log_policy = policy.log_prob(*sequences)
    phi = torch.rand(len(log_policy), 1, generator=torch.Generator().manual_seed(2)).double()
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    exact = torch.autograd.grad(
        (log_policy.exp() * 2.0 * phi[:, 0]).sum(), weights, retain_graph=True
    )
    held = log_policy.detach()
    # The anchor of the target is the policy itself.
    log_score = reward_alone(REWARD).log_score(held, phi)
    signal = score_signal(held, log_score, divergence=REVERSE_KL)
    loss = surrogate_loss(log_policy, score_coefficients(signal) * held.exp() * len(held))
    for one, other in zip(torch.autograd.grad(loss, weights), exact, strict=True):
        # Descending the divergence ascends the reward.
        torch.testing.assert_close(one, -other, rtol=1e-9, atol=1e-12)


def test_a_run_on_reward_alone_descends_minus_the_reward(tmp_path, monkeypatch):
    """In the loop the coefficients are those of REINFORCE with the mean of the others."""
    seen = []
    original = score_coefficients

    def spy(signal, **options):
        seen.append((signal, original(signal, **options)))
        return seen[-1][1]

    monkeypatch.setattr("lm.train.score_coefficients", spy)
    config = tiny_config(
        tmp_path / "run", target=REWARD, measure=RARE, divergence="reverse_kl", steps=3,
        precision="float64", report=False,
    )  # fmt: skip
    assert build_problem(resolve(config), load_policy(tiny_model())).anchor is None
    folder = train(config)
    assert len(seen) == 3
    for (signal, coefficients), step in zip(seen, lines(folder, "step"), strict=True):
        reward = -signal.flatten()
        # Rewards are 0 or 2, up to the rounding of log pi between sampler and scorer.
        assert bool(((reward.abs() < 1e-9) | ((reward - 2.0).abs() < 1e-9)).all())
        assert float(reward.mean()) / 2.0 == pytest.approx(step["features"]["listed"], abs=1e-9)
        advantages = reward - leave_one_out(reward)
        torch.testing.assert_close(coefficients.flatten(), -advantages, rtol=0, atol=1e-9)
    final = lines(folder, "evaluation")[-1]["estimates"]
    assert "feature/ends_in_i" in final
    assert "feature/listed" not in final


def test_the_trained_target_keeps_its_warnings_and_its_check_beside_a_measured_one(tmp_path):
    penalised = TargetConfig(kind="reward_tilted", reward={"letters": 9.0}, beta=0.5)
    config = tiny_config(
        tmp_path / "run", target=penalised, measure=RARE, report=False, steps=2,
        partition=PartitionConfig(policy="frozen", samples=64), divergence="reverse_kl",
    )  # fmt: skip

    class Stop(Exception):
        pass

    def stop(step: StepRecord) -> None:
        if step.step == 1:
            raise Stop

    # One long text outweighs all others in the offline Z: said once, at the start.
    with pytest.raises(Stop):
        _ = train(replace(config, checkpoint=CheckpointConfig(every=1)), on_step=stop)
    partial = partial_folder(tmp_path / "run")
    (first,) = lines(partial, "evaluation")
    said = "the target that is trained: one sample of 64 base samples"
    assert any(words.startswith(said) for words in first["warnings"])

    # The same run with another trained target is another run.
    path = partial / "target.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    assert "trained" in about
    about["trained"]["log_z"] += 1.0
    _ = path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(RunError, match="log Z of the target, as it is trained, is"):
        _ = train(replace(config, resume=True))


def test_a_run_is_measured_against_the_other_target(tmp_path):
    penalised = TargetConfig(kind="reward_tilted", reward={"listed": 2.0}, beta=0.5)
    config = tiny_config(
        tmp_path / "run", target=penalised, measure=RARE, divergence="reverse_kl", report=False
    )
    base = load_policy(tiny_model())
    own = build_problem(resolve(config), base)
    measured = measured_problem(resolve(config), base, own)
    assert own.target.features == ("listed",)
    assert measured.target.features == ("ends_in_i",)
    assert measured_problem(resolve(replace(config, measure=None)), base, own) is own
    folder = train(config)
    start = lines(folder, "evaluation")[0]["estimates"]
    assert start["log_z"]["exact"]["value"] == pytest.approx(measured.target.log_z, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": None}, "say in measure which distribution"),
        ({"divergence": "forward_kl"}, "set divergence reverse_kl"),
        ({"measure": REWARD}, "measure.kind reward is no distribution"),
        ({"updates_per_batch": 2}, "target.kind reward is on-policy"),
        ({"proposal": ProposalConfig("kl_adaptive")}, "target.kind reward is on-policy"),
        ({"partition": PartitionConfig("frozen")}, "target.kind reward is on-policy"),
    ],
)
def test_what_a_reward_alone_cannot_be_is_refused(changes, message, tmp_path):
    good = {"target": REWARD, "measure": RARE, "divergence": "reverse_kl"}
    with pytest.raises(ValueError, match=message):
        _ = tiny_config(tmp_path / "run", **{**good, **changes})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "teacher"}, "target.kind teacher needs target.teacher"),
        ({"kind": "reward"}, "target.kind reward needs target.reward"),
        (
            {"kind": "teacher", "teacher": "m", "reward": {"listed": 1.0}},
            "target.reward belongs to target.kind reward_tilted or reward, but",
        ),
        ({"moments": {"listed": 0.5}, "teacher": "m"}, "target.teacher belongs to target.kind"),
    ],
)
def test_a_target_is_given_by_its_one_option(options, message):
    with pytest.raises(ValueError, match=message):
        _ = TargetConfig(**options)


@pytest.mark.parametrize("name", ["alpha_0.25", "alpha_-0.5", "alpha_2"])
def test_a_run_may_descend_any_alpha(name, tmp_path):
    assert RunConfig(divergence=name, target=RARE).divergence == name
    folder = train(tiny_config(tmp_path / "run", divergence=name, steps=2, report=False))
    assert name in lines(folder, "evaluation")[-1]["estimates"]


def test_an_infinite_alpha_is_refused_on_holes():
    hard = TargetConfig(kind="constrained", constraints=("ends_in_i",))
    assert RunConfig(divergence="alpha_0.9", target=hard).divergence == "alpha_0.9"
    with pytest.raises(InfiniteDivergence, match=r"alpha_1\.5 to a hard constraint is infinite"):
        _ = RunConfig(divergence="alpha_1.5", target=hard)
