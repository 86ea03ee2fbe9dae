"""What a run reads from files: their content is part of what the run is."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from lm.config import RunConfig
from lm.config.base import PRETRAINED
from lm.config.code_model import code_model
from lm.features.files import is_reference
from lm.features.makers import files_of
from lm.phases import phase


def input_digests(config: RunConfig, *, known: Collection[str] = ()) -> dict[str, str]:
    """Return what is in the files and local folders that a run reads.

    Parameters
    ----------
    config
        The run.
    known
        Folders that the configuration describes in full already: the models that a sweep trains
        itself, which may not be there yet.

    Returns
    -------
    dict
        A hash of the content by path. Names on a hub are not looked up.
    """
    paths = {path for path in _named(config) if path not in known and Path(path).exists()}
    return {path: digest_of(Path(path).resolve()) for path in sorted(paths)}


def _named(config: RunConfig) -> Iterator[str]:
    """Yield every path that a configuration may name, and hub names as well."""
    for path in (config.model, config.base.initial, config.prompts.file):
        if path is not None:
            yield path
    # A name of the project's own stands for a folder of the cache.
    if config.model in PRETRAINED:
        yield str(PRETRAINED[config.model].folder())
    elif config.model is not None and (code := code_model(config.model)) is not None:
        yield str(code.folder())

    functions = [config.evaluation.coverage]
    for target in (config.target, config.measure):
        if target is not None:
            functions += [*target.features, target.score]
            if target.teacher is not None:
                yield target.teacher

    # A function in a file is the file, and what that imports from beside it.
    for name in functions:
        if name is not None and is_reference(name):
            yield from _with_neighbours(Path(name.rpartition(":")[0]))
        elif name is not None:
            yield from files_of(name)


def _with_neighbours(path: Path) -> Iterator[str]:
    """Yield a Python file and, one after another, the files beside it that are imported."""
    found, waiting = set[Path](), [path]
    while waiting:
        one = waiting.pop()
        if one in found or not one.is_file():
            continue
        found.add(one)
        yield str(one)
        try:
            tree = ast.parse(one.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # the run itself says what is wrong with it
        waiting += _imported(tree, one, path.parent)


def _imported(tree: ast.AST, file: Path, root: Path) -> Iterator[Path]:
    """Yield where Python would look for what a file imports, below the first file's folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            folder, names = root, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level <= len(file.parents):
            # One dot is the file's own folder, each more the one above. A name may be a module.
            folder = root if node.level == 0 else file.parents[node.level - 1]
            names = [f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]
        else:
            continue

        # Each package on the way runs its __init__.py.
        for name in names:
            parts = name.split(".")
            for depth, last in enumerate(parts):
                above = folder.joinpath(*parts[:depth])
                yield from (above / f"{last}.py", above / last / "__init__.py")


def digest_of(path: Path) -> str:
    """Hash a file, or the names and hashes of all files below a folder."""
    if path.is_file():
        facts = path.stat()
        return _file_digest(path, facts.st_mtime_ns, facts.st_size)
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    listed = "".join(f"{inner.relative_to(path)}\0{digest_of(inner)}\n" for inner in files)
    return hashlib.sha256(listed.encode()).hexdigest()


@functools.cache
def _file_digest(path: Path, _changed: int, _size: int) -> str:
    """Hash a file once, however many cells read it, until it changes."""
    with phase(f"hashing {path}, which a run reads"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
