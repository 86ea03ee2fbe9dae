"""How a claim is written: right above the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fdpg_ref import DIVERGENCES, FDivergence
from toy.verify.records import EXACT, Comparison, Record, record

Measure = Callable[..., Comparison]
Predicted = str | Callable[[str], str]
Problems = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Claim:
    """One statement, and how it is measured.

    Attributes
    ----------
    fact, statement, estimator, divergence, test_id
        As in `Record`.
    compare : callable
        From a problem to a comparison; from a problem and a divergence if there is a ``where``.
    problems : callable
        Returns the problems.
    claimed : str or callable
        The predicted verdict, or a function from the name of a divergence to it.
    where : callable or None
        Which divergences the claim is about, one record for each; None for a single record.
    """

    fact: str
    statement: str
    estimator: str | None
    compare: Measure
    problems: Problems
    test_id: str
    claimed: Predicted
    divergence: str | None = None
    where: Callable[[FDivergence], bool] | None = None

    def predicted(self, name: str) -> str:
        """Return the predicted verdict for a divergence."""
        return self.claimed if isinstance(self.claimed, str) else self.claimed(name)

    def records(self) -> Iterator[Record]:
        """Measure the claim on every problem and yield its records."""
        problems = self.problems()
        if self.where is None:
            yield self._record(self.divergence, [self.compare(one) for one in problems])
            return
        for name, divergence in DIVERGENCES.items():
            if self.where(divergence):
                yield self._record(name, [self.compare(one, divergence) for one in problems])

    def _record(self, divergence: str | None, comparisons: list[Comparison]) -> Record:
        return record(
            self.fact,
            self.statement,
            comparisons,
            claimed=self.predicted(divergence or ""),
            divergence=divergence,
            estimator=self.estimator,
            test_id=self.test_id,
        )


class Claims:
    """The claims of one module, in the order in which they are written.

    Parameters
    ----------
    tests : str
        The file of the tests that guard them.
    problems : callable
        Returns the problems on which they are measured.
    test : str
        The test of a claim that names no other.
    """

    def __init__(self, tests: str, problems: Problems, *, test: str = "") -> None:
        self._tests, self._problems, self._test = tests, problems, test
        self.listed: list[Claim] = []

    def once(
        self,
        fact: str,
        statement: str,
        estimator: str | None = None,
        *,
        test: str = "",
        claimed: str = EXACT,
        divergence: str | None = None,
        problems: Problems | None = None,
    ) -> Callable[[Measure], Measure]:
        """Decorate a function of a problem: one record."""
        about = {"claimed": claimed, "divergence": divergence, "where": None}
        return self._add(fact, statement, estimator, test=test, problems=problems, **about)

    def each(
        self,
        fact: str,
        statement: str,
        estimator: str | None = None,
        *,
        test: str = "",
        claimed: Predicted = EXACT,
        where: Callable[[FDivergence], bool] = lambda divergence: True,
        problems: Problems | None = None,
    ) -> Callable[[Measure], Measure]:
        """Decorate a function of a problem and a divergence: one record per divergence."""
        about = {"claimed": claimed, "divergence": None, "where": where}
        return self._add(fact, statement, estimator, test=test, problems=problems, **about)

    def records(self) -> Iterator[Record]:
        """Measure every claim and yield its records."""
        for claim in self.listed:
            yield from claim.records()

    def _add(
        self, *what: str | None, test: str, problems: Problems | None, **about: Any
    ) -> Callable[[Measure], Measure]:
        def add(compare: Measure) -> Measure:
            about["problems"] = problems or self._problems
            about["test_id"] = f"{self._tests}::{test or self._test}"
            fact, statement, estimator = what
            self.listed.append(Claim(str(fact), str(statement), estimator, compare, **about))
            return compare

        return add
