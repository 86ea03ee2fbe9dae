"""One run of ``race``: a contender trains on a task until a tenth of KL(a‖p) is left, on a clock.

``python -m benchmarks._race_run FILE``: FILE holds a `Run` as JSON, and gets its curve.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Two threads collapse beside another busy process unless idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CONTENDERS = ("lm", "FDPGTrainer", "TRL GRPO", "TRL RLOO")
# What is left of the distance when a run has seen enough.
SHARE = 0.1
# Behind log Z of the task whose features live on no list.
DRAWS = 32768


@dataclass(frozen=True)
class Task:
    """What is rewarded, in samples of at most ``length`` tokens, at which price of a nat."""

    reward: dict[str, float]
    length: int
    beta: float = 0.5


TASKS = {
    # Both features live on the list of names, so that log Z is exact.
    "names": Task({"female": 1.0, "listed": 0.5}, 12),
    "code": Task({"contains('return')": 1.0}, 32, 0.05),
}


@dataclass(frozen=True)
class Run:
    """Who trains, and how; everything but the first three is the same for all.

    Attributes
    ----------
    contender
        Of `CONTENDERS`.
    rate, seed
        Of the run.
    steps
        At most; a run ends when two measurements in a row are below a tenth.
    every
        Steps between measurements, which no clock counts.
    batch_size
        Samples of a step.
    samples
        Of a measurement.
    base
        Sizes and steps of the base model, as `lm.config.base.BaseConfig` has them; of code, as
        `lm.config.code_model.CodeConfig` has them.
    threads
        Of torch.
    task
        Of `TASKS`.
    """

    contender: str
    rate: float
    seed: int
    steps: int = 400
    every: int = 5
    batch_size: int = 256
    samples: int = 2048
    base: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    task: str = "names"


class Finished(Exception):
    """The run has seen enough."""


class Course:
    """The problem, the clocks and the curve of one run.

    Parameters
    ----------
    run
        Whose.
    """

    def __init__(self, run: Run) -> None:
        from lm.config import RunConfig, TargetConfig  # noqa: PLC0415
        from lm.config.parts import EvaluationConfig, OptimizerConfig, PartitionConfig  # noqa: PLC0415
        from lm.target.problem import build_problem  # noqa: PLC0415
        from lm.training.setup import load_base, resolve_with  # noqa: PLC0415

        self.run, self.points, self.task = run, [], TASKS[run.task]
        self.folder = _model(run, self.task.length)
        self.config = RunConfig(
            model=str(self.folder),
            max_new_tokens=self.task.length,
            divergence="reverse_kl",
            target=TargetConfig(kind="reward_tilted", reward=self.task.reward, beta=self.task.beta),
            # A constant in reverse KL's signal, which the baseline takes out.
            partition=PartitionConfig(samples=64),
            steps=run.steps,
            batch_size=run.batch_size,
            optimizer=OptimizerConfig(lr=run.rate),
            # It is measured here, by the same code for all.
            evaluation=EvaluationConfig(every=10**6, samples=64, group=2, texts=1),
            seed=run.seed,
            device="cpu",
            report=False,
        )
        config = resolve_with(self.config, None)
        self.base: Any = load_base(config)
        self.problem = build_problem(config, self.base)
        self.log_z = float(self.problem.log_z)
        self.wall = self.cpu = 0.0
        self._started = (0.0, 0.0)

    def rewards(self, samples: Any) -> list[float]:
        """Return the reward of each sample."""
        reading = self.problem.read(samples)
        log_base = samples.log_prob.new_zeros(len(samples.tokens)).double()
        return (self.task.beta * self.problem.log_score(log_base, reading)).tolist()

    def go(self) -> None:
        """Start the clocks."""
        self._started = (time.perf_counter(), time.process_time())

    def step(self, step: int, model: Any) -> None:
        """Stop the clocks after a step and, every few steps, measure KL(policy‖target)."""
        wall, cpu = self._started
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        if step % self.run.every == 0:
            self._measure(step, model)
        self.go()

    def _measure(self, step: int, model: Any) -> None:
        import torch  # noqa: PLC0415

        training, policy = model.training, self.base.with_model(model)
        model.eval()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(10**6 * self.run.seed + step)
            drawn = policy.sample(self.run.samples, generator=generator)
            log_policy = policy.log_prob(drawn.tokens, drawn.mask).double()
            log_base = self.base.log_prob(drawn.tokens, drawn.mask).double()
            log_score = self.problem.log_score(log_base, self.problem.read(drawn))
        _ = model.train(training)

        # An unbiased mean, and its standard error.
        values = log_policy - log_score + self.log_z
        point = {
            "step": step,
            "samples": step * self.run.batch_size,
            "wall": self.wall,
            "cpu": self.cpu,
            "kl": float(values.mean()),
            "error": float(values.std()) / len(values) ** 0.5,
        }
        self.points.append(point)
        enough = SHARE * self.points[0]["kl"]
        if len(self.points) > 1 and all(p["kl"] < enough for p in self.points[-2:]):
            raise Finished


def shared_log_z(course: Course, path: Path) -> dict[str, float]:
    """Return log Z and its standard error from `DRAWS` samples of the base, drawn once a race."""
    from dataclasses import replace  # noqa: PLC0415

    from lm.config.parts import PartitionConfig  # noqa: PLC0415
    from lm.target.problem import build_problem  # noqa: PLC0415
    from lm.training.setup import resolve_with  # noqa: PLC0415

    if not path.exists():
        many = replace(course.config, partition=PartitionConfig(samples=DRAWS), seed=10**6)
        offline = build_problem(resolve_with(many, None), course.base).offline
        assert offline is not None
        estimate = offline.estimate
        error = float(estimate.relative_standard_error)
        found = {"log_z": float(estimate.log_z), "error": error, "samples": DRAWS}
        path.with_suffix(".part").write_text(json.dumps(found) + "\n", encoding="utf-8")
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def _model(run: Run, length: int) -> Path:
    """Return the folder of the task's base, which is trained if it is in no cache."""
    from lm.code_models.train import train_code  # noqa: PLC0415
    from lm.config.base import BaseConfig  # noqa: PLC0415
    from lm.config.code_model import CodeConfig  # noqa: PLC0415
    from lm.training.base import train_base  # noqa: PLC0415

    if run.task == "code":
        return train_code(CodeConfig(**run.base))
    # TRL scores prompt and completion in one row: a place more than the completion has.
    sizes: dict[str, Any] = {"max_new_tokens": length + 1} | run.base
    return train_base(BaseConfig(**sizes))


def run_lm(course: Course) -> None:
    """Train with the engine, `lm.train.train`."""
    from unittest import mock  # noqa: PLC0415

    from lm import train as engine  # noqa: PLC0415

    # Its policy is made inside, and wanted here for measuring alone.
    made: list[Any] = []

    def build_policy(*arguments: Any) -> Any:
        made.append(original(*arguments))
        return made[-1]

    def on_step(record: Any) -> None:
        # What is made before the first step is no part of training.
        if record.step == 0:
            course.go()
        course.step(record.step, made[-1][0].model)

    original = engine.build_policy
    with (
        mock.patch.object(engine, "build_policy", build_policy),
        tempfile.TemporaryDirectory() as f,
    ):
        from dataclasses import replace  # noqa: PLC0415

        course.go()
        engine.train(replace(course.config, output=str(Path(f) / "run")), on_step=on_step)


def run_trl(course: Course) -> None:
    """Train with a trainer on TRL: stock GRPO or RLOO, or ours on GRPO."""
    from transformers import TrainerCallback  # noqa: PLC0415

    run = course.run

    class Clock(TrainerCallback):
        """Measures before the first step and after every few."""

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            """Start."""
            course.go()
            course.step(0, model)

        def on_step_end(self, args: Any, state: Any, *_: Any, model: Any, **__: Any) -> None:
            """Stop after a step."""
            course.step(state.global_step, model)

    with tempfile.TemporaryDirectory() as folder:
        _trainer(course, run, Path(folder), Clock()).train()


def _trainer(course: Course, run: Run, folder: Path, clock: Any) -> Any:
    # Both come with the extra `bench` only, and trl's names are made on demand.
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    special: dict[str, Any] = {}
    name = run.contender.removeprefix("TRL ")
    kinds: tuple[Any, Any]
    if run.contender == "FDPGTrainer":
        from lm.engines.trl import FDPGConfig, FDPGTrainer  # noqa: PLC0415

        kinds, special = (FDPGTrainer, FDPGConfig), {"divergence": "reverse_kl"}
    else:
        kinds = getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")

    args = kinds[1](
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        beta=course.task.beta,
        per_device_train_batch_size=run.batch_size,
        num_generations=run.batch_size,
        max_completion_length=course.base.max_new_tokens,
        # The optimiser of lm: Adam, a constant rate, no clipping.
        learning_rate=run.rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        # TRL's default computes each forward twice, to save memory that nobody needs here.
        gradient_checkpointing=False,
        max_grad_norm=0.0,
        max_steps=run.steps,
        seed=run.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **special,
    )
    start = f"t{course.base.ids.bos_id}"
    return kinds[0](
        model=str(course.folder),
        args=args,
        reward_funcs=_reward_of(course),
        train_dataset=datasets.Dataset.from_dict({"prompt": [start] * (run.steps + 1)}),
        processing_class=_tokenizer(course.base),
        callbacks=[clock],
    )


def _reward_of(course: Course) -> Any:
    """Return TRL's reward function: the reward of completions as token ids."""
    import torch  # noqa: PLC0415

    from lm.policy.samples import Samples  # noqa: PLC0415

    pad = course.base.ids.pad_id

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        longest = max(map(len, completion_ids))
        rows = [[*ids, *[pad] * (longest - len(ids))] for ids in completion_ids]
        lengths = torch.tensor([len(ids) for ids in completion_ids])
        mask = torch.arange(longest) < lengths[:, None]
        return course.rewards(Samples(torch.tensor(rows), mask, torch.zeros(len(rows))))

    return reward


def _tokenizer(base: Any) -> Any:
    """Return a tokenizer whose words are t0, t1, ...: TRL's prompts are texts."""
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordLevel  # noqa: PLC0415
    from tokenizers.pre_tokenizers import WhitespaceSplit  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    end = f"t{base.ids.eos_ids[0]}"
    words = {f"t{token}": token for token in range(base.vocabulary_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=end))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def main(arguments: list[str] | None = None) -> int:
    """Make the run of a file and write its curve there."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    path = Path(name)
    run = Run(**json.loads(path.read_text(encoding="utf-8")))

    # Not imported to read a file.
    import torch  # noqa: PLC0415

    torch.set_num_threads(run.threads)
    course = Course(run)
    if not course.problem.target.config.on_list:
        course.log_z = shared_log_z(course, path.parent / "log_z.json")["log_z"]
    with contextlib.suppress(Finished):
        (run_lm if run.contender == "lm" else run_trl)(course)
    record = {"run": asdict(run), "points": course.points}
    path.with_suffix(".part").write_text(json.dumps(record) + "\n", encoding="utf-8")
    path.with_suffix(".part").replace(path.with_suffix(".done.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
