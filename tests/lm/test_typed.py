"""A configuration refuses the same values from Python, from a recipe and from the command line."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from lm.config import OptimizerConfig, RunConfig, TargetConfig
from lm.config.base import BaseConfig
from lm.config.options import parse_config
from lm.config.recipes import read_yaml
from lm.config.typed import checked, hints_of
from lm.demo.command import DemoConfig
from lm.errors import UsageError
from lm.sweep.config import SweepConfig

TARGET = {"kind": "reward_tilted", "reward": {"tokens": 1.0}}


def _leaves(kind: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Return every key of a configuration that holds a value, with its type."""
    found = []
    for name, hint in hints_of(kind).items():
        group = next(filter(dataclasses.is_dataclass, (hint, *typing.get_args(hint))), None)
        key = f"{prefix}{name}"
        if group is None:
            found.append((key, hint))
        elif key != "measure":
            found += _leaves(typing.cast("type", group), f"{key}.")
    return found


def _bad_values(hint: Any) -> list[Any]:
    """Return values that a type hint excludes."""
    by_type: dict[Any, list[Any]] = {
        int: [2.5, "many", True, [1], 2**63],
        float: ["much", True, [0.1]],
        bool: [1, "perhaps"],
        str: [5, True, ["a"]],
    }
    arguments = [one for one in typing.get_args(hint) if one is not type(None)]
    if typing.get_origin(hint) is Literal:
        return ["nonsense", 3]
    if typing.get_origin(hint) is dict:
        return [{"tokens": "1.0"}, {True: 1.0}, {"tokens": True}, 5]
    if typing.get_origin(hint) is tuple:
        return [[*wrong] for wrong in ([b] for b in by_type[arguments[0]])] + [5]
    return by_type[arguments[0] if arguments else hint]


CASES = [(key, value) for key, hint in _leaves(RunConfig) for value in _bad_values(hint)]


def _nested(key: str, value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"target": dict(TARGET)}
    *groups, name = key.split(".")
    inner = plain
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[name] = value
    return plain


def _from_python(kind: type, plain: dict[str, Any]) -> Any:
    """Build a configuration as a Python program does, group by group."""
    made = {}
    for name, value in plain.items():
        hint = hints_of(kind)[name]
        group = next(filter(dataclasses.is_dataclass, (hint, *typing.get_args(hint))), None)
        inside = group is not None and isinstance(value, dict)
        made[name] = _from_python(typing.cast("type", group), value) if inside else value
    return kind(**made)


def test_the_table_reaches_every_group_and_every_kind_of_value():
    keys = {key for key, _ in CASES}
    assert len(CASES) > 150
    for key in (
        "baseline.kind",
        "proposal.kind",
        "device",
        "tracker",
        "optimizer.schedule",
        "partition.policy",
        "precision",
        "steps",
        "target.reward",
        "model",
        "lora.targets",
        "sampling.top_k",
        "checkpoint.keep",
        "base.layers",
        "prompts.file",
    ):
        assert key in keys


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{k}={v!r}" for k, v in CASES])
def test_python_a_recipe_and_the_command_line_refuse_alike(key, value, tmp_path):
    plain = _nested(key, value)
    with pytest.raises(ValueError, match=key) as python:
        _ = _from_python(RunConfig, plain)
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(yaml.safe_dump(plain))
    with pytest.raises(UsageError) as written:
        _ = parse_config(RunConfig, [str(recipe)], program="test")
    assert str(written.value) == f"recipe {recipe}: {python.value}"

    # On the command line every word is a text.
    hint = dict(_leaves(RunConfig))[key]
    if str not in {hint, *typing.get_args(hint)} or typing.get_origin(hint) in {tuple, dict}:
        words = ["--target.kind", "reward_tilted", "--target.reward", json.dumps({"tokens": 1.0})]
        value_word = yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
        with pytest.raises(UsageError) as typed:
            _ = parse_config(RunConfig, [*words, f"--{key}", value_word], program="test")
        assert str(typed.value) == str(python.value)


def test_the_nearest_choice_is_named():
    for choices, value, meant in (
        (("leave_one_out", "none"), "loo", "leave_one_out"),
        (("policy", "kl_adaptive"), "kl-adaptive", "kl_adaptive"),
        (("auto", "cpu", "cuda"), "gpu", "cuda"),
        (("float32", "bfloat16"), "bf16", "bfloat16"),
    ):
        with pytest.raises(ValueError, match=f"is '{value}'; did you mean '{meant}'"):
            _ = checked("key", Literal[choices], value)


def test_numbers_of_numpy_become_pythons_own():
    given: dict[str, Any] = {"warmup_steps": np.int64(3), "betas": [0.5, 0.9]}
    config = OptimizerConfig(lr=np.float64(0.5), **given)
    assert (type(config.lr), type(config.warmup_steps)) == (float, int)
    assert config.betas == (0.5, 0.9)
    target = TargetConfig(
        kind="reward_tilted", reward={"tokens": np.float64(2)}, beta=np.float64(1)
    )
    assert type(target.beta) is type(target.reward["tokens"]) is float
    with pytest.raises(ValueError, match=r"warmup_steps is np\.True_"):
        _ = OptimizerConfig(warmup_steps=np.bool_(True))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", [RunConfig, BaseConfig, DemoConfig, SweepConfig])
def test_every_dataclass_of_a_configuration_checks_its_types(kind):
    def groups(one: Any) -> set[type]:
        inside = {inner for argument in typing.get_args(one) for inner in groups(argument)}
        if dataclasses.is_dataclass(one):
            hints = hints_of(typing.cast("type", one)).values()
            inside |= {typing.cast("type", one)} | {g for hint in hints for g in groups(hint)}
        return inside

    for group in groups(kind):
        required = {
            item.name: None
            for item in dataclasses.fields(group)
            if item.default is item.default_factory is dataclasses.MISSING
        }
        for name in hints_of(group):
            # Of a group with keys that must be given, the first of these is what is wrong.
            with pytest.raises(ValueError, match=None if required else name):
                _ = group(**{**required, name: object()})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("optimizer: {lr: 0.5}\noptimizer: {warmup_steps: 1}", "'optimizer' stands here a second"),
        ("a: {b: 1, b: 2}", "line 1: the key 'b' stands here a second time"),
        ("seed: 010", "010 is read as a number to the base 8"),
        ("seed: 0123", "base 8"),
        ("seed: 1:30", "1:30 is read as a time in seconds"),
        ("lr: 1:30.5", "time in seconds"),
        ("a: [1, 2", "line 1"),
        ("? [1, 2]\n: 3", "a key must be a word"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 600, "nested too deeply"),
        ("steps: 3\ntarget: &x {reward: *x}", "line 2: what stands here holds an alias of itself"),
        ("&x [1, *x]", "an alias of itself"),
    ],
)
def test_what_readers_read_differently_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        _ = read_yaml(text)


def test_what_is_written_is_what_is_read():
    read = read_yaml("a: 1e-3\nb: 10\nc: 0.5\nd: 2024-01-01\ne: true\nf: [0, 0.0]\ng: 0x10\nh: -7")
    assert read == {
        "a": 1e-3,
        "b": 10,
        "c": 0.5,
        "d": "2024-01-01",
        "e": True,
        "f": [0, 0.0],
        "g": 16,
        "h": -7,
    }
    assert read_yaml("x: &a {k: 1}\ny: {<<: *a, k: 2}") == {"x": {"k": 1}, "y": {"k": 2}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("optimizer:", "optimizer is empty: give it keys, or leave it out"),
        ("target:", "target is empty"),
        ("optimizer: {lr: null}", r"optimizer\.lr is None: it must be a number"),
        ("name: off", "name is False: it must be text, so write it in quotes"),
        ("target: {reward: {yes: 1.0}}", "target.reward has the key True, which is no text"),
        ("target: {reward: }", "target.reward is empty"),
    ],
)
def test_an_empty_key_or_one_that_yaml_takes_for_a_boolean_is_refused(tmp_path, line, reason):
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_text(f"{line}\n")
    with pytest.raises(UsageError, match=reason):
        _ = parse_config(RunConfig, [str(recipe)], program="test")


def test_a_recipe_with_a_mark_of_the_byte_order_is_read(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    _ = recipe.write_bytes(b"\xef\xbb\xbfseed: 3\ntarget: {moments: {listed: 0.5}}\n")
    assert parse_config(RunConfig, [str(recipe)], program="test").seed == 3
