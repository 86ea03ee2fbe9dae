"""Trackers of accelerate: they get what metrics.jsonl gets, and their faults stop no run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState
from support.lm_runs import lines, tiny_config

from lm.config import RunConfig, TargetConfig
from lm.errors import RunError
from lm.models.hub import MissingModelFolder
from lm.run.trackers import KINDS, NoTracker, open_tracker, require_tracker, scalars
from lm.train import train

ROOT = Path(__file__).resolve().parents[2]
STEP = {"kind": "step", "step": 1, "samples": 8, "learning_rate": 0.5, "features": {"a b": 0.25}}
ENTRY = {"sampled": {"value": 0.5, "standard_error": 0.1}, "exact": {"value": "inf"}}
EVALUATION = {"kind": "evaluation", "step": 1, "estimates": {"forward_kl": ENTRY}}


@pytest.fixture(autouse=True)
def _started() -> None:
    _ = PartialState(cpu=True)  # as a run's accelerator does


class Service:
    """Stands for the library of a tracker, and remembers what it is told."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.told: list[tuple[str, Any]] = []
        self.fails_at = fails_at

    def log(self, values: dict[str, float], step: int) -> None:
        if len(self.named("log")) == self.fails_at:
            raise ConnectionError("the service is away")
        self.told.append(("log", (step, values)))

    def named(self, name: str) -> list[Any]:
        return [content for what, content in self.told if what == name]

    def says(self, name: str, result: Any = None) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            self.told.append((name, {**dict(enumerate(words)), **options}))
            return result

        return call

    def module(self, kind: str) -> ModuleType:
        """Return the library as far as accelerate calls it."""
        module: Any = ModuleType(kind)
        if kind == "mlflow":
            module.search_experiments = lambda filter_string: []
            module.create_experiment = lambda name, **_: name
            module.start_run = self.says("init", SimpleNamespace())
            limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
            module.utils = SimpleNamespace(validation=limits)
            module.log_params = self.says("settings")
            module.log_metrics = self.log
            module.end_run = self.says("finish")
            return module
        run = SimpleNamespace(log=self.log, finish=self.says("finish"))
        module.init = self.says("init", run)
        module.config = SimpleNamespace(update=self.says("settings"))
        return module


def config(kind: Any, folder: Path = Path("runs/mine-seed3")) -> RunConfig:
    target = TargetConfig(moments={"female": 0.1})
    return RunConfig(name="mine", output=str(folder), target=target, tracker=kind)


@pytest.mark.parametrize("kind", ["wandb", "trackio", "mlflow"])
def test_a_tracker_gets_the_numbers_of_every_record(kind, tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, kind, service.module(kind))
    require_tracker(kind)
    with open_tracker(config(kind), tmp_path) as tracker:
        tracker.write(STEP)
        tracker.write(EVALUATION)
    assert service.named("log") == [(1, scalars(STEP)), (1, scalars(EVALUATION))]
    assert scalars(EVALUATION)["forward_kl/exact"] == float("inf")
    (begun,) = service.named("init")
    names = {"run_name": "mine-seed3"} if kind == "mlflow" else {"project": "mine"}
    assert names.items() <= begun.items()
    assert len(service.named("finish")) == 1
    assert "divergence" in str(service.named("settings"))
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_told_of_once_and_left(tmp_path, monkeypatch, capsys):
    service = Service(fails_at=1)
    monkeypatch.setitem(sys.modules, "wandb", service.module("wandb"))
    with open_tracker(config("wandb"), tmp_path) as tracker:
        for _ in range(3):
            tracker.write(STEP)
    assert service.named("log") == [(1, scalars(STEP))]
    assert service.named("finish") == []
    err = capsys.readouterr().err
    assert err.count("lm: warning: the tracker wandb failed") == 1
    assert "the service is away" in err


def test_a_tracker_that_does_not_start_says_what_to_do(tmp_path, monkeypatch):
    module: Any = Service().module("wandb")
    module.init = lambda **_: (_ for _ in ()).throw(ValueError("No API key configured"))
    monkeypatch.setitem(sys.modules, "wandb", module)
    with (
        pytest.raises(RunError, match=r"No API key configured.*WANDB_MODE=offline, or drop --tra"),
        open_tracker(config("wandb"), tmp_path),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_that_is_not_there_is_named_with_its_command(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    extra = "lm" if kind == "tensorboard" else "trackers"
    words = (
        rf"tracker {kind} is asked for, but {kind} is not installed: "
        rf"python -m pip install '.\[{extra}\]' in a clone, or drop --tracker"
    )
    with pytest.raises(RunError, match=words):
        require_tracker(kind)
    # Before a model is looked for, and nothing is written.
    with pytest.raises((RunError, MissingModelFolder), match=words):
        _ = train(RunConfig(**{**vars(config(kind, tmp_path / "run")), "model": "no/such/model"}))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_broken_is_named_with_its_reason(tmp_path, monkeypatch):
    _ = (tmp_path / "trackio.py").write_text("raise AttributeError('of another library')")
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    words = r"trackio does not start \(AttributeError: of another library\): python -m pip install"
    with pytest.raises(RunError, match=words):
        require_tracker("trackio")


def test_without_a_tracker_nothing_is_imported(tmp_path, monkeypatch):
    for kind in KINDS:
        monkeypatch.setitem(sys.modules, kind, None)
    require_tracker("none")
    # No tracker was asked for, or this is not the process that writes.
    for kind, main in (("none", True), ("wandb", False)):
        with open_tracker(config(kind), tmp_path, main=main) as tracker:
            tracker.write(STEP)
            assert isinstance(tracker, NoTracker)
    assert list(tmp_path.iterdir()) == []


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package}: pip install '.[trackers]'")


def test_every_tracker_is_in_the_extra_that_its_sentence_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for kind in KINDS.values():
        # MLflow's client comes without its server, which is ten times as large.
        name = {"mlflow": "mlflow-skinny"}.get(kind.package, kind.package)
        wanted = project["optional-dependencies"][kind.extra]
        assert any(one.startswith(f"{name}>=") for one in wanted), kind


@pytest.mark.slow
def test_wandb_offline_holds_a_whole_run(tmp_path, monkeypatch):
    _needs("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    folder = train(tiny_config(tmp_path / "run", tracker="wandb", report=False))
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = stored.read_bytes()
    for name in ("step/gradient_norm", "forward_kl/sampled_error"):
        assert name.encode() in content
    assert not (folder / "wandb").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")  # of its own libraries
def test_mlflow_in_a_local_file_holds_a_whole_run(tmp_path, monkeypatch):
    _needs("mlflow")
    _needs("sqlalchemy")
    mlflow = importlib.import_module("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = train(tiny_config(tmp_path / "run", tracker="mlflow", report=False))
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    written = {
        (record["step"], value)
        for record in lines(folder, "step")
        if (value := record["gradient_norm"]) is not None
    }
    history = client.get_metric_history(run.info.run_id, "step/gradient_norm")
    assert {(one.step, one.value) for one in history} == written


@pytest.mark.slow
def test_trackio_keeps_a_whole_run_on_this_machine(tmp_path, monkeypatch):
    _needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = train(tiny_config(tmp_path / "run", tracker="trackio", report=False))
    stored = [path for path in (tmp_path / "trackio").rglob("*") if path.is_file()]
    assert any(b"gradient_norm" in path.read_bytes() for path in stored)
    assert (folder / "metrics.jsonl").is_file()
