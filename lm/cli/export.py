"""Write a trained policy as a plain Hugging Face folder, for any program that loads those."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lm.config.sampling import SamplingConfig
from lm.errors import RunError
from lm.models import configuration as model_config
from lm.models.folder import atomic_folder
from lm.models.hub import find_model
from lm.models.token_ids import load_ids
from lm.policy import Policy, load_policy
from lm.report import card
from lm.report.card import Source
from lm.run.checkpoint import CorruptCheckpoint, checkpoint_steps, load_checkpoint
from lm.run.folder import read_config
from lm.run.owned import MODEL, remove_owned, require_owned
from lm.run.start import inputs_of, partial_folder
from lm.run.state import load_weights
from lm.training.setup import build_policy, load_base

CHECKPOINT_MARK = "manifest.json"
RUN_MARK = "config.yaml"


def run_export(source: Path, destination: Path, *, overwrite: bool) -> None:
    """Export, and print where the model is and how to load it."""
    folder = export(source, destination, overwrite=overwrite)
    print(f"model: {folder}")
    print(f"load:  transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})")


def export(source: Path, destination: Path, *, overwrite: bool = False) -> Path:
    """Write a policy as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Weights in safetensors with an adapter merged into them, the tokenizer, and a generation
    configuration whose start and end tokens, length limit and sampling law are the policy's, so
    that ``generate`` draws from what was trained. README.md is its model card.

    Parameters
    ----------
    source
        A run folder; one that was interrupted, of which the newest whole checkpoint counts (newer
        ones that are damaged are told of on the standard error stream); one of its checkpoints; or
        the folder of a model.
    destination
        Appears complete or not at all.
    overwrite
        Whether a destination that is not empty may be replaced; only a model of ours ever is.

    Returns
    -------
    Path
        The destination.

    Raises
    ------
    RunError
        The destination is taken, or holds the source, what its run reads or a model card that
        somebody has changed; the run has nothing to export yet; or a checkpoint is damaged.
    MissingModelFolder, ModelFolderError
        There is no such source, or it cannot be used.
    """
    _require_free(source, destination, overwrite=overwrite)
    policy, whose = _found(source)
    with atomic_folder(destination) as partial:
        policy.save(partial)
        (partial / card.NAME).write_text(card.card_of(whose), encoding="utf-8")
        if destination.exists():
            # Only now: until here the old one was whole.
            remove_owned(destination, MODEL)
    return destination


def load_trained(source: Path) -> Policy:
    """Load the policy of a run, of an interrupted run, of a checkpoint or of a model folder.

    Parameters
    ----------
    source
        As in `export`.

    Returns
    -------
    Policy
        On the CPU.

    Raises
    ------
    RunError
        As in `export`.
    """
    return _found(source)[0]


def _found(source: Path) -> tuple[Policy, Source]:
    """Load a policy, with what is known of where it comes from."""
    if source.exists():
        source = source.resolve()  # the parents of a relative path may not be written in it
    if (source / CHECKPOINT_MARK).is_file():
        run = source.parent.parent
        policy, step = _from_checkpoint(source, run)
        return policy, Source(run.name, run, step)
    if (source / "policy").is_dir():
        known = (source / RUN_MARK).is_file()
        return _from_folder(source / "policy"), Source(source.name, source if known else None)
    for run in (source, partial_folder(source)):
        if (run / RUN_MARK).is_file():
            policy, step = _from_newest(run)
            return policy, Source(source.name, run, step)
    run = source.parent
    of_a_run = source.name == "policy" and (run / RUN_MARK).is_file()
    return _from_folder(source), Source(source.name, run if of_a_run else None)


def _from_folder(folder: Path) -> Policy:
    """Load a model, with the transform of the run whose policy it is.

    A model that fixes no length limit is written without one.
    """
    run = folder.parent
    of_a_run = folder.name == "policy" and (run / RUN_MARK).is_file()
    law = read_config(run, complete=False).law if of_a_run else SamplingConfig()
    path = find_model(folder)
    limit = load_ids(path, model_config.read_config(path)).max_new_tokens
    # Any that fits serves to load it: nothing is sampled here.
    policy = load_policy(path, max_new_tokens=limit or 1, transform=law)
    policy.ids = replace(policy.ids, max_new_tokens=limit)
    return policy


def _from_newest(run: Path) -> tuple[Policy, int]:
    """Load the newest checkpoint that is whole, with its step."""
    folder = run / "checkpoints"
    damaged: CorruptCheckpoint | None = None
    for step in checkpoint_steps(folder):
        try:
            found = _from_checkpoint(folder / f"step-{step:08d}", run)
        except CorruptCheckpoint as error:
            damaged = error
            _say(f"the checkpoint of step {step} is skipped: {error}")
        else:
            _say(f"{run} is not complete: this is its policy after step {step}")
            return found
    raise RunError(
        f"{run} has no trained policy and no whole checkpoint to export: continue the run "
        "(--resume) or name another folder"
    ) from damaged


def _from_checkpoint(checkpoint: Path, run: Path) -> tuple[Policy, int]:
    state = load_checkpoint(checkpoint)
    config = read_config(run, complete=False)
    policy, _ = build_policy(config, load_base(config))
    load_weights(policy.model, state)
    return policy, state.step


def _say(note: str) -> None:
    print(f"lm: {note}", file=sys.stderr)


def _require_free(source: Path, destination: Path, *, overwrite: bool) -> None:
    if source.resolve().is_relative_to(destination.resolve()):
        raise RunError(
            f"the destination {destination} holds the source {source}, which the export would "
            "replace: choose another destination"
        )

    # Nothing that the export or the run reads may be replaced.
    for key, name in _read_by(source):
        if Path(name).exists() and Path(name).resolve().is_relative_to(destination.resolve()):
            raise RunError(
                f"the destination {destination} holds {name}, the {key} of the run, without which "
                "neither its checkpoints nor its evaluation can be had: choose another destination"
            )

    # What is there must be a folder of ours, or nothing.
    if destination.name in {"", ".."}:
        raise RunError(f"{str(destination)!r} has no name of its own: name the folder to write")
    if destination.exists() and not destination.is_dir():
        raise RunError(f"{destination} is a file: choose another destination")
    if destination.is_mount():
        raise RunError(f"{destination} is where a disk is mounted: name a folder in it")
    if destination.is_dir() and any(destination.iterdir()) and not overwrite:
        raise RunError(
            f"{destination} exists and is not empty: choose another destination, or pass "
            "--overwrite to replace it"
        )
    if destination.name == "policy" and (destination.parent / RUN_MARK).is_file():
        raise RunError(f"{destination} is the policy of a run: choose another destination")
    require_owned(destination, MODEL)
    written = destination / card.NAME
    if written.is_file() and not card.is_unchanged(written):
        raise RunError(
            f"{written} has been changed since it was exported, so it is not replaced: move it "
            "away, or choose another destination"
        )


def _read_by(source: Path) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of what the run reads whose policy or checkpoint a source is."""
    place = source.resolve()
    if (place / CHECKPOINT_MARK).is_file():
        folders = [place.parent.parent]
    elif place.name == "policy":
        folders = [place.parent]
    else:
        folders = [place, partial_folder(place)]
    for folder in folders:
        if (folder / RUN_MARK).is_file():
            yield from inputs_of(read_config(folder, complete=False))
            return
