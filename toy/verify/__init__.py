"""The verification: every claim of the theory, measured by exact enumeration.

``run_claims`` returns one record a claim, divergence and estimator. Nothing in it is sampled and no
verdict is stored; `toy.verify.report.table` prints the records and writes them as JSON.
"""

from __future__ import annotations

from toy.verify.claims.balance import balance_records
from toy.verify.claims.compositions import composition_records
from toy.verify.claims.control import control_records
from toy.verify.claims.families import family_records
from toy.verify.claims.gradient_table import GRADIENT_CLAIMS
from toy.verify.claims.moments import moment_records
from toy.verify.claims.partition import partition_records
from toy.verify.claims.penalties import penalty_records
from toy.verify.claims.sampling import sampling_records
from toy.verify.claims.targets import target_records
from toy.verify.claims.theorem import theorem_records
from toy.verify.claims.values import value_records
from toy.verify.gradients import measure
from toy.verify.records import Record
from toy.verify.token_claims.sequences import sequence_records
from toy.verify.token_claims.teacher import teacher_records
from toy.verify.token_claims.tokens import prefix_records, token_records

__all__ = ["Record", "run_claims"]


def run_claims() -> list[Record]:
    """Measure every claim and return the records, in the order of the theory.

    Returns
    -------
    list of Record
        One a claim, divergence and estimator. ``record.holds`` says whether the measured verdict
        is the claimed one.
    """
    records = [record for claim in GRADIENT_CLAIMS for record in measure(claim)]
    for rest in (
        theorem_records,
        partition_records,
        moment_records,
        composition_records,
        sampling_records,
        penalty_records,
        value_records,
        control_records,
        target_records,
        family_records,
        sequence_records,
        token_records,
        prefix_records,
        balance_records,
        teacher_records,
    ):
        records += rest()
    return records
