"""What is timed by ``lm_step`` and ``lm_speed``: the engine, its floor, and TRL's trainers.

Each contender trains, and calls its `Laps` after each step until it has enough.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from benchmarks import lm_floor
from benchmarks._laps import Finished, Laps
from benchmarks.lm_floor import Size

PROMPT, END, REWARDED = 0, 1, 5


class Stopwatch:
    """Sums the time that is spent in some functions, by phase, until it is read."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._watched: list[tuple[Any, str, Any]] = []

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Time all calls of a function or method from now on; one inside another counts twice."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[phase] += time.perf_counter() - start

        self._watched.append((owner, name, function))
        setattr(owner, name, timed)

    def close(self) -> None:
        """Leave the functions as they were."""
        for owner, name, function in self._watched:
            setattr(owner, name, function)

    def read(self) -> dict[str, float]:
        """Return the sums since the last time."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return dict(seconds)


def run_floor(size: Size, laps: Laps) -> None:
    """Train with the plain-torch floor; the phase ``products`` is the matrix products' time."""
    steps = lm_floor.training(size)
    with contextlib.suppress(Finished):
        laps.start()
        for _ in steps:
            laps.stop()
            laps.lap({"products": lm_floor.matmul_seconds(size)})


def run_engine(size: Size, laps: Laps) -> None:
    """Train with `lm.train.train`, logging included, on GPT-2 with random weights.

    An on-policy step of one update per batch after a one-token prompt, toward the target that
    rewards token 5 with a nat.

    Parameters
    ----------
    size
        Of the model and the batch.
    laps
        Called after each step until it has enough.
    """
    from lm.train import StepRecord, train  # noqa: PLC0415 - other contenders do without lm

    watch = _watch_engine()

    def on_step(report: StepRecord) -> None:
        if report.step == 0:
            laps.start()
        else:
            laps.lap(_phases(watch.read()))
        watch.read()

    with (
        contextlib.closing(watch),
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(Finished),
    ):
        train(_config(size, Path(folder), laps.count), on_step=on_step)


def _watch_engine() -> Stopwatch:
    from lm.device.amp import Amp  # noqa: PLC0415
    from lm.policy.causal import CausalPolicy  # noqa: PLC0415
    from lm.target.problem import Problem  # noqa: PLC0415
    from lm.training.accumulate import MicroBatches  # noqa: PLC0415
    from lm.training.proposal import Proposal  # noqa: PLC0415

    watch = Stopwatch()
    watch.watch(Proposal, "sample", "sample")
    watch.watch(Problem, "read", "read")
    watch.watch(CausalPolicy, "score", "score")
    watch.watch(MicroBatches, "score", "policy")
    watch.watch(Amp, "backward", "backward")
    watch.watch(Amp, "clip", "optimise")
    watch.watch(Amp, "step", "optimise")
    return watch


def _phases(seconds: dict[str, float]) -> dict[str, float]:
    """Split the scorings: the policy's is the micro-batches', the rest is the base's."""
    score = seconds.pop("score")
    return {**seconds, "base": score - seconds["policy"]}


def _config(size: Size, folder: Path, steps: int) -> Any:
    from lm import config  # noqa: PLC0415
    from lm.features.registry import feature  # noqa: PLC0415

    @feature("rewarded")
    def rewarded(texts: list[str], tokens: list[list[int]]) -> list[float]:
        """Whether the sample contains token 5."""
        return [float(REWARDED in row) for row in tokens]

    write_model(size, folder)
    return config.RunConfig(
        output=str(folder / "run"),
        model=str(folder),
        max_new_tokens=size.length,
        target=config.TargetConfig(kind="reward_tilted", reward={"rewarded": 1.0}, beta=1.0),
        # Training needs no samples of the base beforehand; few are drawn for the evaluation's Z.
        partition=config.PartitionConfig(policy="leave_one_out", samples=64),
        optimizer=config.OptimizerConfig(lr=1e-5),
        # One evaluation before the first step, on few samples; the last is never reached.
        evaluation=config.EvaluationConfig(every=10**6, samples=64, group=2, texts=1),
        steps=steps + 1,
        batch_size=size.samples,
        device="cpu",
    )


def run_trl(size: Size, laps: Laps, *, trainer: str, activation: str = "gelu_new") -> None:
    """Train with a trainer of TRL on the same model and the same work.

    The trainers sample as many completions of the same length after the same one-token prompt,
    score them under a reference model (``beta`` is on), earn a reward for token 5, and make one
    optimiser step per batch: float32, on the CPU, without logging, saving or evaluation. TRL's
    objective differs from ours, though the work is alike.

    Parameters
    ----------
    size, laps
        As in `run_engine`.
    trainer
        "GRPO" or "RLOO".
    activation
        Of the model folder: GPT-2's own, or "gelu_pytorch_tanh", the fused form of it.
    """

    class Timing(TrainerCallback):
        """Asks for a turn before the first step and after every step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """Start."""
            laps.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """End a lap."""
            laps.lap()

    with tempfile.TemporaryDirectory() as name, contextlib.suppress(Finished):
        write_model(size, Path(name), activation=activation)
        _trainer(trainer, size, Path(name), laps.count, Timing()).train()


def _trainer(trainer: str, size: Size, folder: Path, steps: int, timing: Any) -> Any:
    def rewarded(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(REWARDED in row) for row in completion_ids]

    # Both come with the extra `bench` only, and trl's names are made on demand.
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")

    samples, length = size.samples, size.length
    config = getattr(trl, f"{trainer}Config")(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=samples,
        gradient_accumulation_steps=1,
        num_generations=samples,
        max_completion_length=length,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        # Greater than zero, so that a reference model is scored as our base is.
        beta=0.05,
        activation_checkpointing=False,
        learning_rate=1e-5,
        optim="adamw_torch_fused",
        max_steps=steps + 1,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )

    return getattr(trl, f"{trainer}Trainer")(
        model=str(folder),
        args=config,
        reward_funcs=rewarded,
        train_dataset=datasets.Dataset.from_dict({"prompt": [f"t{PROMPT}"] * (steps + 1)}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[timing],
    )


def write_model(size: Size, folder: Path, *, activation: str = "gelu_new") -> None:
    """Write a GPT-2 of random weights with a tokenizer whose words are t0, t1, ...

    Parameters
    ----------
    size
        Of the model.
    folder
        Exists.
    activation
        Of the configuration; "gelu_new" is GPT-2's own.
    """
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.length + 1,
        n_layer=size.layers,
        n_embd=size.width,
        n_head=size.heads,
        activation_function=activation,
        # GPT2Config drops out 10 % by default; no contender shall.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=PROMPT,
        eos_token_id=END,
        pad_token_id=END,
    )

    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    # No sample ends early, so that all contenders work on samples of one length: the last norm adds
    # 10 to a direction that the end token's row is opposed to (a logit of about -100).
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 10.0
        model.transformer.wte.weight[END, 0] = -10.0

    model.save_pretrained(folder)

    words = {f"t{token}": token for token in range(size.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=f"t{END}"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=f"t{PROMPT}", eos_token=f"t{END}", pad_token=f"t{END}"
    ).save_pretrained(folder)


CONTENDERS: Mapping[str, Callable[[Size, Laps], None]] = {
    "floor": run_floor,
    "engine": run_engine,
    "TRL GRPO": partial(run_trl, trainer="GRPO"),
    "TRL RLOO": partial(run_trl, trainer="RLOO"),
    "TRL GRPO, fused gelu": partial(run_trl, trainer="GRPO", activation="gelu_pytorch_tanh"),
}
