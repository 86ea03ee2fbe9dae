"""What policies wrote: the same few texts of every task, before and after training."""

from __future__ import annotations

import re
from collections.abc import Sequence

from study.names import label_of, method_order, size_order
from study.report.blocks import Block, Section
from study.tables.cubes import pooled
from study.tables.stored import Frame, Table

LONGEST = 160


def texts_section(tables: Sequence[Table]) -> list[Section]:
    """Return the section of texts before and after, one block for each task.

    Parameters
    ----------
    tables
        With one rate for each place of a run; those that store no texts are passed over.

    Returns
    -------
    list of Section
        One, or none where no table has texts. A task is shown at its smallest size and first seed,
        each objective by the first texts that were drawn: none is picked.
    """
    blocks: list[Block] = [
        "The first texts that were drawn, none picked, of the smallest size and first seed of each "
        f"task. ⏎ is a line break; after {LONGEST} characters a text is cut (…)."
    ]
    for table in tables:
        runs = table.frame.get("run")
        if runs is None or not table.texts:
            continue
        known = pooled(table.frame[runs.isin(set(table.texts))])
        for task in (name for name in table.tasks if name in set(known["task"])):
            of_task = known[known["task"] == task]
            size = min(of_task["size"].unique(), key=size_order)
            of_size = of_task[of_task["size"] == size]
            first = of_size[of_size["seed"] == of_size["seed"].min()]
            title = table.tasks[task].get("title", task)
            blocks.append(f"**{task}**: {title} ({size}).\n\n{_fenced(_lines(first, table))}")
    return [Section("Texts before and after", blocks)] if len(blocks) > 1 else []


def _lines(rows: Frame, table: Table) -> list[str]:
    """Return the texts of one place: those of the base once, then those of each objective."""
    runs = rows.drop_duplicates("method").set_index("method")["run"]
    methods = sorted(runs.index, key=method_order)
    lines = ["untrained", *_indented(table.texts[runs[methods[0]]]["before"])]
    for method in methods:
        lines += [label_of(method), *_indented(table.texts[runs[method]]["after"])]
    return lines


def _indented(texts: Sequence[str]) -> list[str]:
    return [f"    {one if len(one) <= LONGEST else one[:LONGEST] + '…'}" for one in texts]


def _fenced(lines: Sequence[str]) -> str:
    """Return a block of code whose fence is longer than any that the texts contain."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}text", *lines, fence))
