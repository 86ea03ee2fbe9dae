"""f-DPG, the estimator core: pure functions over any Array-API array.

    signal = score_signal(log_policy, log_score - log_z, divergence=JENSEN_SHANNON)
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))

The gradient of D_f(pi||p) is the mean of ``coefficients`` times grad log pi. Nothing here
differentiates, draws, reads a file or creates an array library: arrays in, arrays out.
"""

from fdpg_ref._internal.checks import (
    InfiniteDivergence,
    MultipliersNotConverged,
    UnattainableMoments,
)
from fdpg_ref.baselines import (
    RunningBaseline,
    batch_mean,
    init_running_baseline,
    leave_one_out,
    optimal_baseline,
    update_running_baseline,
)
from fdpg_ref.diagnostics import (
    Estimate,
    effective_sample_size,
    largest_share,
    mean_and_standard_error,
    relative_standard_error,
)
from fdpg_ref.divergences import (
    DIVERGENCES,
    FORWARD_KL,
    JEFFREYS,
    JENSEN_SHANNON,
    LE_CAM,
    NEYMAN_CHI2,
    PEARSON_CHI2,
    REVERSE_KL,
    SQUARED_HELLINGER,
    TOTAL_VARIATION,
    FDivergence,
    alpha_divergence,
    dual,
    find_divergence,
    from_curvature,
    from_generator,
    skew_jensen_shannon,
)
from fdpg_ref.estimators import (
    divergence_terms,
    estimate_divergence,
    exact_divergence,
    exact_divergence_from_probabilities,
    group_coefficients,
    score_coefficients,
    score_signal,
)
from fdpg_ref.numerics import log_mean_exp, log_ratio, log_softmax, logsumexp
from fdpg_ref.partition import (
    PartitionState,
    exact_log_partition,
    importance_log_partition,
    init_partition,
    leave_one_out_log_partition,
    update_partition,
)
from fdpg_ref.targets import (
    MultiplierFit,
    constrained,
    exponential_family,
    fit_multipliers,
    reward_tilted,
)
from fdpg_ref.weights import (
    forward_kl_gain,
    self_normalised_log_weights,
    truncated_log_weights,
)

__all__ = [
    "DIVERGENCES",
    "FORWARD_KL",
    "JEFFREYS",
    "JENSEN_SHANNON",
    "LE_CAM",
    "NEYMAN_CHI2",
    "PEARSON_CHI2",
    "REVERSE_KL",
    "SQUARED_HELLINGER",
    "TOTAL_VARIATION",
    "Estimate",
    "FDivergence",
    "InfiniteDivergence",
    "MultiplierFit",
    "MultipliersNotConverged",
    "PartitionState",
    "RunningBaseline",
    "UnattainableMoments",
    "alpha_divergence",
    "batch_mean",
    "constrained",
    "divergence_terms",
    "dual",
    "effective_sample_size",
    "estimate_divergence",
    "exact_divergence",
    "exact_divergence_from_probabilities",
    "exact_log_partition",
    "exponential_family",
    "find_divergence",
    "fit_multipliers",
    "forward_kl_gain",
    "from_curvature",
    "from_generator",
    "group_coefficients",
    "importance_log_partition",
    "init_partition",
    "init_running_baseline",
    "largest_share",
    "leave_one_out",
    "leave_one_out_log_partition",
    "log_mean_exp",
    "log_ratio",
    "log_softmax",
    "logsumexp",
    "mean_and_standard_error",
    "optimal_baseline",
    "relative_standard_error",
    "reward_tilted",
    "score_coefficients",
    "score_signal",
    "self_normalised_log_weights",
    "skew_jensen_shannon",
    "truncated_log_weights",
    "update_partition",
    "update_running_baseline",
]
