"""Feed arbitrary bytes to everything that reads a file: ``python -m benchmarks.fuzz_readers NAME``.

A reader may give an error of ours that says something, or a result; anything else is a fault, and
so is taking seconds. `READERS` is also what ``tests/project/test_fuzz.py`` feeds with a few hundred
inputs. This command lets coverage choose them, and needs atheris, which is no dependency of the
project and not in CI: ``pip install atheris`` in an environment of its own. What follows the name
goes to libFuzzer, as in ``prompts -max_total_time=60 -timeout=10 CORPUS``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[1]
Read = Callable[[bytes], object]


class Reader(NamedTuple):
    """What reads a file.

    Attributes
    ----------
    prepare
        Imports what is read with, and returns a function of the file's bytes. It gets a folder of
        its own.
    errors
        What it may raise, by full name: the libraries of some readers are slow to import.
    seeds
        Files that it accepts.
    """

    prepare: Callable[[Path], Read]
    errors: tuple[str, ...]
    seeds: tuple[bytes, ...]


def fault_of(read: Read, errors: tuple[str, ...], data: bytes) -> BaseException | None:
    """Return what a reader may not raise on some bytes, None if it did not."""
    try:
        _ = read(data)
    except (Exception, SystemExit) as error:
        kind = type(error)
        named = f"{kind.__module__}.{kind.__qualname__}" in errors
        # An error speaks to somebody: it has words, and they can be printed.
        speaks = bool(str(error).strip()) and str(error).encode("utf-8", "backslashreplace")
        return None if named and speaks else error
    return None


def _prompts(name: str, folder: Path) -> Read:
    from lm.target.prompt_file import read_prompt_lines  # noqa: PLC0415

    def read(data: bytes) -> None:
        _ = (folder / name).write_bytes(data)
        prompts = [line.text for line in read_prompt_lines(str(folder / name))]
        assert prompts
        assert all(prompt.strip() for prompt in prompts)
        assert len(set(prompts)) == len(prompts)

    return read


def _recipe(kind: str, folder: Path) -> Read:
    from lm.config import RunConfig  # noqa: PLC0415
    from lm.config.options import parse_config  # noqa: PLC0415
    from lm.sweep.config import SweepConfig  # noqa: PLC0415

    made: type[Any] = {"run": RunConfig, "sweep": SweepConfig}[kind]
    return _written(
        folder / "recipe.yaml", lambda path: parse_config(made, [str(path)], program="p")
    )


def _written(path: Path, read: Callable[[Path], object]) -> Read:
    def both(data: bytes) -> object:
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_bytes(data)
        return read(path)

    return both


def _rates(folder: Path) -> Read:
    from lm.sweep.cells import Labels, _chosen_rates, _rate  # noqa: PLC0415
    from lm.sweep.config import RateConfig  # noqa: PLC0415

    labels = Labels("task", "m", "s", "chosen", "plain", 0)

    def read(path: Path) -> None:
        _chosen_rates.cache_clear()
        rate = _rate(RateConfig(file=str(path)), "g", labels)
        assert 0 < rate < float("inf")

    return _written(folder / "rates.yaml", read)


def _records(folder: Path) -> Read:
    from lm.run.records import read_records  # noqa: PLC0415

    return _written(folder / "metrics.jsonl", lambda path: read_records(path.parent, "evaluation"))


def _run_config(folder: Path) -> Read:
    from lm.run.folder import read_config  # noqa: PLC0415

    return _written(folder / "config.json", lambda path: read_config(path.parent))


def _resumed(folder: Path) -> Read:
    """Prepare what decides whether a command continues a run, of its config.json."""
    from lm.config import RunConfig, TargetConfig, resolve  # noqa: PLC0415
    from lm.run.start import how_to_start  # noqa: PLC0415

    target = TargetConfig(moments={"listed": 0.3})
    config = resolve(RunConfig(output=str(folder / "run"), target=target, resume=True))
    return _written(folder / "run" / "config.json", lambda _: how_to_start(config))


def _first_lines(folder: Path) -> Read:
    from lm.run.start import _shows_a_step  # noqa: PLC0415

    return _written(folder / "metrics.jsonl", _shows_a_step)


def _environment(folder: Path) -> Read:
    from lm.run.resume import _changes_since  # noqa: PLC0415

    return _written(folder / "environment.json", _changes_since)


def _checkpoint(name: str, folder: Path) -> Read:
    import torch  # noqa: PLC0415

    from lm.run.checkpoint import load_newest, save_checkpoint  # noqa: PLC0415
    from lm.run.state import TrainingState  # noqa: PLC0415

    numbers = {"step": 3, "scheduler": {"last": [1.0]}}
    state = TrainingState(3, {"a": torch.zeros(2)}, numbers, {"metrics.jsonl": 0}, {})
    saved = save_checkpoint(folder / "checkpoints", state, keep=1)
    manifest = json.loads((saved / "manifest.json").read_text("utf-8"))
    files = json.dumps(manifest["files"]).encode()

    def read(data: bytes) -> None:
        data = data.replace(b"FILES", files)
        _ = (saved / name).write_bytes(data)
        # As if whoever changed the file knew how to vouch for it.
        if name != "manifest.json":
            digest = hashlib.sha256(data).hexdigest()
            manifest["files"][name] = {"bytes": len(data), "sha256": digest}
            _ = (saved / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        found, notes = load_newest(folder / "checkpoints", logs=folder)
        assert (found is None) == bool(notes)

    return read


def _ids(name: str, folder: Path) -> Read:
    from transformers import GPT2Config  # noqa: PLC0415

    from lm.models.token_ids import load_ids  # noqa: PLC0415

    config = GPT2Config(vocab_size=30, bos_token_id=0, eos_token_id=1)
    return _written(folder / name, lambda path: load_ids(path.parent, config))


def _model_config(folder: Path) -> Read:
    from lm.models.configuration import read_config  # noqa: PLC0415

    return _written(folder / "config.json", lambda path: read_config(path.parent))


def _vocabulary(folder: Path) -> Read:
    from lm.models.token_ids import TokenIds  # noqa: PLC0415
    from lm.models.tokenizer import CONFIG_FILE, load_vocabulary  # noqa: PLC0415

    ids = TokenIds(bos_id=0, eos_ids=(1,), pad_id=1)
    return _written(folder / CONFIG_FILE, lambda path: load_vocabulary(path.parent, ids, 30))


def _cell(folder: Path) -> Read:
    from lm.sweep.records import read_record  # noqa: PLC0415

    return _written(folder / "cells" / "a.json", lambda _: read_record(folder, "a"))


def _target_samples(folder: Path, *, prompts: bool) -> Read:
    """Prepare the reader of lines; the model has four tokens, and is not asked what they weigh."""
    import torch  # noqa: PLC0415

    from lm.evaluation import target_file  # noqa: PLC0415
    from lm.models.vocabulary import IdVocabulary  # noqa: PLC0415

    base = SimpleNamespace(
        vocabulary=IdVocabulary(0, (1,), 4),
        ids=SimpleNamespace(bos_id=0, eos_ids=(1,)),
        vocabulary_size=4,
        max_new_tokens=3,
    )
    texts = ("2", "3 1") if prompts else ()
    problem: Any = SimpleNamespace(
        base=base,
        prompts=object() if prompts else None,
        prompt_texts=texts,
        evaluated=torch.arange(max(1, len(texts))),
    )

    def assemble(_problem: Any, contexts: Any, rows: Any, **_: Any) -> Any:
        assert len(rows) % len(contexts) == 0
        assert all(0 < len(row) <= 3 for row in rows)
        assert all(type(token) is int and 0 <= token < 4 for row in rows for token in row)
        return target_file.TargetSamples(samples=None, contexts=contexts, drawn=0, accepted=0)

    def read(path: Path) -> None:
        with (
            mock.patch.object(target_file, "assemble", assemble),
            mock.patch.object(target_file, "_require_mass"),
        ):
            _ = target_file.read_target_samples(path, problem)

    return _written(folder / "samples.jsonl", read)


def _reward_file(folder: Path) -> Read:
    from lm.features.files import check_reference  # noqa: PLC0415

    path = folder / "rewards.py"
    return _written(path, lambda _: check_reference(f"{path}:f", leading=("completions",)))


def _neighbours(folder: Path) -> Read:
    from lm.run.inputs import _with_neighbours  # noqa: PLC0415

    return _written(folder / "rewards.py", lambda path: list(_with_neighbours(path)))


def _proof(folder: Path) -> Read:
    from lm.run.owned import MODEL, RUN  # noqa: PLC0415

    return _written(folder / "config.json", lambda _: (RUN.proves(folder), MODEL.proves(folder)))


def _loss_file(folder: Path) -> Read:
    """Prepare what runs a user's file of losses: one that only defines functions, or cannot be."""
    from toy.audit.losses import find_loss  # noqa: PLC0415

    def read(path: Path) -> object:
        try:
            body = ast.parse(path.read_bytes()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            body = []
        # Any other does what its author wrote: calls a library, or never ends.
        return find_loss(f"{path}:f") if all(map(_only_defines, body)) else None

    return _written(folder / "losses.py", read)


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise) and ast.unparse(node) == "raise SystemExit(0)":
        return True
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return False
    evaluated = [*node.args.defaults, *filter(None, node.args.kw_defaults), node.returns]
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    evaluated += [one.annotation for one in (*given, node.args.vararg, node.args.kwarg) if one]
    return all(one is None or isinstance(one, ast.Constant) for one in evaluated)


def _unification(folder: Path) -> Read:
    from study.tables.stored import load_tables  # noqa: PLC0415

    return _written(folder / "unification.json", lambda _: load_tables(folder))


def _table(folder: Path) -> Read:
    from study.tables.stored import read_table  # noqa: PLC0415

    return _written(folder / "lm_pilot.parquet", lambda path: read_table(path, ["a"]))


def _metadata(folder: Path) -> Read:
    """Prepare a table that is whole, but says of itself what the bytes are."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    from study.tables.stored import read_table  # noqa: PLC0415

    path = folder / "lm_pilot.parquet"

    def read(data: bytes) -> None:
        table = pa.table({"a": [1.0]}).replace_schema_metadata({b"fdpg_ref": data})
        pq.write_table(table, path)
        found = read_table(path, ["a"])
        _ = found.tasks, found.commit, found.failed, found.said("sweep")
        assert isinstance(found.tasks, dict)
        assert isinstance(found.failed, dict)

    return read


def _stored_table() -> bytes:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        pq.write_table(pa.table({"a": [1.0, 2.0], "b": ["x", "y"]}), path)
        return path.read_bytes()


_JSON = (
    b'{"a": 1}',
    b'[1, null, true, "x", 1e400, NaN, -Infinity, {"b": {}}]',
    b'"\\ud800"',
)
_PROMPTS = (b"a\nb\r\nc\n", b'{"prompt": "a"}\n{"prompt": "b\\ud83d\\ude00\\n"}\n')
_CONFIG = (
    b'{"name": "t", "output": "runs/t", "divergence": "forward_kl", "target": {"kind": '
    b'"exponential_family", "moments": {"listed": 0.3}}, "steps": 4, "optimizer": {"lr": 0.001}}',
)
_CHECKPOINT = (
    # Sizes and digests of the other two files stand where it says FILES.
    b'{"format": 1, "step": 3, "files": FILES, "logs": {}}',
    b'{"format": 1, "step": 1e999, "files": FILES, "logs": {"metrics.jsonl": "2"}}',
    b'{"format": 1, "step": 3, "files": {"state.safetensors": {"bytes": 80, "sha256": "0"}, '
    b'"state.json": {"bytes": 9, "sha256": "1"}}}',
    b'{"numbers": {"step": 3, "scheduler": {"last": [1.0]}}, "offsets": {"metrics.jsonl": 0}}',
)
_IDS = (
    b'{"bos_id": 0, "eos_ids": [1], "pad_id": 1, "max_new_tokens": 5, "letters": null}',
    b'{"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": -1}',
)
_MODEL = (
    b'{"model_type": "gpt2", "vocab_size": 30, "n_embd": 8, "n_head": 2, "n_layer": 1}',
    b'{"model_type": "llama", "auto_map": {"AutoConfig": "a.B"}, "quantization_config": {}}',
)
_CELL = (
    b'{"config": {}, "commit": "c", "wall_seconds": 1.0, "cpu_seconds": 1.0, "failed": "x"}',
    b'{"config": {}, "commit": "c", "wall_seconds": 1, "cpu_seconds": 1, "evaluations": [], '
    b'"steps": [], "seconds": [], "texts": [], "target": {}, "description": {}}',
)
_RECORDS = (b'{"kind": "step", "step": 1}\n{"kind": "evaluation", "step": 1, "estimates": {}}\n',)
_SAMPLES = (
    b'{"accepted": 2, "contexts": [0]}\n{"prompt": "2", "tokens": [2, 1]}\n{"text": "2 3"}\n'
    b'{"tokens": [1]}\n{"prompt": "2", "text": " 3"}\n{"text": "2", "tokens": null}\n',
)
_PYTHON = (
    b"def f(a, /, b=1, *c, d, **e):\n    return a\n",
    b"import x\nclass f: pass\n",
    b"-" * 200 + b"1",
)
_YAML = (
    b"name: a\ntarget: {kind: exponential_family, moments: {listed: 0.3}}\nsteps: 3\n",
    b"a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\ne: !!int 3\nf: !!timestamp 2001-01-01\n",
    b"optimizer: {lr: 1e-3}\nseed: 0x1F\noverwrite: yes\nprompts: {file: null}\n",
)
_RATES = (b"g:\n  m:\n    s: 1.0e-3\n",)
_UNIFICATION = b'{"command": "c", "float32": {"dpg": 1e-7}, "float64": {"dpg": 2.2e-16}}'
_TABLE = (b'{"tasks": {"t": {"title": "x"}}, "commits": ["a"], "failed": {"cell": "why"}}',)

RUN, USAGE = "lm.errors.RunError", "lm.errors.UsageError"
FOLDER = "lm.models.token_ids.ModelFolderError"
STUDY = "study.tables.stored.StudyError"
READERS: dict[str, Reader] = {
    "prompts.txt": Reader(functools.partial(_prompts, "a.txt"), (RUN,), _PROMPTS),
    "prompts.jsonl": Reader(functools.partial(_prompts, "a.jsonl"), (RUN,), _PROMPTS),
    "recipe": Reader(functools.partial(_recipe, "run"), (USAGE,), _YAML),
    "sweep": Reader(functools.partial(_recipe, "sweep"), (USAGE,), _YAML),
    "rates": Reader(_rates, ("builtins.ValueError",), _RATES),
    "metrics.jsonl": Reader(_records, (RUN,), _RECORDS),
    "config.json": Reader(_run_config, (RUN,), _CONFIG),
    "config.json, resumed": Reader(_resumed, (RUN,), _CONFIG),
    "metrics.jsonl, first lines": Reader(_first_lines, (), _RECORDS),
    "environment.json": Reader(_environment, (), _JSON),
    "config.json, owned": Reader(_proof, (), _CONFIG),
    "manifest.json": Reader(functools.partial(_checkpoint, "manifest.json"), (), _CHECKPOINT),
    "state.json": Reader(functools.partial(_checkpoint, "state.json"), (), _CHECKPOINT),
    "state.safetensors": Reader(functools.partial(_checkpoint, "state.safetensors"), (), (b"",)),
    "fdpg_ref.json": Reader(functools.partial(_ids, "fdpg_ref.json"), (FOLDER,), _IDS),
    "generation_config.json": Reader(
        functools.partial(_ids, "generation_config.json"), (FOLDER,), _IDS
    ),
    "config.json, model": Reader(_model_config, (FOLDER,), _MODEL),
    "tokenizer_config.json": Reader(_vocabulary, (FOLDER,), _MODEL),
    "cell": Reader(_cell, (USAGE,), _CELL),
    "p_samples": Reader(functools.partial(_target_samples, prompts=False), (RUN,), _SAMPLES),
    "p_samples, prompts": Reader(
        functools.partial(_target_samples, prompts=True), (RUN,), _SAMPLES
    ),
    "reward.py": Reader(_reward_file, ("builtins.ValueError",), _PYTHON),
    "reward.py, neighbours": Reader(_neighbours, (), _PYTHON),
    "losses.py": Reader(_loss_file, ("toy.audit.call.AuditError",), _PYTHON),
    "unification.json": Reader(_unification, (STUDY,), (_UNIFICATION, *_JSON)),
    "table": Reader(_table, (STUDY,), ()),
    "table, metadata": Reader(_metadata, (STUDY,), _TABLE),
}


def main(arguments: list[str]) -> int:
    """Fuzz one reader until libFuzzer is told to stop or finds a fault."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ModuleNotFoundError:
        print("atheris is not installed: pip install atheris, in an environment of its own")
        return 2
    name, *rest = arguments or [""]
    if name not in READERS:
        print(f"name a reader: {', '.join(map(repr, READERS))}")
        return 2

    reader = READERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        with atheris.instrument_imports(include=["lm", "toy", "study", "yaml"]):
            read = reader.prepare(Path(scratch))

        def one(data: bytes) -> None:
            if fault := fault_of(read, reader.errors, data):
                raise fault

        atheris.Setup([sys.argv[0], *rest], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
