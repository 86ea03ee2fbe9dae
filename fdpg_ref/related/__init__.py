"""Estimators and losses of related papers, none of which the training loops here use.

`rejection` makes exact samples between a proposal and the target, `control_variates` estimates the
value of a divergence with less variance, `trajectory_balance` has losses that any samples may
descend, and `conventions` converts the parameters of papers and libraries into those used here.
``python -m toy verify`` holds each of them against enumeration.
"""

from fdpg_ref.related.control_variates import (
    controlled_terms,
    optimal_control_weight,
    per_prefix_kl,
)
from fdpg_ref.related.rejection import QuasiRejection, quasi_rejection
from fdpg_ref.related.trajectory_balance import log_ratio_penalty, vargrad_loss

__all__ = [
    "QuasiRejection",
    "controlled_terms",
    "log_ratio_penalty",
    "optimal_control_weight",
    "per_prefix_kl",
    "quasi_rejection",
    "vargrad_loss",
]
