"""The command line: exit codes, messages, nothing half-written, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.lm_models import make_llama_folder
from support.lm_runs import finished_run, tiny_model
from transformers import AutoModelForCausalLM

from lm.cli.main import COMMANDS, main
from lm.errors import border
from lm.policy import CausalPolicy, load_policy

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "lm" / "recipes"


def _refused(capsys, *words: str) -> str:
    """Run a command that must fail as a user's mistake, and return its message."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lm: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert name in out


def test_the_commands_are_those_that_are_promised():
    promised = "train sample evaluate report precision selfcheck unification base env export"
    assert set(COMMANDS) == {*promised.split(), "demo", "fetch", "partition", "sweep"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        _ = main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: python -m lm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "missing.yaml"], "recipe missing.yaml is not a file"),
        (["train"], "no recipe and no target is given; try "),
        (["train", "rlhf"], "recipes/rlhf.yaml"),
        (["base", "--layer", "3"], "did you mean 'layers'?"),
        (["base", "--width", "30"], "heads must divide width"),
        (["fetch"], "the following arguments are required: model"),
        (["fetch", "smolm2"], "invalid choice: 'smolm2' (choose from "),
        (["precison"], "unknown command 'precison'; did you mean 'precision'?"),
        (["sample"], "the following arguments are required: model"),
        (["sample", "m", "--temperature", "0"], "sampling.temperature is 0.0"),
        (["sample", "m", "--top-p", "2"], "sampling.top_p is 2.0: it must be in (0, 1]"),
        (["sample", "m", "--top_k", "x"], "argument --top-k/--top_k: invalid int value: 'x'"),
        (["sample", "m", "--max-new-tokens", "0"], "0 is not a number of 1 or more"),
        (["precision", "m", "--n", "1"], "1 is not a number of 2 or more"),
        (["sample", "m", "--seed", str(2**63)], f"{2**63} is not a number of 64 bits"),
        (["precision", "m", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["precision", "m", "--output", __file__], "is a file: name a folder"),
        (["precision", "no/such/model"], "there is no model folder no/such/model"),
        (["selfcheck", "--json", "no/such/folder/f.json"], "f.json cannot be written"),
        (["selfcheck", "more"], "unrecognized arguments: more"),
        (["export", "m"], "the following arguments are required: destination"),
        (["export", "nowhere", "there"], "there is no model folder nowhere"),
        (["evaluate", "r", "--json", str(RECIPES)], "cannot be written: name a file"),
        (["sample", "nowhere"], "there is no model folder nowhere"),
        (["sample", "nowhere", "--n", "0"], "0 is not a number of 1 or more"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["env", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_usage_error_exits_2_with_its_reason(words, message, capsys):
    assert message in _refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.lrr", "1"], "did you mean 'optimizer.lr'?"),
        (["--steps", "none"], "steps"),
        (["--divergence", "kl"], "divergence is 'kl'; there are: "),
        (["--model", "no/such/model"], "there is no model folder no/such/model"),
        (["--target.moments.ends_in_i", "1.5"], "feature 0 is ends_in_i"),
        (["--device", "cuda"], "torch sees no GPU"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = [] if "--model" in words else ["--model", str(tiny_model())]
    output = ["--output", str(tmp_path / "runs" / "r")]
    recipe = str(RECIPES / "rare_pointwise.yaml")
    error = _refused(capsys, "train", recipe, *model, *output, *words)
    assert message in error
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_reverse_kl_to_a_hard_constraint_is_refused_with_the_advice(capsys):
    recipe = str(RECIPES / "hard_constraint.yaml")
    error = _refused(capsys, "train", recipe, "--divergence", "reverse_kl")
    assert "Soften the constraint" in error


@pytest.mark.parametrize("output", ["/proc/fdpg-ref/run", "/dev/null/run"])
def test_an_unwritable_run_folder_is_refused_before_anything_else(output, capsys):
    recipe = str(RECIPES / "rare_pointwise.yaml")
    # The model does not exist either: the folder is looked at first.
    error = _refused(capsys, "train", recipe, "--output", output, "--model", "no/such/model")
    assert f"the run folder {output} cannot be created" in error


def test_an_existing_run_is_not_replaced(capsys):
    before = sorted(finished_run().rglob("*"))
    recipe = str(RECIPES / "rare_pointwise.yaml")
    error = _refused(capsys, "train", recipe, "--output", str(finished_run()))
    assert "pass --overwrite to replace it" in error
    assert sorted(finished_run().rglob("*")) == before


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("lm.cli.main._commands", missing)
    assert "python -m pip install '.[lm]' in a clone" in _refused(capsys, "env")


@pytest.mark.slow
def test_train_from_a_shell_says_only_what_takes_long_and_ends_with_the_report(tmp_path):
    recipe = tmp_path / "small.yaml"
    _ = recipe.write_text(
        "divergence: total_variation\ntarget: {moments: {listed: 0.3}}\nsteps: 2\nbatch_size: 16\n"
        "evaluation: {every: 2, samples: 128, group: 32}\n"
    )
    words = ["train", str(recipe), "--model", str(tiny_model()), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "lm", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # samples of the target are kept below it
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if " ... (" not in line] == []
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert "divergence: total_variation" in done.stdout
    assert "E[listed]" in done.stdout
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["prompts", "your_model"])
def test_the_recipes_to_start_from_train(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the paths in recipes count from
    small = {"steps": 2, "evaluation.samples": 128, "evaluation.group": 32}
    own = {"model": tiny_model(), "output": tmp_path / "run", "partition.samples": 600}
    words = [f"--{key}={value}" for key, value in {**small, **own}.items()]
    assert main(["train", f"lm/recipes/{name}.yaml", *words]) == 0
    out = capsys.readouterr().out
    feature, prompts = {"prompts": ("female", 26), "your_model": ("vowels", 0)}[name]
    assert f"E[{feature}]" in out
    about = json.loads((tmp_path / "run" / "target.json").read_text(encoding="utf-8"))
    assert about.get("contexts", 0) == prompts
    steps = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").count('"kind": "step"')
    assert steps == 2


def test_sample_prints_texts_with_their_log_probabilities(capsys):
    assert main(["sample", str(finished_run()), "--n", "5"]) == 0
    first = capsys.readouterr().out
    assert main(["sample", str(finished_run() / "policy"), "--n", "5"]) == 0
    assert capsys.readouterr().out == first
    policy = load_policy(finished_run() / "policy")
    samples = policy.sample(5, generator=torch.Generator().manual_seed(0))
    expected = zip(samples.log_prob.tolist(), policy.decode(samples), strict=True)
    assert first.splitlines() == [f"{log_prob:9.3f}  {text}" for log_prob, text in expected]


def test_sample_continues_every_prompt_in_order_under_the_transform_that_is_asked_for(capsys):
    options = ["--n", "3", "--prompt", "mar", "--prompt", "jo", "--max-new-tokens", "4"]
    assert main(["sample", str(finished_run()), *options, "--top-k", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [text[:2] for _, text in rows] == ["ma"] * 3 + ["jo"] * 3
    # Only the most probable token is kept: one continuation a prompt, of probability one.
    assert len({text for _, text in rows}) == 2
    assert {log_prob for log_prob, _ in rows} == {"0.000"}
    assert main(["sample", str(finished_run()), *options, "--seed", "1"]) == 0
    free = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all(float(log_prob) < -0.1 for log_prob, _ in free)


def test_sample_of_a_run_draws_by_the_runs_own_transform(capsys, tmp_path):
    run = tmp_path / "run"
    _ = shutil.copytree(finished_run(), run)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["sampling"]["top_k"] = 1
    config["divergence"] = "total_variation"
    _ = (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["sample", str(run), "--n", "4"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 1
    assert main(["sample", str(run), "--n", "4", "--top-k", "0"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) > 1


def test_sample_and_export_work_on_any_model_folder(capsys, tmp_path):
    model = make_llama_folder(tmp_path / "llama")
    words = ["sample", str(model), "--n", "2", "--prompt", "ab"]
    _ = capsys.readouterr()
    assert "fixes no length limit" in _refused(capsys, *words)
    assert main([*words, "--max_new_tokens", "5"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2
    assert all(float(row.split()[0]) < 0 for row in rows)
    assert main(["export", str(finished_run()), str(tmp_path / "plain")]) == 0
    assert f"model: {tmp_path / 'plain'}" in capsys.readouterr().out
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert loaded.config.vocab_size == load_policy(finished_run() / "policy").vocabulary_size
    _ = capsys.readouterr()
    error = _refused(capsys, "export", str(finished_run()), str(tmp_path / "plain"))
    assert "pass --overwrite to replace it" in error


def test_precision_prints_the_ladder_and_says_where_the_files_are(capsys, tmp_path):
    words = ["precision", str(finished_run()), "--n", "4", "--output", str(tmp_path / "ladder")]
    assert main(words) == 0
    out = capsys.readouterr().out
    for words in ("float64", "bfloat16", "token ratio leaves [0.9, 1.1]", "sampler less scorer"):
        assert words in out
    assert out.splitlines()[-1] == f"png: {tmp_path / 'ladder' / 'ladder.png'}"
    record = json.loads((tmp_path / "ladder" / "ladder.json").read_text(encoding="utf-8"))
    assert record["device"] == "cpu"
    assert record["rungs"][0]["precision"] == "float64"
    assert record["environment"]["torch"] == torch.__version__


def test_evaluate_measures_on_new_samples_and_writes_its_record(capsys, tmp_path):
    path = tmp_path / "record.json"
    words = ["evaluate", str(finished_run()), "--samples", "300", "--json", str(path)]
    assert main(words) == 0
    assert "E[female]" in capsys.readouterr().out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["step"] == 4
    error = _refused(capsys, "evaluate", str(finished_run()), "--samples", "100")
    assert "evaluation.samples is 100" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "RECIPE", "--optimiser.lr", "1"], "did you mean 'optimizer.lr'?"),
        (["train", "HARD", "--divergence", "reverse_kl"], "Soften the constraint"),
        (["train", "RECIPE", "--precision", "int8"], "precision is 'int8'; There are: float32"),
        (["sample", "m", "--top-p", "2"], "sampling.top_p is 2.0"),
        (["precision", "--n", "0"], "0 is not a number of 2 or more"),
        (["selfcheck", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["export"], "the following arguments are required"),
        (["evaluate"], "the following arguments are required"),
        (["report"], "the following arguments are required"),
        (["base", "--layer", "3"], "did you mean 'layers'?"),
    ],
)
def test_a_usage_error_needs_no_model_library(words, message):
    places = {"RECIPE": RECIPES / "rare_pointwise.yaml", "HARD": RECIPES / "hard_constraint.yaml"}
    program = (
        "import sys\n"
        "from lm.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'peft'} & set(sys.modules)\n"
        "print(code, sorted(heavy))\n"
    )
    command = [sys.executable, "-c", program, *(str(places.get(word, word)) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "2 []"
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_evaluate_measures_a_half_precision_run_as_it_was_trained(capsys, tmp_path):
    run = tmp_path / "run"
    _ = shutil.copytree(finished_run(), run)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    _ = (run / "config.json").write_text(json.dumps({**config, "precision": "bfloat16"}), "utf-8")
    paths = [tmp_path / name for name in ("single.json", "half.json")]
    for folder, path in zip((finished_run(), run), paths, strict=True):
        assert main(["evaluate", str(folder), "--samples", "300", "--json", str(path)]) == 0
    single, half = (json.loads(path.read_text("utf-8"))["estimates"] for path in paths)
    values = [record["entropy"]["sampled"]["value"] for record in (single, half)]
    # The same samples but for a few, with log-probabilities off by some 1e-2 nats.
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], abs=0.3)


def test_env_names_the_versions(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert "transformers" in out


# What a shell hands on from a program whose output nobody reads, or nobody can keep.
CLOSED, FULL = 141, 2


@pytest.mark.parametrize("words", [["help"], pytest.param(["env"], marks=pytest.mark.slow)])
def test_an_output_that_is_closed_ends_the_program_without_a_word(words):
    command = f"{sys.executable} -m lm {' '.join(words)} | true; exit ${{PIPESTATUS[0]}}"
    # The pipe is closed before the first word.
    slow = command.replace(f"{sys.executable} -m", f"(sleep 0.5; {sys.executable} -m", 1)
    slow = slow.replace(" | true", ") | true")
    done = subprocess.run(
        ["bash", "-c", slow], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == CLOSED
    assert [line for line in done.stderr.splitlines() if " ... (" not in line] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("words", [["help"], pytest.param(["env"], marks=pytest.mark.slow)])
def test_an_output_that_cannot_be_written_is_said_in_one_line(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lm", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == FULL
    (line,) = [line for line in done.stderr.splitlines() if " ... (" not in line]
    assert line == "lm: the standard output cannot be written: No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_memory_that_is_full_says_what_to_lower(error, monkeypatch, capsys):
    def too_large(*_: object) -> None:
        with border("building the target", "Try another model"):
            raise error

    monkeypatch.setattr("lm.cli.commands.run_env", too_large)
    message = _refused(capsys, "env")
    assert message.startswith("lm: the memory is full (")
    assert "lower micro_batch_size" in message


def test_a_run_without_a_report_names_none(tmp_path, capsys):
    words = ["--model", str(tiny_model()), "--output", str(tmp_path / "run"), "--steps", "1"]
    words += ["--evaluation.samples", "128", "--evaluation.group", "32", "--report", "false"]
    assert main(["train", str(RECIPES / "rare_pointwise.yaml"), *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "report.html" not in last
    assert last.startswith(f"run: {tmp_path / 'run'} (python -m lm report ")


def test_sample_draws_in_blocks_that_fit_in_memory(monkeypatch, capsys):
    counts: list[int] = []
    model, original = str(tiny_model()), CausalPolicy.sample

    def spied(self, n, **options):
        counts.append(n)
        return original(self, n, **options)

    monkeypatch.setattr("lm.policy.drawing.BUDGET", 1)
    monkeypatch.setattr(CausalPolicy, "sample", spied)
    assert main(["sample", model, "--n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert max(counts) == 1
