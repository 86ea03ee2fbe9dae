"""The penalties that people use, by name, and losses from users' files.

Here u = log pi - log ref at a sample of pi. The divergences that they descend are the rows of the
dictionary of KL penalties, which `F7` lists and ``python -m toy audit --all`` measures.
"""

from __future__ import annotations

import ast
import math
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from toy.audit.call import FIRST, NAMED, AuditError, said
from toy.checks import check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from toy.audit.call import Loss


def k1(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return u, an unbiased estimate of KL(pi‖ref)."""
    return log_policy - log_reference


def k2(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return u^2 / 2, a biased estimate of KL(pi‖ref)."""
    return (log_policy - log_reference) ** 2 / 2


def k3(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return e^-u - 1 + u, an unbiased estimate of KL(pi‖ref) that is never negative."""
    u = log_policy - log_reference
    return torch.expm1(-u) + u


def absolute(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return abs(u)."""
    return (log_policy - log_reference).abs()


def k3_reversed(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return e^u - 1 - u: k3 with the log-ratio reversed."""
    return k3(log_reference, log_policy)


def js_value(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return f(t)/t of Jensen-Shannon, t = e^u: its mean is the divergence itself."""
    u = log_policy - log_reference
    half = math.log(2.0)
    of_policy, of_reference = half - F.softplus(-u), half - F.softplus(u)
    return (of_policy + torch.exp(-u) * of_reference) / 2


def skew(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """Return -log((e^-u + 1)/2): its mean is KL(pi‖m), m half way between policy and reference."""
    return math.log(2.0) - F.softplus(log_reference - log_policy)


def _times_ratio(penalty: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def with_ratio(log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor) -> Tensor:
        # The ratio is differentiated too: on-policy it is one, but its gradient is the score.
        ratio = torch.exp(log_policy - log_behavior)
        return ratio * penalty(log_policy, log_reference)

    return with_ratio


PENALTIES: Mapping[str, Loss] = MappingProxyType(
    {
        "k1": k1,
        "k2": k2,
        "k3": k3,
        "abs": absolute,
        "k3_reversed": k3_reversed,
        "js_value": js_value,
        "skew": skew,
        "ratio_k1": _times_ratio(k1),
        "ratio_k3": _times_ratio(k3),
        "ratio_k2": _times_ratio(k2),
    }
)


# One line each, for `python -m toy audit --list`.
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "k1": "u, the log-ratio itself; its mean is KL(policy‖reference)",
        "k2": "u²/2; its mean is something else",
        "k3": "e⁻ᵘ - 1 + u, never negative; its mean is KL(policy‖reference)",
        "abs": "|u|",
        "k3_reversed": "eᵘ - 1 - u: k3 with the log-ratio the wrong way round",
        "js_value": "f(t)/t of Jensen–Shannon, t = eᵘ; its mean is that divergence",
        "skew": "-log((e⁻ᵘ + 1)/2), against a mixed teacher; its mean is KL(policy‖mixture)",
        "ratio_k1": "k1 times policy/behaviour, the ratio differentiated too",
        "ratio_k3": "k3 times policy/behaviour, the ratio differentiated too",
        "ratio_k2": "k2 times policy/behaviour, the ratio differentiated too",
    }
)


class Entry(NamedTuple):
    """One cell of the dictionary: its row, the penalty, and how it is used."""

    row: int
    penalty: str
    placement: str
    samples: str


# The eleven rows of the dictionary in all their columns.
F7: tuple[Entry, ...] = (
    *(
        Entry(row, penalty, placement, "on_policy")
        for row, penalty in enumerate(("k1", "k2", "k3", "abs", "k3_reversed"), start=1)
        for placement in ("loss", "reward")
    ),
    *(
        Entry(row, penalty, "loss", samples)
        for row, penalty in enumerate(("ratio_k1", "ratio_k3", "ratio_k2"), start=6)
        for samples in ("on_policy", "stale")
    ),
    *(Entry(9, penalty, "loss", "stale") for penalty in ("k1", "k2", "k3")),
    *(Entry(10, "js_value", placement, "on_policy") for placement in ("loss", "reward")),
    Entry(11, "skew", "reward", "on_policy"),
)


def find_loss(text: str) -> Loss:
    """Return a named penalty, or the function of a file.

    Parameters
    ----------
    text : str
        A key of `PENALTIES`, or ``path/to/file.py:function``. The file is run.

    Returns
    -------
    callable
        The loss.

    Raises
    ------
    AuditError
        If there is no such name, file or function, or the file raises; the nearest name is given.
    """
    path, colon, function = text.rpartition(":")
    if colon:
        return _from_file(Path(path), function)
    if text.endswith(".py"):
        raise AuditError(f"{text!r} names no function in the file: write {text}:FUNCTION")
    try:
        check_choice("penalty", text, PENALTIES)
    except ValueError as error:
        raise AuditError(
            f"{error} Or name a function in a file: FILE.py:FUNCTION; or paste one: -"
        ) from None
    return PENALTIES[text]


def pasted_loss(text: str) -> Loss:
    """Return the loss that a text defines: its last function, or the expression that it is.

    Parameters
    ----------
    text : str
        Python, which is run with ``torch`` and ``F`` (torch.nn.functional) at hand. An expression
        may use the names of the tensors, such as ``(log_policy - log_reference) ** 2 / 2``.

    Returns
    -------
    callable
        The loss.

    Raises
    ------
    AuditError
        If the text is no Python, defines no function, or raises.
    """
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError) as error:
        raise AuditError(f"what was pasted is no Python: {error}") from None
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        arguments = ", ".join(n for n in NAMED if n in FIRST or n in used)
        tree = ast.parse(f"def your_loss({arguments}):\n    return ({ast.unparse(tree)})")
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not functions:
        raise AuditError(
            "what was pasted defines no function: paste `def loss(log_policy, log_reference): ...` "
            "or an expression in log_policy and log_reference"
        )

    names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "__name__": "audited"}
    try:
        exec(compile(tree, "<pasted>", "exec"), names)
    # A user's text may raise anything, and may leave the program.
    except (Exception, SystemExit) as error:
        raise AuditError(f"what was pasted raised {said(error)}") from error
    return names[functions[-1]]


def _from_file(path: Path, function: str) -> Loss:
    if not path.is_file():
        raise AuditError(f"there is no file {str(path)!r}: write path/to/file.py:{function}")
    try:
        # Not imported: an import would leave bytecode beside the user's file.
        names = runpy.run_path(str(path), run_name="audited")
    # A user's file may raise anything, and may leave the program.
    except (Exception, SystemExit) as error:
        raise AuditError(f"{path} raised {said(error)}") from error
    functions = [name for name, value in names.items() if callable(value) and name[0] != "_"]
    if not functions:
        raise AuditError(
            f"{path} defines no function: write `def {function}(log_policy, log_reference): ...` "
            "into it"
        )
    try:
        check_choice("function", function, functions)
    except ValueError as error:
        raise AuditError(f"{path}: {error}") from None
    return names[function]
