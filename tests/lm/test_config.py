"""Configuration: strict, checked before any model library is imported, spelled out in full."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fdpg_ref import InfiniteDivergence
from lm.config import (
    BaselineConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoraConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    ProposalConfig,
    RunConfig,
    SamplingConfig,
    TargetConfig,
    resolve,
)
from lm.config.options import from_plain, option_types, parse_config, to_plain
from lm.errors import UsageError
from lm.features.registry import feature_values

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "lm" / "recipes").glob("*.yaml"))
RARE = TargetConfig(moments={"ends_in_i": 0.95})
HARD = TargetConfig(kind="constrained", constraints=("ends_in_i",))


def _prompted(**changes: Any) -> RunConfig:
    tilted = TargetConfig(kind="reward_tilted", reward={"letters": 1.0})
    prompts = PromptsConfig(file="prompts.txt", per_step=4)
    return RunConfig(**{"target": tilted, "prompts": prompts, **changes})


def _parse(*words: str) -> RunConfig:
    return parse_config(RunConfig, words, program="test")


def test_there_are_the_six_recipes():
    names = [path.stem for path in RECIPES]
    first = ["distributional", "hard_constraint", "prompts"]
    assert names == [*first, "rare_pointwise", "rlhf", "your_model"]


def test_the_filled_in_recipe_of_the_page_is_one(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    ((recipe, code),) = re.findall(r"```yaml\n(.*?)```.*?```python\n(.*?)```", page, re.DOTALL)
    for name, text in (("mine.yaml", recipe), ("mine.py", code), ("prompts.txt", "May I\n")):
        _ = (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = _parse("mine.yaml")
    (feature,) = config.target.reward
    assert config.prompts.file == "prompts.txt"
    assert feature_values([feature], ["Yes, please", "No"]).tolist() == [[1.0], [0.0]]
    # It has the keys of the template that it was made from, those in comments included.
    template = (ROOT / "lm" / "recipes" / "your_model.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^(?:# )?([a-z_]+):", template, re.MULTILINE)
    assert set(yaml.safe_load(recipe)) <= set(keys)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_the_configuration_then_holds(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the paths in recipes count from
    config = _parse(str(path))
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    plain = to_plain(config)
    assert recipe["target"].items() <= plain["target"].items()
    assert {k: v for k, v in recipe.items() if not isinstance(v, dict)}.items() <= plain.items()
    assert config.optimizer.lr == recipe["optimizer"]["lr"]


def test_the_command_line_overrides_the_recipe():
    path = str(ROOT / "lm" / "recipes" / "rare_pointwise.yaml")
    config = _parse(path, "--divergence", "reverse_kl", "--optimizer.lr", "1e-4", "--overwrite")
    assert (config.divergence, config.optimizer.lr, config.overwrite) == ("reverse_kl", 1e-4, True)
    assert config.target == RARE
    again = _parse(path, "--target.moments.ends_in_i", "0.5")
    assert again.target.moments == {"ends_in_i": 0.5}


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["--optimizer.lrr", "1e-4"], "optimizer.lr"),
        (["--optimiser.lr", "1e-4"], "optimizer.lr"),
        (["--divergance=forward_kl"], "divergence"),
        (["--lr", "1e-4"], "optimizer.lr"),
    ],
)
def test_an_unknown_key_on_the_command_line_names_the_nearest(words, nearest):
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        _ = _parse(*words)


def test_an_unknown_key_in_a_recipe_names_the_nearest_and_the_file(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("target: {moments: {ends_in_i: 0.9}}\noptimizer: {learning: 1}\n")
    with pytest.raises(UsageError, match=r"'optimizer.learning' in .*wrong.yaml; did you mean"):
        _ = _parse(str(path))


# Each line stands for ten times what the one before it does.
ALIASES = "a: &a0 [x]\n" + "".join(
    f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "must hold 'key: value' lines"),
        ("a: [", "is not valid YAML"),
        ("steps: many\ntarget: {moments: {ends_in_i: 0.9}}", "steps"),
        ("steps: 3", "target"),
        ("a: !!int ''", "line 1: '' is no int"),
        ("a: 1\nb: !!bool x", "line 2: 'x' is no bool"),
        ("a: !!int [1]", "line 1: what stands here is no int"),
        ("a: !!timestamp x", "line 1: 'x' is no timestamp"),
        ("optimizer: {lr: " + 400 * "9" + "}", r"optimizer.lr is 999.* no number is that large"),
        ('model: "a\\0b"', r"model is 'a\\x00b': it holds a zero byte"),
        ('name: "\\ud800"', "name is .*half of a character"),
        ('target: {reward: {"a\\0.py:f": 1.0}}', "target.reward has the key .*no file can be"),
        (ALIASES, "with its aliases written out it has more than 100000 values"),
        ("reuse_sampling_forward: false", r"in .*wrong.yaml: this option is gone.* Leave it out"),
    ],
)
def test_an_unusable_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        _ = _parse(str(path))


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.yaml is not a file"):
        _ = _parse(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize("name", ["reverse_kl", "pearson_chi2", "jeffreys"])
def test_an_infinite_divergence_to_a_hard_constraint_is_refused_with_advice(name):
    with pytest.raises(InfiniteDivergence, match=r"Soften the constraint .* jensen_shannon"):
        _ = RunConfig(divergence=name, target=HARD)


@pytest.mark.parametrize(
    "name", ["forward_kl", "total_variation", "jensen_shannon", "neyman_chi2", "le_cam"]
)
def test_a_finite_divergence_to_a_hard_constraint_is_accepted(name):
    assert RunConfig(divergence=name, target=HARD).divergence == name


@pytest.mark.parametrize("name", ["reverse_kl", "pearson_chi2", "jeffreys"])
@pytest.mark.parametrize(
    "cut", [SamplingConfig(top_k=3), SamplingConfig(top_p=0.9), SamplingConfig(min_p=0.1)]
)
def test_an_infinite_divergence_to_a_base_with_holes_is_refused_with_advice(name, cut):
    with pytest.raises(InfiniteDivergence, match="temperature alone, or off_policy true"):
        _ = RunConfig(divergence=name, target=RARE, sampling=cut)
    assert RunConfig(divergence=name, target=RARE, sampling=cut, off_policy=True).law.is_identity
    assert RunConfig(target=RARE, sampling=cut).law == cut
    assert not RunConfig(
        divergence=name, target=RARE, sampling=SamplingConfig(temperature=0.7)
    ).law.truncates


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (TargetConfig, r"needs target\.moments, which is empty"),
        (lambda: TargetConfig(moments={"nam": 0.5}), "unknown feature 'nam'; There are: female"),
        (lambda: TargetConfig(moments={"female": float("nan")}), "must be finite"),
        (lambda: replace(RARE, reward={"female": 1.0}), r"target\.reward belongs to"),
        (lambda: replace(HARD, beta=0.0), r"target\.beta is 0\.0: it must be positive"),
        (lambda: PartitionConfig(samples=1), r"partition\.samples is 1: it must be at least 2"),
        (lambda: PartitionConfig(forgetting=0.0), r"partition\.forgetting is 0\.0"),
        (lambda: BaselineConfig(value=0.5), "baseline.kind leave_one_out does not use it"),
        (lambda: OptimizerConfig(lr=-1.0), r"optimizer\.lr is -1\.0: it must be positive"),
        (lambda: OptimizerConfig(lr=float("inf")), r"optimizer\.lr is inf"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), r"each must be in \[0, 1\)"),
        (lambda: OptimizerConfig(clip_norm=0.0), r"optimizer\.clip_norm is 0\.0"),
        (lambda: EvaluationConfig(samples=300, group=256), "less than two groups"),
        (lambda: RunConfig(target=RARE, divergence="kl"), "divergence is 'kl'; there are"),
        (lambda: RunConfig(target=RARE, steps=0), "steps is 0: it must be at least 1"),
        (lambda: RunConfig(target=RARE, batch_size=1), "batch_size is 1"),
        (lambda: RunConfig(target=RARE, name="a/b"), "name is 'a/b'"),
        (lambda: RunConfig(target=RARE, updates_per_batch=0), "updates_per_batch is 0"),
        (lambda: RunConfig(target=RARE, micro_batch_size=0), "micro_batch_size is 0"),
        (
            lambda: RunConfig(target=RARE, batch_size=64, micro_batch_size=65),
            "micro_batch_size is 65, more than batch_size = 64",
        ),
        (lambda: RunConfig(target=RARE, score_chunk=0), "score_chunk is 0"),
        (lambda: RunConfig(target=RARE, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda: RunConfig(target=RARE, resume=True, overwrite=True), "choose one"),
        (lambda: PromptsConfig(per_step=2), r"per_step is 2, but there is no prompts\.file"),
        (lambda: PromptsConfig(file=""), r"prompts\.file is empty"),
        (lambda: ProposalConfig(every=5), r"proposal\.kind policy compares nothing"),
        (lambda: CheckpointConfig(every=0), r"checkpoint\.every is 0"),
        (lambda: CheckpointConfig(keep=0), r"checkpoint\.keep is 0"),
        (lambda: SamplingConfig(temperature=0.0), r"sampling\.temperature is 0\.0"),
        (lambda: SamplingConfig(top_p=1.1), r"sampling\.top_p is 1\.1"),
        (lambda: SamplingConfig(min_p=-0.1), r"sampling\.min_p is -0\.1"),
        (lambda: LoraConfig(targets=("c_attn",)), r"lora\.rank is 0"),
        (lambda: _prompted(batch_size=30), "batch_size is 30, which 4 prompts"),
        (lambda: _prompted(target=RARE), "every prompt has a target of its own"),
        (
            lambda: _prompted(partition=PartitionConfig(policy="exact")),
            "exact sums over the listed names, which continue no prompt",
        ),
        (lambda: _prompted(batch_size=4), "leaves one sample per prompt"),
        (
            lambda: _prompted(
                batch_size=4,
                baseline=BaselineConfig(kind="none"),
                partition=PartitionConfig(policy="leave_one_out"),
            ),
            "leaves one sample per prompt",
        ),
        (lambda: RunConfig(target=RARE, off_policy=True), "sampling is the identity"),
        (
            lambda: RunConfig(target=RARE, sampling=SamplingConfig(top_k=5), updates_per_batch=2),
            "a sample drawn earlier can become impossible",
        ),
        (
            lambda: RunConfig(
                target=RARE,
                sampling=SamplingConfig(top_p=0.9),
                proposal=ProposalConfig("kl_adaptive"),
            ),
            "a sample drawn earlier can become impossible",
        ),
        *(
            (
                lambda precision=precision, law=law: replace(
                    RunConfig(target=RARE, sampling=law), **{"precision": precision}
                ),
                f"precision {precision} rounds sampler and scorer differently",
            )
            for precision in ("bfloat16", "float16")
            for law in (
                SamplingConfig(top_k=5),
                SamplingConfig(top_p=0.9),
                SamplingConfig(min_p=0.1),
            )
        ),
        (
            lambda: RunConfig(target=RARE, steps=5, optimizer=OptimizerConfig(warmup_steps=6)),
            "would never be reached",
        ),
        (
            lambda: RunConfig(
                target=TargetConfig(moments={"letters": 5.0}),
                partition=PartitionConfig(policy="exact"),
            ),
            "exact needs features that live on the listed names, but the target uses letters",
        ),
    ],
)
def test_a_meaningless_configuration_is_refused_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_goes_with_a_cut_of_the_proposal_and_with_a_temperature(precision):
    cut = SamplingConfig(top_k=5)
    assert RunConfig(target=RARE, sampling=cut, off_policy=True, precision=precision).halves
    hot = SamplingConfig(temperature=1.5)
    assert RunConfig(target=RARE, sampling=hot, precision=precision).law == hot


def test_automatic_choices_are_spelled_out_once():
    listed = resolve(RunConfig(target=RARE, name="a", seed=3))
    assert listed.partition.policy == "exact"
    assert listed.output == "runs/a-jensen_shannon-seed3"
    assert resolve(listed) == listed
    elsewhere = resolve(RunConfig(target=TargetConfig(moments={"letters": 5.0})))
    assert elsewhere.partition.policy == "frozen"
    asked = RunConfig(target=RARE, partition=PartitionConfig(policy="same_batch"))
    assert resolve(asked).partition.policy == "same_batch"


def test_prompts_share_the_batch_and_never_have_an_exact_z():
    config = resolve(_prompted(batch_size=32, target=HARD))
    assert (config.contexts, config.samples_per_context) == (4, 8)
    assert config.partition.policy == "frozen"
    plain = RunConfig(target=RARE, batch_size=32)
    assert (plain.contexts, plain.samples_per_context) == (1, 32)
    one = _prompted(batch_size=4, baseline=BaselineConfig(kind="running"))
    assert one.samples_per_context == 1


def test_a_configuration_survives_being_written_and_read():
    config = RunConfig(target=HARD, optimizer=OptimizerConfig(clip_norm=1.0, betas=(0.8, 0.9)))
    assert from_plain(RunConfig, yaml.safe_load(yaml.safe_dump(to_plain(config)))) == config


def test_every_field_has_its_line_of_documentation():
    hints: dict[str, type] = dict(option_types(RunConfig))
    kinds = [RunConfig, *(hint for hint in hints.values() if is_dataclass(hint))]
    files = {inspect.getfile(kind) for kind in kinds}
    documented = {
        (owner.name, line.target.id)
        for file in files
        for owner in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(owner, ast.ClassDef)
        for line, following in zip(owner.body, owner.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }
    assert len(kinds) == 12
    for kind in kinds:
        missing = {(kind.__name__, item.name) for item in fields(kind)} - documented
        assert not missing
    assert len(hints) > 60


def test_reading_every_recipe_imports_no_model_library():
    program = (
        "import sys\n"
        "from lm.config import RunConfig, resolve\n"
        "from lm.config.options import parse_config\n"
        "for path in sys.argv[1:]:\n"
        "    resolve(parse_config(RunConfig, [path], program='test'))\n"
        "print(sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, *map(str, RECIPES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
