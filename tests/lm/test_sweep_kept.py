"""A sweep made in parts: its table keeps what the others gave, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from support.lm_runs import scratch
from support.lm_sweeps import plain_sweep, tiny_block, tiny_sweep

from lm.cli.main import main
from lm.errors import UsageError
from lm.sweep.cells import expand, runs_now
from lm.sweep.command import require_outputs, run_sweep
from lm.sweep.config import SweepConfig
from lm.sweep.kept import kept_parts
from lm.sweep.records import record_path
from lm.sweep.table import METADATA_KEY

BLOCKS = [tiny_block(part="first"), tiny_block(part="second", methods=["rl_kl"], seeds=[0, 1])]


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.chdir(scratch())


def sweep_of(folder: Path, *parts: str, **changes: Any) -> SweepConfig:
    return tiny_sweep(folder, blocks=changes.pop("blocks", BLOCKS), parts=list(parts), **changes)


def facts_of(table: str | Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(table).metadata[METADATA_KEY])


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> SweepConfig:
    """A sweep that was made part after part, and one at once in the same folder."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch())
        _ = run_sweep(sweep_of(folder, "first"), command="one")
        # Another clone: the records of the first part are not there.
        for path in (folder / "cells" / "cells").iterdir():
            path.rename(path.with_suffix(".away"))
        _ = run_sweep(sweep_of(folder, "second"), command="two")
        for path in (folder / "cells" / "cells").glob("*.away"):
            path.rename(path.with_suffix(".json"))
        whole = sweep_of(folder, table=str(folder / "whole.parquet"))
        _ = run_sweep(whole, command="all")
    return sweep_of(folder)


def test_the_table_of_two_parts_is_that_of_the_whole(both):
    whole = Path(both.table).with_name("whole.parquet")
    parts = pq.read_table(both.table)
    assert set(parts["method"].to_pylist()) == {"forward_kl", "rl_kl"}
    assert parts.schema.equals(pq.read_schema(whole))
    assert parts.to_pylist() == pq.read_table(whole).to_pylist()


def test_its_facts_are_of_both_parts(both):
    parts, whole = facts_of(both.table), facts_of(Path(both.table).with_name("whole.parquet"))
    assert parts.pop("command") == "one; two"
    assert whole.pop("command") == "all"
    # 0.2: each of the three sums is rounded to a tenth.
    for key in ("wall_seconds", "cpu_seconds"):
        assert parts.pop(key) == pytest.approx(whole.pop(key), abs=0.2)
    assert parts == whole
    assert (parts["cells"], parts["runs"]) == (3, 3)


def test_a_part_made_again_replaces_its_rows_and_is_counted_once(both, tmp_path):
    before, table = facts_of(both.table), tmp_path / "again.parquet"
    table.write_bytes(Path(both.table).read_bytes())
    again = replace(both, parts=("second",), table=str(table))
    _ = run_sweep(again, command="two")
    assert pq.read_table(table).to_pylist() == pq.read_table(both.table).to_pylist()
    after = facts_of(table)
    # Of three runs one stays, and the seconds of all three are its share and those of two.
    share = before["cpu_seconds"] / 3
    made = sum(
        json.loads(record_path(Path(both.output), cell.run).read_bytes())["cpu_seconds"]
        for cell in expand(again)
    )
    assert after["cpu_seconds"] == pytest.approx(share + made, abs=0.2)
    assert (after["runs"], after["command"]) == (3, "one; two; two")


def test_a_failed_run_of_another_part_stays_named(both, tmp_path):
    table = tmp_path / "failed.parquet"
    stored, facts = pq.read_table(both.table), facts_of(both.table)
    name = "listed forward_kl 1x16 fast default 0"
    facts["failed"] = {name: "it fell over"}
    rest = stored.filter([each != name for each in stored["cell"].to_pylist()])
    pq.write_table(rest.replace_schema_metadata({METADATA_KEY: json.dumps(facts)}), table)
    _ = run_sweep(replace(both, parts=("second",), table=str(table)), command="two")
    assert facts_of(table)["failed"] == {name: "it fell over"}
    assert facts_of(table)["cells"] == 3


def test_nothing_is_kept_where_all_is_made(both):
    cells = expand(both)
    assert kept_parts(both, cells) is None
    part = replace(both, parts=("first", "second"))
    assert kept_parts(part, cells) is None
    missing = replace(both, parts=("first",), table=str(Path(both.table).with_name("no.parquet")))
    assert kept_parts(missing, expand(missing)) is None


def test_a_run_that_the_sweep_does_not_describe_any_more_is_not_mixed_with_others(both):
    folder = Path(both.table).parent
    changed = sweep_of(folder, "first", run={"steps": 4})
    with pytest.raises(UsageError, match="such as listed rl_kl 1x16 fast default 0: make their"):
        require_outputs(changed)
    gone = sweep_of(folder, "first", blocks=[BLOCKS[0], tiny_block(part="second", seeds=[7])])
    with pytest.raises(UsageError, match="does not describe any more"):
        require_outputs(gone)
    # All parts are made again, and nothing old is beside them.
    require_outputs(sweep_of(folder, "first", "second", run={"steps": 4}))
    with pytest.raises(UsageError, match="holds the sweep 'tiny', not 'other'"):
        require_outputs(sweep_of(folder, "first", name="other"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: 3, "cannot be read"),
        (lambda facts: {k: v for k, v in facts.items() if k != "commits"}, "it has no commits"),
        (lambda facts: {**facts, "cpu_seconds": "long"}, "it has no cpu_seconds"),
    ],
)
def test_a_table_that_cannot_be_kept_is_told_of_before_anything_runs(both, tmp_path, change, words):
    table = tmp_path / "damaged.parquet"
    said = {METADATA_KEY: json.dumps(change(facts_of(both.table)))}
    pq.write_table(pq.read_table(both.table).replace_schema_metadata(said), table)
    with pytest.raises(UsageError, match=words):
        require_outputs(replace(both, parts=("first",), table=str(table)))
    fewer = pq.read_table(both.table).drop_columns(["z"])
    pq.write_table(fewer, table)
    with pytest.raises(UsageError, match="it has no z"):
        require_outputs(replace(both, parts=("first",), table=str(table)))


def test_a_run_whose_rate_is_not_here_is_kept(both):
    blocks = [BLOCKS[0], tiny_block(part="second", rates=["fast"], seeds=[0, 1], methods=["rl_kl"])]
    rates = {"fast": {"value": None, "file": "not/chosen/yet.yaml"}, "own": {"value": 1e-3}}
    blocks[0] = tiny_block(part="first", rates=["own"], methods=["jensen_shannon"])
    sweep = sweep_of(Path(both.table).parent, "first", blocks=blocks, rates=rates)
    names = [f"listed rl_kl 1x16 fast default {seed}" for seed in (0, 1)]
    assert runs_now(sweep, names) == dict.fromkeys(names)


@pytest.mark.slow
def test_the_command_refuses_before_it_runs(both, tmp_path, capsys):
    plain = plain_sweep(tmp_path, blocks=BLOCKS, table=both.table, run={"steps": 4})
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(plain))
    assert main(["sweep", str(file), "--parts", "[first]"]) == 2
    assert "name another file (--table)" in capsys.readouterr().err
