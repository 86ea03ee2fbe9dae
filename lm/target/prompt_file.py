"""Reading prompts from a file: one a line, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from lm.errors import RunError


def read_prompts(path: str) -> list[str]:
    """Read the prompts of a run.

    Parameters
    ----------
    path
        A text file with one prompt a line (empty lines are left out), or a ``.jsonl`` file whose
        lines are objects with the key "prompt", which may hold line breaks.

    Returns
    -------
    list of str
        At least one prompt, none of them empty, none twice.

    Raises
    ------
    RunError
        The file cannot be read, a line is not what it should be, or nothing is left.
    """
    # Read.
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RunError(
            f"prompts.file {path} cannot be read ({reason}): name a text file with one prompt a "
            'line, or a .jsonl file with the key "prompt"'
        ) from error

    # One prompt per line or per record.
    lines = [line for line in text.split("\n") if line.strip()]
    if path.endswith(".jsonl"):
        prompts = [_prompt_of(line, f"{path}, record {n}") for n, line in enumerate(lines, 1)]
    else:
        prompts = [line.removesuffix("\r") for line in lines]

    # Refuse what cannot be used.
    if not prompts:
        raise RunError(f"prompts.file {path} holds no prompt: give it one a line")
    if len(set(prompts)) < len(prompts):
        twice = next(prompt for prompt in prompts if prompts.count(prompt) > 1)
        raise RunError(
            f"prompts.file {path} holds {twice!r} twice: every prompt has a Z of its own, so leave "
            "each one in once"
        )
    return prompts


def _prompt_of(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunError(f"{where} is not valid JSON: {error}") from error
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise RunError(f'{where} has no text under the key "prompt": {line[:80]}')
    return prompt
