"""The list of mutants stays applicable: a stale one would be noticed only in CI's slow tier."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from mutants import MUTANTS
from mutation import ROOT, occurrences


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.why}")
def test_the_mutated_text_stands_once_in_its_file_and_still_parses(mutant):
    assert occurrences(mutant) == 1
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = ast.parse(source.replace(mutant.before, mutant.after))
    assert ast.dump(changed) != ast.dump(ast.parse(source))


def test_mutants_are_many_and_spread():
    """At least 25, over at least ten files, a third of them in lm, each with its own reason."""
    files = Counter(mutant.file for mutant in MUTANTS)
    assert files.total() >= 25
    assert len(files) >= 10
    assert sum(n for file, n in files.items() if file.startswith("lm/")) >= files.total() / 3
    assert len({(mutant.file, mutant.why) for mutant in MUTANTS}) == len(MUTANTS)
