"""The verification: every claim of the theory, measured by exact enumeration.

``run_claims`` returns one record per claim, divergence and estimator. Nothing in it is sampled and
no verdict is stored; `toy.verify.report.table` prints the records and writes them as JSON.
"""

from __future__ import annotations

from toy.verify import measurement
from toy.verify.claims import (
    balance,
    compositions,
    control,
    families,
    gradient_table,
    moments,
    partition,
    penalties,
    sampling,
    targets,
    theorem,
    values,
)
from toy.verify.records import Record
from toy.verify.token_claims import sequences, teacher, tokens

__all__ = ["Record", "run_claims"]

# In the order of the theory.
_MODULES = (
    *(
        gradient_table,
        theorem,
        partition,
        moments,
        compositions,
        sampling,
        penalties,
        values,
        control,
    ),
    *(measurement, targets, families, sequences, tokens, balance, teacher),
)


def run_claims() -> list[Record]:
    """Measure every claim and return the records, in the order of the theory.

    Returns
    -------
    list of Record
        One per claim, divergence and estimator. ``record.holds`` says whether the measured verdict
        is the claimed one.
    """
    records = [record for module in _MODULES for record in module.CLAIMS.records()]
    return [*records, *penalties.dictionary_records()]
