"""``python -m toy audit``: its options, and what it does with them.

Nothing here imports torch until an audit runs, so the other commands work without it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from toy.files import holds_keys, is_picture, require_writable


def add_audit_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument(
        "loss",
        type=str | None,
        nargs="?",
        default=None,
        help="a named penalty (see --list), path/to/file.py:function, or - for what you paste on "
        "standard input: a function, or an expression in log_policy and log_reference",
    )

    parser.add_argument("--list", action="store_true", help="list the named penalties, and stop")
    parser.add_argument("--all", action="store_true", help="audit the dictionary of KL penalties")
    parser.add_argument(
        "--placement",
        type=Literal["loss", "reward"],
        default="loss",
        help="differentiated in the loss, or detached in the reward",
    )
    parser.add_argument(
        "--samples",
        type=Literal["on_policy", "stale"],
        default="on_policy",
        help="drawn from the policy, or from one that it has left",
    )
    parser.add_argument(
        "--level",
        type=Literal["sequence", "token"],
        default="sequence",
        help="one log-probability per sample, or one per token",
    )
    parser.add_argument(
        "--batch_size", type=int, default=1, help="samples per batch, 1 to 3, for losses with peers"
    )

    # What to write besides the verdict.
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers here")
    parser.add_argument(
        "--figure", type=str | None, default=None, help="draw the recovered f'(t) here (PNG)"
    )


def run_audit(options: Namespace) -> int:
    """Audit as asked, print the verdict, and write what was asked for.

    Parameters
    ----------
    options : jsonargparse.Namespace
        Of the arguments above.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError, OSError
        For arguments that mean nothing, a loss that cannot be audited, and unwritable files.
    """
    _check(options)
    from toy.audit.audits import audit, audit_all  # noqa: PLC0415
    from toy.audit.hints import hints  # noqa: PLC0415
    from toy.audit.losses import find_loss, pasted_loss  # noqa: PLC0415
    from toy.audit.report import (  # noqa: PLC0415
        plot_signals,
        print_all,
        print_audit,
        print_penalties,
        write_json,
    )
    from toy.cli.plots import save_figure  # noqa: PLC0415

    console = Console()
    if options.list:
        print_penalties(console)
        return 0

    # Audit one loss, with hints, or the whole dictionary.
    how = {name: options[name] for name in ("placement", "samples", "level", "batch_size")}
    said: list[str] = []
    if options.all:
        reports = audit_all()
    else:
        pasted = options.loss == "-"
        loss = pasted_loss(_pasted()) if pasted else find_loss(options.loss)
        reports = [audit(loss, name=None if pasted else options.loss, **how)]
        said = hints(loss, reports[0])

    # Write before anything is printed: what cannot be written is an error alone.
    if options.figure is not None and any(report.signal is None for report in reports):
        raise ValueError("--figure: a loss that takes the reward has no f'(t) of its own to draw")
    records = [report.record() for report in reports]
    if not options.all:
        records[0]["hints"] = said
    if options.json is not None:
        write_json(records if options.all else records[0], Path(options.json))
    if options.figure is not None:
        save_figure(plot_signals(reports), Path(options.figure))

    # Say it.
    if options.all:
        print_all(reports, console)
    else:
        print_audit(reports[0], console, hints=said)
    for path in (options.json, options.figure):
        if path is not None:
            console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return 0


def _pasted() -> str:
    """Return standard input; who sits before a terminal is told what to do."""
    if sys.stdin.isatty():
        print(
            "Paste a function of log_policy and log_reference, or an expression in them; "
            "then Ctrl-D on a line of its own.",
            file=sys.stderr,
        )
    return sys.stdin.read()


def _check(options: Namespace) -> None:
    """Refuse what means nothing, before torch is imported or anything is written."""
    if [options.loss is not None, options.all, options.list].count(True) != 1:
        raise ValueError(
            "name one loss (NAME, FILE.py:FUNCTION, or - to paste one), or give --all or --list, "
            "not both"
        )
    defaults = {"placement": "loss", "samples": "on_policy", "level": "sequence", "batch_size": 1}
    changed = [f"--{name}" for name, value in defaults.items() if options[name] != value]
    if options.all and changed:
        raise ValueError(f"--all audits every use by itself: leave out {', '.join(changed)}")
    written = [f"--{name}" for name in ("json", "figure") if options[name] is not None]
    if options.list and (changed or written):
        raise ValueError(f"--list audits nothing: leave out {', '.join(changed + written)}")
    if options.figure is not None and options.level == "token":
        raise ValueError("--figure: f'(t) is recovered per sequence only; leave out --level token")
    if options.json is not None:
        ours = holds_keys("placement", "relative_residual", "sentence")
        require_writable(Path(options.json), suffix=".json", ours=ours)
    if options.figure is not None:
        require_writable(Path(options.figure), suffix=".png", ours=is_picture)
