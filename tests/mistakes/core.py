"""Mistakes in the kernels, the table, the estimators and the targets of the core."""

from __future__ import annotations

from mutation import Mutant

NUMERICS, ESTIMATORS, PARTITION = (
    f"fdpg_ref/{name}.py" for name in ("numerics", "estimators", "partition")
)
GRADIENT = "core/test_estimators.py::test_mean_coefficient_times_score_is_the_gradient"
DENSITY = "core/test_divergences.py::test_density_is_the_generator_weighted_by_the_target"
SIGNAL = "core/test_divergences.py::test_signal_is_the_derivative_of_f_less_its_value_at_one"
EDGES = "core/test_divergences.py::test_density_at_the_edges"
SLOW_PARTITION = "core/test_partition.py::test_importance_and_leave_one_out_are_slow_loops"

MUTANTS = [
    Mutant(
        NUMERICS,
        '''as -expm1(-u)."""
    return -expm1(-u)''',
        '''as -expm1(-u)."""
    return expm1(u)''',
        "forward KL with the signal of Pearson's direction",
        (SIGNAL,),
    ),
    Mutant(
        NUMERICS,
        "return -expm1(-2 * u)",
        "return -expm1(-u) * 2",
        "Neyman's signal as twice forward KL's",
        (GRADIENT,),
    ),
    Mutant(
        NUMERICS,
        "return larger * -expm1(-a) / 2",
        "return larger * -expm1(-a)",
        "total variation without its half",
        (DENSITY,),
    ),
    Mutant(
        NUMERICS,
        "close, larger * h + smaller * (h - a)) / 2",
        "close, larger * h + smaller * (h - a))",
        "the paper's Jensen-Shannon, twice the textbook one",
        (DENSITY,),
    ),
    Mutant(
        NUMERICS,
        "return w * (2 - w)",
        "return w * (2 + w)",
        "Le Cam's signal mirrored",
        (SIGNAL,),
    ),
    Mutant(
        NUMERICS,
        "return forward_kl_density(p, q)",
        "return forward_kl_density(q, p)",
        "reverse KL that is forward KL",
        (DENSITY,),
    ),
    Mutant(
        NUMERICS,
        "target * _phi_series(inner), ",
        "target * (xp.exp(inner) - 1 - inner), ",
        "k3 as exp(x) - 1 - x: nothing is left of it near zero",
        ("core/test_ulp.py::test_worst_ulp_of_the_nine_divergences",),
    ),
    Mutant(
        NUMERICS,
        "u = xp.log1p((bounded - p) / p) + (xp.log(q) - xp.log(bounded))",
        "u = xp.log(q) - xp.log(p)",
        "a difference of two rounded logarithms",
        ("core/test_numerics.py::test_log_ratio_of_neighbouring_floats_does_not_cancel",),
    ),
    Mutant(
        NUMERICS,
        "keepdims=keepdims) - log(x.shape[axis])",
        "keepdims=keepdims) - log(x.shape[axis] - 1)",
        "log of n - 1 in place of log n",
        (SLOW_PARTITION,),
    ),
    Mutant(
        "fdpg_ref/_record.py",
        "edge = edge + _edge_mass(xp, xp.minimum(log_policy, limit), slope_at_infinity)",
        "edge = edge + _edge_mass(xp, xp.minimum(log_policy, limit), value_at_zero)",
        "the price of missing mass charged for mass outside",
        (EDGES,),
    ),
    Mutant(
        "fdpg_ref/_record.py",
        "return xp.where(log_mass > -inf, xp.full_like(mass, inf), mass)",
        "return xp.full_like(mass, inf)",
        "an outcome that neither can draw has an infinite price",
        (EDGES,),
    ),
    Mutant(
        "fdpg_ref/_record.py",
        "return xp.where(log_mass > -inf, xp.full_like(mass, inf), mass)",
        "return mass * inf",
        "0 * inf: NaN gradients at the edges",
        (
            "core/test_autograd.py::test_density_gradients_at_every_kind_of_edge_are_never_nan",
            EDGES,
        ),
    ),
    Mutant(
        "fdpg_ref/divergences.py",
        '_EXCHANGED = {"forward_kl": REVERSE_KL, "pearson_chi2": NEYMAN_CHI2}',
        '_EXCHANGED = {"forward_kl": REVERSE_KL}',
        "the chi-squared divergences as their own duals",
        ("core/test_divergences.py::test_dual_is_an_involution_and_follows_the_textbook",),
    ),
    Mutant(
        "fdpg_ref/divergences.py",
        "else -1 - divergence.z_power",
        "else divergence.z_power",
        "the dual keeps the power of Z of the divergence itself",
        (
            "core/test_divergences.py::test_an_error_of_z_scales_the_signal_by_its_power_or_by_nothing",
        ),
    ),
    Mutant(
        "fdpg_ref/_record.py",
        "return self.value_at_zero + self.slope_at_infinity",
        "return max(self.value_at_zero, self.slope_at_infinity)",
        "the upper bound forgets one of the two prices",
        ("core/test_divergences.py::test_the_upper_bound_is_that_of_two_laws_that_share_nothing",),
    ),
    Mutant(
        ESTIMATORS,
        "u = xp.where(excluded, zero, log_policy) - xp.where(excluded, zero, log_target)",
        "u = xp.where(excluded, zero, log_target) - xp.where(excluded, zero, log_policy)",
        "the log-ratio upside down",
        (GRADIENT,),
    ),
    Mutant(
        ESTIMATORS,
        "outside = xp.full_like(log_policy, divergence.slope_at_infinity)",
        "outside = xp.full_like(log_policy, divergence.value_at_zero)",
        "the dual's price outside the target",
        ("core/test_estimators.py::test_signal_outside_the_target_is_the_slope_at_infinity",),
    ),
    Mutant(
        ESTIMATORS,
        "log_z = estimate(log_score_ratio + weights, on_policy)",
        "log_z = estimate(log_score_ratio, on_policy)",
        "Z of a group from samples of another sampler without their weights",
        ("core/test_groups.py::test_groups_are_the_pieces_one_by_one",),
    ),
    Mutant(
        ESTIMATORS,
        "return xp.take(xp.concat(found), back)",
        "return xp.concat(found)",
        "the coefficients of interleaved prompts handed out in the order of the groups",
        ("core/test_groups.py::test_groups_are_the_pieces_one_by_one",),
    ),
    Mutant(
        ESTIMATORS,
        "mute = massless & (isinstance(log_z, str) or isinstance(baseline, str))",
        "mute = massless",
        "groups without mass dropped where their price is a term of the gradient",
        (
            "core/test_groups.py::test_without_a_baseline_of_the_group_what_is_outside_costs_its_price",
        ),
    ),
    Mutant(
        ESTIMATORS,
        "centred = signal - baseline",
        "centred = signal + baseline",
        "the baseline added: unbiased if constant, and twice the noise",
        ("core/test_estimators.py::test_leave_one_out_is_unbiased_over_all_batches",),
    ),
    Mutant(
        ESTIMATORS,
        "return xp.where(impossible, zero, weights * xp.where(impossible, zero, centred))",
        "return xp.where(impossible, zero, xp.where(impossible, zero, centred))",
        "stale samples without importance weights",
        ("core/test_estimators.py::test_importance_weights_make_any_proposal_exact",),
    ),
    Mutant(
        ESTIMATORS,
        "u = log_ratio(policy, target) - shift",
        "u = log_ratio(policy, target) + 0 * shift",
        "the mass mismatch left in",
        ("core/test_numerics.py::test_nearly_equal_distributions_from_probabilities",),
    ),
    Mutant(
        ESTIMATORS,
        "return divergence.density(log_policy - log_proposal, log_target - log_proposal)",
        "return divergence.density(log_policy, log_target)",
        "a sampled divergence that forgot where its samples came from",
        ("core/test_estimators.py::test_divergence_terms_are_unbiased_and_nonnegative",),
    ),
    Mutant(
        "fdpg_ref/baselines.py",
        "return (xp.sum(signal, axis=-1, keepdims=True) - signal) / (n - 1)",
        "return xp.sum(signal, axis=-1, keepdims=True) / n + 0 * signal",
        "the batch mean for the leave-one-out mean: (n-1)/n of the gradient",
        ("core/test_estimators.py::test_leave_one_out_is_unbiased_over_all_batches",),
    ),
    Mutant(
        "fdpg_ref/baselines.py",
        "(batch / (past + batch))",
        "(past / (past + batch))",
        "the running mean weights the wrong side",
        ("core/test_estimators.py::test_running_baseline_is_the_mean_of_the_past",),
    ),
    Mutant(
        "fdpg_ref/diagnostics.py",
        "spread = xp.std(values, axis=-1, correction=1)",
        "spread = xp.std(values, axis=-1, correction=0)",
        "the standard error of a known mean",
        ("core/test_estimators.py::test_mean_and_standard_error_by_hand",),
    ),
    Mutant(
        "fdpg_ref/diagnostics.py",
        "return xp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))",
        "return xp.exp(logsumexp(log_weights) - xp.max(log_weights, axis=-1))",
        "sum w / max w sold as the effective sample size",
        ("core/test_estimators.py::test_diagnostics_are_slow_loops_and_ignore_the_scale",),
    ),
    Mutant(
        PARTITION,
        "return xp.where(is_largest, peers_of_largest, others) - log(n - 1)",
        "return xp.where(is_largest, peers_of_largest, others) - log(n)",
        "n - 1 peers divided by n",
        (SLOW_PARTITION,),
    ),
    Mutant(
        PARTITION,
        "return xp.where(is_largest, peers_of_largest, others) - log(n - 1)",
        "return others - log(n - 1)",
        "a dominating weight among its own peers",
        ("core/test_partition.py::test_leave_one_out_with_one_dominating_weight",),
    ),
    Mutant(
        PARTITION,
        "return log_score - log_proposal",
        "return log_score + log_proposal",
        "importance weights multiplied by q",
        ("core/test_partition.py::test_the_importance_estimate_has_expectation_z",),
    ),
    Mutant(
        PARTITION,
        "past = state.weight * checks.plain_number(forgetting)",
        "past = state.weight",
        "a forgetting factor that forgets nothing",
        ("core/test_partition.py::test_forgetting_discounts_the_past_by_its_weight",),
    ),
    Mutant(
        "fdpg_ref/targets.py",
        "return log_base + reward / checks.plain_number(beta)",
        "return log_base + reward * checks.plain_number(beta)",
        "the penalty's strength the wrong way up",
        ("core/test_targets.py::test_reward_tilted_divides_by_beta",),
    ),
    Mutant(
        "fdpg_ref/_internal/newton.py",
        "if bool(xp.max(height) <= 0) and bool(xp.min(height) < 0):",
        "if False:",
        "moments on a face: Newton runs off to infinity",
        ("core/test_targets.py::test_unattainable_moments_are_a_named_error",),
    ),
    Mutant(
        "fdpg_ref/_internal/checks.py",
        "if type(x) not in (int, float)}",
        "if not isinstance(x, (int, float))}",
        "a numpy scalar passes for a Python number and its dtype unseen",
        ("core/test_checks.py::test_running_states_check_the_new_batch",),
    ),
    Mutant(
        "fdpg_ref/families.py",
        "return alpha / (alpha - 1)",
        "return alpha / (1 - alpha)",
        "the middle node of negative alphas on the wrong side",
        ("core/test_families.py::test_alpha_is_its_textbook_formula",),
    ),
    Mutant(
        "fdpg_ref/families.py",
        "_log_mixture(-u, weight, 1 - weight),",
        "_log_mixture(-u, 1 - weight, weight),",
        "skew Jensen-Shannon's signal with the weights of its dual",
        ("core/test_families.py::test_skew_jensen_shannon_is_its_textbook_formula",),
    ),
    Mutant(
        "fdpg_ref/related/control_variates.py",
        "return -covariance /",
        "return covariance /",
        "a control variate with the wrong sign",
        ("core/test_theory.py::test_optimal_control_weight_has_the_least_variance",),
    ),
    Mutant(
        "fdpg_ref/related/trajectory_balance.py",
        "/ (2 * (n - 1))",
        "/ (2 * n)",
        "VarGrad with the biased variance",
        ("core/test_theory.py::test_vargrad_is_reverse_kl_with_a_leave_one_out_baseline",),
    ),
    Mutant(
        "fdpg_ref/weights.py",
        "return log_weights - log_mean_exp(",
        "return log_weights + log_mean_exp(",
        "weights multiplied by their mean",
        ("core/test_theory.py::test_self_normalised_weights_average_to_one_at_any_scale",),
    ),
    Mutant(
        "fdpg_ref/related/rejection.py",
        "log_acceptance = log_capped - log_beta",
        "log_acceptance = log_weights - log_beta",
        "acceptance probabilities above one",
        ("core/test_theory.py::test_quasi_rejection_between_proposal_and_target",),
    ),
    Mutant(
        "fdpg_ref/_internal/checks.py",
        "return float(x) if isinstance(x, float) else x",
        "return x",
        "a numpy number that makes a float32 batch float64",
        ("core/test_checks.py::test_a_parameter_of_numpy_widens_no_array",),
    ),
]
