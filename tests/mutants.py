"""Deliberate mistakes that the tests must notice: ``python tests/mutants.py`` proves that they do.

Each is a mistake that somebody makes: a sign, a direction, a swapped dual, a missing weight or
detach, a factor of two, a mask off by one, a dropped end token, a mean for a leave-one-out mean.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

import mistakes.study
from mutation import (
    OUT_OF_TIME,
    ROOT,
    Mutant,
    Result,
    check_unmutated,
    occurrences,
    try_mutant,
    worker_pool,
)
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

NUMERICS, ESTIMATORS, PARTITION = (
    f"fdpg_ref/{name}.py" for name in ("numerics", "estimators", "partition")
)
GRADIENT = "core/test_estimators.py::test_mean_coefficient_times_score_is_the_gradient"
DENSITY = "core/test_divergences.py::test_density_is_the_generator_weighted_by_the_target"
SIGNAL = "core/test_divergences.py::test_signal_is_the_derivative_of_f_less_its_value_at_one"
EDGES = "core/test_divergences.py::test_density_at_the_edges"
SLOW_PARTITION = "core/test_partition.py::test_importance_and_leave_one_out_are_slow_loops"

MUTANTS = [
    # ------------------------------------------------------------------ fdpg_ref: kernels
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
    # ------------------------------------------------------------------ fdpg_ref: the table
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
    # ------------------------------------------------------------------ fdpg_ref: estimators
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
    # ------------------------------------------------------------------ fdpg_ref: Z and targets
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
        "past = state.weight * forgetting",
        "past = state.weight",
        "a forgetting factor that forgets nothing",
        ("core/test_partition.py::test_forgetting_discounts_the_past_by_its_weight",),
    ),
    Mutant(
        "fdpg_ref/targets.py",
        "return log_base + reward / beta",
        "return log_base + reward * beta",
        "the penalty's strength the wrong way up",
        ("core/test_targets.py::test_reward_tilted_divides_by_beta",),
    ),
    Mutant(
        "fdpg_ref/_newton.py",
        "if bool(xp.max(height) <= 0) and bool(xp.min(height) < 0):",
        "if False:",
        "moments on a face: Newton runs off to infinity",
        ("core/test_targets.py::test_unattainable_moments_are_a_named_error",),
    ),
    Mutant(
        "fdpg_ref/_checks.py",
        "if type(x) not in (int, float)}",
        "if not isinstance(x, (int, float))}",
        "a numpy scalar passes for a Python number and its dtype unseen",
        ("core/test_checks.py::test_running_states_check_the_new_batch",),
    ),
    # ------------------------------------------------------------------ lm
    Mutant(
        "lm/surrogate.py",
        "return (coefficients.detach() * log_policy).mean()",
        "return (coefficients * log_policy).mean()",
        "coefficients not detached",
        ("lm/test_surrogate.py::test_coefficients_that_require_grad_are_detached",),
    ),
    Mutant(
        "lm/surrogate.py",
        "return (coefficients.detach() * log_policy).mean()",
        "return -(coefficients.detach() * log_policy).mean()",
        "a doubly negated loss: it ascends",
        ("lm/test_surrogate.py::test_gradient_is_the_mean_of_coefficients_times_scores",),
    ),
    Mutant(
        "lm/surrogate.py",
        "return (coefficients.detach() * log_policy).mean()",
        "return (coefficients.detach() * log_policy).sum()",
        "a sum in place of the mean",
        ("lm/test_surrogate.py::test_gradient_is_the_mean_of_coefficients_times_scores",),
    ),
    Mutant(
        "lm/policy/causal/scoring.py",
        "return log_probs.where(mask, 0.0)",
        "return log_probs.where(tokens != 0, 0.0)",
        "a mask from the padding id: the end token is lost or padding is scored",
        ("lm/test_enumerated.py::test_all_sequences_have_total_probability_one",),
    ),
    Mutant(
        "lm/policy/causal/scoring.py",
        "torch.cat([prompts.tokens, read], dim=-1)",
        "torch.cat([prompts.tokens[:, 1:], tokens], dim=-1)",
        "each token scored as if it had already been read",
        ("lm/test_enumerated.py::test_log_prob_is_the_chain_rule_written_out",),
    ),
    Mutant(
        "lm/policy/causal/scoring.py",
        "return torch.cat(scores)[torch.argsort(torch.cat(orders))][place]",
        "return torch.cat(scores)[place]",
        "scores in the order of length, not of the samples",
        ("lm/test_enumerated.py::test_log_prob_is_the_chain_rule_written_out",),
    ),
    Mutant(
        "lm/policy/causal/sampling.py",
        "law = transformed_log_probs(lines.next_logits(), transform)",
        "law = transformed_log_probs(lines.next_logits() / 0.7, transform)",
        "a temperature in sampling that scoring does not know",
        ("lm/test_enumerated.py::test_samples_occur_as_often_as_the_scorer_says",),
    ),
    Mutant(
        "lm/models/completions.py",
        "return ends.cumsum(-1) - ends == 0",
        "return ends.cumsum(-1) == 0",
        "the end token dropped from the mask",
        ("lm/test_enumerated.py::test_the_samplers_log_prob_is_the_scorers",),
    ),
    Mutant(
        "lm/policy/causal/sampling.py",
        "chosen = torch.searchsorted(cumulative, thresholds, right=True).squeeze(-1)",
        "chosen = torch.searchsorted(cumulative, thresholds).squeeze(-1)",
        "a uniform of exactly zero draws an impossible token",
        ("lm/test_policy.py::test_inverse_cdf_takes_the_token_whose_interval_holds_the_uniform",),
    ),
    Mutant(
        "lm/policy/transforms.py",
        "return torch.log_softmax(logits, dim=-1, dtype=widened(logits.dtype))",
        "return torch.log_softmax(logits, dim=-1).to(widened(logits.dtype))",
        "half precision widened after the log-softmax",
        ("lm/test_policy.py::test_half_precision_weights_give_float32_log_probs",),
    ),
    Mutant(
        "lm/models/adapter.py",
        "requires_grad_(not adapted or ADAPTER_MARK in name)",
        "requires_grad_(False)",
        "a trainable copy that does not train",
        ("lm/test_policy.py::test_copies_are_independent_and_say_whether_they_train",),
    ),
    Mutant(
        "lm/target/listed.py",
        "return log_prob.exp() @ self.features",
        "return torch.softmax(log_prob, -1) @ self.features",
        "moments renormalised over the list: unlisted mass forgotten",
        ("lm/test_listed.py::test_moments_are_sums_over_the_list",),
    ),
    Mutant(
        "lm/target/listed.py",
        "torch.log(-torch.expm1(log_mass.clamp(max=0.0)))",
        "log_mass.clamp(max=0.0)",
        "the remainder given the mass of the list",
        ("lm/test_listed.py::test_the_remainder_completes_the_list_to_one",),
    ),
    Mutant(
        "lm/features/text.py",
        "return listed(texts) - female(texts)",
        "return 1.0 - female(texts)",
        "every unlisted text counted as male",
        ("lm/test_census.py::test_features_that_live_on_the_list_vanish_off_it",),
    ),
    Mutant(
        "lm/models/vocabulary.py",
        "tokens[row, : len(letters) + 1] = torch.tensor([*letters, self.eos_id])",
        "tokens[row, : len(letters)] = torch.tensor(letters)",
        "listed names scored without their end",
        ("lm/test_census.py::test_the_vocabulary_has_29_ids_and_round_trips_every_name",),
    ),
    Mutant(
        "lm/target/targets.py",
        "return constrained(log_base, (features != 0).all(-1))",
        "return constrained(log_base, (features == 0).all(-1))",
        "the constraint inside out",
        ("lm/test_targets.py::test_a_hard_constraint_excludes_everything_else",),
    ),
    Mutant(
        "lm/target/targets.py",
        "return reward_tilted(log_base, (features * weights).sum(-1), beta=config.beta)",
        "return reward_tilted(log_base, -(features * weights).sum(-1), beta=config.beta)",
        "the reward turned into a cost",
        ("lm/test_targets.py::test_exact_z_and_moments_are_those_of_a_slow_loop",),
    ),
    Mutant(
        "lm/target/partition.py",
        "return self._log_z.to(log_score)",
        "return -self._log_z.to(log_score)",
        "the sign of log Z",
        ("lm/test_targets.py::test_z_before_the_batch_agrees_with_the_exact_sum",),
    ),
    Mutant(
        "lm/target/partition.py",
        'if self.policy == "leave_one_out":',
        'if self.policy == "same_batch":',
        "leave-one-out and same-batch Z exchanged",
        ("lm/test_targets.py::test_the_status_of_a_run_is_what_all_batches_say",),
    ),
    Mutant(
        "lm/evaluation/statistics.py",
        "torch.where(base_listed, zero, base_terms), ",
        "base_terms, ",
        "listed samples counted twice: exactly and in the sampled rest",
        (
            "lm/test_metrics.py::"
            "test_split_sums_are_the_divergence_when_samples_are_the_distribution",
        ),
    ),
    Mutant(
        "lm/training/baseline.py",
        "return leave_one_out(signal)",
        "return signal.mean(-1, keepdim=True)",
        "the batch mean as a baseline in the training loop",
        (
            "lm/test_train.py::"
            "test_the_core_fires_in_every_step_and_its_coefficients_are_what_descends",
        ),
    ),
    # ------------------------------------------------------------------ toy
    Mutant(
        "toy/train.py",
        "signal, baseline=leave_one_out(signal), log_weights=log_policy - log_proposal",
        "signal, baseline=leave_one_out(signal)",
        "off-policy training without importance weights",
        ("toy/test_train.py::test_sampled_gradients_scatter_about_the_exact_one",),
    ),
    Mutant(
        "toy/categorical.py",
        "return np.where(identity, np.sum(others, axis=-1, keepdims=True), -others)",
        "return np.where(identity, np.sum(others, axis=-1, keepdims=True), others)",
        "the score of the outcomes that were not drawn, with the wrong sign",
        ("toy/test_categorical.py::test_score_matrix",),
    ),
    Mutant(
        "toy/exact.py",
        "covariance=(probs[:, None] * centred).T @ centred / n)",
        "covariance=(probs[:, None] * terms).T @ terms / n)",
        "a second moment for a covariance",
        ("toy/test_moments.py::test_covariances",),
    ),
    Mutant(
        "toy/sequences.py",
        "mask[index, : len(sequence)] = True",
        "mask[index, : len(sequence) - 1] = True",
        "the last token of every sequence masked out",
        ("toy/test_sequences.py::test_masses_sum_to_one",),
    ),
    Mutant(
        "toy/estimators/partition.py",
        "return PartitionStep(state.log_z, update_partition(state, log_score, log_proposal))",
        "updated = update_partition(state, log_score, log_proposal)\n"
        "    return PartitionStep(updated.log_z, updated)",
        "past-only Z that has already seen the batch",
        ("toy/test_partition.py::test_six_partition_policies_say_what_their_names_say",),
    ),
    Mutant(
        "toy/estimators/estimates.py",
        "log_target = batch.log_score - (batch.log_z if log_z is None else log_z)",
        "log_target = batch.log_score + (batch.log_z if log_z is None else log_z)",
        "the sign of log Z in every claim",
        ("toy/test_estimators.py::test_one_sample",),
    ),
    # ------------------------------------------------------------------ the theory
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
    # ------------------------------------------------------------------ toy: audit and museum
    Mutant(
        "toy/audit/oracle.py",
        "values = (values.detach() * whole).mean(-1)",
        "values = (values * whole).mean(-1)",
        "a penalty in the reward that is differentiated too",
        ("toy/test_audit.py::test_the_dictionary_of_penalties",),
    ),
    Mutant(
        "toy/audit/oracle.py",
        'problem.policy if samples == "on_policy" else problem.behavior',
        'problem.behavior if samples == "on_policy" else problem.policy',
        "stale and fresh samples exchanged",
        ("toy/test_audit.py::test_the_dictionary_of_penalties",),
    ),
    Mutant(
        "toy/audit/call.py",
        'value = torch.where(tensors["mask"], value, 0.0).sum(-1)',
        "value = value.sum(-1)",
        "padding counted in the reward",
        ("toy/test_audit.py::test_tokens_against_sequences",),
    ),
    Mutant(
        "toy/audit/call.py",
        "function = function.forward if",
        "function = (lambda policy, reference: policy) if",
        "a module called by position, whatever its forward names",
        ("toy/test_audit.py::test_a_module_and_a_plain_decorator_are_the_function_they_hold",),
    ),
    Mutant(
        "toy/audit/call.py",
        "return _fixed_parameters(inner[0])",
        "return _fixed_parameters(lambda policy, reference: policy)",
        "a plain decorator hides what the loss asks for",
        ("toy/test_audit.py::test_a_module_and_a_plain_decorator_are_the_function_they_hold",),
    ),
    Mutant(
        "toy/audit/audits.py",
        "**options, precision=SINGLE), SINGLE",
        "**options, precision=DOUBLE), DOUBLE",
        "a loss in float32 judged by the rounding of float64",
        ("toy/test_audit.py::test_a_loss_in_float32_is_judged_by_its_own_precision",),
    ),
    Mutant(
        "toy/audit/audits.py",
        "if strict.explained or coarsest == torch.float64:",
        "if coarsest == torch.float64:",
        "a mask in float32 that loosens every comparison",
        ("toy/test_audit.py::test_a_mask_in_float32_costs_no_precision",),
    ),
    Mutant(
        "toy/audit/sentence.py",
        "if base > 1 and grows_like(lambda n: (n - 1) / n):",
        "if base > 1 and grows_like(lambda n: (n + 1) / n):",
        "a baseline that holds its own sample is not recognised",
        (
            "toy/test_audit.py::test_a_baseline_and_a_sum_depend_on_the_batch_size_for_different_reasons",
        ),
    ),
    Mutant(
        "toy/audit/compare.py",
        "reward_factor=0.0 if small else factor",
        "reward_factor=factor",
        "rounding reported as a part of the expected reward",
        ("toy/test_audit.py::test_rounding_is_no_part_of_the_expected_reward",),
    ),
    Mutant(
        "toy/audit/audits.py",
        "return MINIMUM if min(slopes) > precision.match",
        "return MINIMUM if max(slopes) > precision.match",
        "uphill on one side of the reference taken for a minimum",
        ("toy/test_audit.py::test_a_sentence_ends_with_what_it_means",),
    ),
    Mutant(
        "toy/audit/audits.py",
        "reference=problem.reference.flip(-1)",
        "reference=problem.reference",
        "every loss is said to use no reference",
        ("toy/test_audit.py::test_a_sentence_ends_with_what_it_means",),
    ),
    Mutant(
        "toy/audit/oracle.py",
        "return Enumeration(zero, value, attached=False",
        "return Enumeration(zero, value, attached=True",
        "a loss that requires no grad passes for one that does",
        ("toy/test_audit.py::test_a_loss_with_parameters_of_its_own_alone_requires_no_grad",),
    ),
    Mutant(
        "toy/museum/judges/sampling.py",
        "np.cumsum(ends, axis=-1) - ends == 0",
        "np.cumsum(ends, axis=-1) == 0",
        "the end token left out of the mask",
        ("toy/test_museum.py::test_the_mask_ends_with_the_first_end_token",),
    ),
    Mutant(
        "toy/museum/records.py",
        "return not self.error <= self.bound",
        "return self.error > self.bound",
        "NaN taken for a pass",
        ("toy/test_museum.py::test_an_error_of_nan_is_flagged",),
    ),
    # ------------------------------------------------------------------ lm, what is measured
    Mutant(
        "lm/features/census.py",
        "return female_share * female + (1.0 - female_share) * male",
        "return female_share * male + (1.0 - female_share) * female",
        "the mix of names the wrong way round",
        ("lm/test_census.py::test_the_source_mixes_the_two_sexes",),
    ),
    Mutant(
        "lm/training/optimizer.py",
        '"cosine": 0.5 * (1.0 + math.cos(math.pi * done)),',
        '"cosine": math.cos(math.pi * done),',
        "a learning rate that turns negative",
        ("lm/test_train.py::test_the_learning_rate_follows_its_schedule",),
    ),
    Mutant(
        "lm/evaluation/evidence.py",
        "mixture = torch.logaddexp(log_policy, log_base) - math.log(2.0)",
        "mixture = torch.logaddexp(log_policy, log_base)",
        "a mixture of two laws without its half",
        ("lm/test_metrics.py::test_estimates_of_a_trained_policy_agree_with_each_other",),
    ),
    # ------------------------------------------------------------------ lm: models and vocabularies
    Mutant(
        "lm/models/folder.py",
        "            module.padding_idx = None",
        "            module.padding_idx = module.padding_idx",
        "models: the embedding of a start token that pads as well is never trained",
        ("lm/test_models.py::test_the_start_token_is_trained_where_it_is_the_pad_token",),
    ),
    Mutant(
        "lm/models/token_ids.py",
        'eos = _first(stored.get("eos_token_id"), config.eos_token_id)',
        'eos = _first(config.eos_token_id, stored.get("eos_token_id"))',
        "models: only one of several end tokens ends a text",
        ("lm/test_models.py::test_generation_config_names_all_end_tokens",),
    ),
    Mutant(
        "lm/models/activations.py",
        'wanted = torch.is_grad_enabled() and options.get("past_key_values") is None',
        "wanted = True",
        "models: activation checkpoints drop the cache while sampling",
        (
            "lm/test_models.py"
            "::test_activation_checkpoints_recompute_where_a_gradient_is_wanted_and_only_there",
        ),
    ),
    Mutant(
        "lm/policy/causal/chunked.py",
        "transformed_log_probs(head(part), transform).log_probs",
        "transformed_log_probs(head(part), IDENTITY).log_probs",
        "models: chunks are scored without the policy's transform",
        ("lm/test_chunked.py::test_chunks_change_neither_values_nor_gradients",),
    ),
    Mutant(
        "lm/models/adapter.py",
        "        layer.merge(safe_merge=True)\n",
        "",
        "models: the adapter is dropped and not merged",
        ("lm/test_lora.py::test_the_merged_model_scores_as_the_adapted_one",),
    ),
    Mutant(
        "lm/models/adapter.py",
        "return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})",
        "return copy.deepcopy(model)",
        "models: adapter and base hold the weights twice",
        ("lm/test_lora.py::test_base_and_policy_share_their_weights",),
    ),
    # ------------------------------------------------------------------ lm: one law
    Mutant(
        "lm/models/adapter.py",
        "if sum(p is weight for p in owned) > 1:",
        "if sum(p is weight for p in owned) > 2:",
        "models: an adapter on a tied head is merged into the embeddings, too",
        ("lm/test_law.py::test_an_adapter_on_head_or_embeddings_is_exported_as_it_was_trained",),
    ),
    Mutant(
        "lm/policy/causal/policy.py",
        "        check_saved(self, Path(folder))\n",
        "",
        "policy: a folder that is never read again after it was written",
        ("lm/test_law.py::test_every_save_is_checked_with_a_handful_of_samples",),
    ),
    Mutant(
        "lm/policy/causal/saved.py",
        "if not bool(share[worst] <= 1.0):",
        "if not bool(share.mean() <= 1e9):",
        "policy: a saved folder that may be any other policy",
        ("lm/test_law.py::test_a_save_that_is_another_policy_is_an_error",),
    ),
    Mutant(
        "lm/policy/load.py",
        "    if fault := policy.fault():\n",
        '    if fault := "":\n',
        "policy: a folder whose model reads later tokens is loaded",
        ("lm/test_law.py::test_such_a_folder_is_not_loaded_and_such_a_base_not_trained",),
    ),
    Mutant(
        "lm/policy/causal/law.py",
        "if gap := _gap(model, plain[:-1], other[:-1]):",
        "if gap := 0.0:",
        "policy: BERT samples from one law and scores another",
        ("lm/test_law.py::test_a_model_without_one_law_is_refused_with_what_was_found",),
    ),
    Mutant(
        "lm/policy/causal/law.py",
        "padded = _gap(model, scored, plain[half - 1 : -1])",
        "padded = 0.0",
        "policy: a model that reads its padding",
        ("lm/test_law.py::test_a_model_without_one_law_is_refused_with_what_was_found",),
    ),
    Mutant(
        "lm/policy/checks.py",
        "one = samples.rows(slice(row, row + 1))",
        "one = samples.rows(slice(0, 1))",
        "policy: the law is checked on any row but the longest",
        ("lm/test_law.py::test_the_longest_row_is_scored_alone_as_it_was_drawn",),
    ),
    Mutant(
        "lm/evaluation/evaluate.py",
        "        check_longest(policy, drawn, reading.texts)\n",
        "",
        "policy: sampler and scorer are compared at the first step only",
        ("lm/test_law.py::test_every_evaluation_and_lm_sample_check_the_longest_row",),
    ),
    Mutant(
        "lm/models/positions.py",
        "return Positions(border, why)",
        "return Positions(number)",
        "models: longrope beyond its border, where neighbours change a law",
        ("lm/test_law.py::test_longrope_ends_where_the_law_begins_to_depend_on_the_batch",),
    ),
    Mutant(
        "lm/policy/causal/scoring.py",
        "**place_inputs(mask),",
        "**({} if bool(mask.all()) else place_inputs(mask)),",
        "policy: positions left to a model's defaults",
        ("lm/test_law.py::test_every_call_says_where_its_tokens_stand",),
    ),
    Mutant(
        "lm/policy/causal/law.py",
        "drawn.append(wide_log_softmax(lines.next_logits()[0]))",
        "drawn.append(wide_log_softmax(lines.next_logits()[-1]))",
        "policy: a state of rows that stays when they leave the batch",
        ("lm/test_law.py::test_a_model_without_one_law_is_refused_with_what_was_found",),
    ),
    Mutant(
        "lm/policy/causal/law.py",
        ".nan_to_num(nan=torch.inf)",
        "",
        "policy: a law of NaN that differs from none",
        ("lm/test_law.py::test_a_model_without_one_law_is_refused_with_what_was_found",),
    ),
    Mutant(
        "lm/models/tokenizer.py",
        "text.removeprefix(given[context]) if text.startswith(given[context]) else by_itself",
        "by_itself",
        "models: a completion without its first space",
        (
            "lm/test_vocabulary.py"
            "::test_a_completion_keeps_its_first_space_where_the_decoder_would_drop_it",
        ),
    ),
    # ------------------------------------------------------------------ lm: prompts and transforms
    Mutant(
        "lm/policy/transforms.py",
        "kept = logits >= kth",
        "kept = logits > kth",
        "policy: top-k without the k-th token",
        ("lm/test_transforms.py::test_the_law_is_that_of_transformers_warpers",),
    ),
    Mutant(
        "lm/policy/transforms.py",
        "truncated = torch.log_softmax(wide.masked_fill(cut, -math.inf), dim=-1)",
        "truncated = log_probs.masked_fill(cut, -math.inf)",
        "policy: a truncated law that is not normalised anew",
        ("lm/test_enumerated.py::test_every_transform_is_normalised_after_every_prompt",),
    ),
    Mutant(
        "lm/policy/causal/sampling.py",
        "(numbers.cumsum(-1) - 1).clamp(min=0)",
        "torch.arange(mask.shape[1]).expand_as(numbers)",
        "policy: positions counted from the padding on",
        ("lm/test_enumerated.py::test_a_padded_batch_is_its_prompts_one_by_one",),
    ),
    Mutant(
        "lm/policy/causal/policy.py",
        "prompts = self._contexts(prompts).rows(share // n)",
        "prompts = self._contexts(prompts).rows(share % len(prompts.tokens))",
        "policy: the samples of a context dealt out instead of kept together",
        ("lm/test_prompts.py::test_shares_of_a_batch_are_its_rows",),
    ),
    Mutant(
        "lm/policy/causal/policy.py",
        "uniforms[share.to(uniforms.device)]",
        "uniforms[: len(share)]",
        "policy: every process draws with the first one's uniforms",
        ("lm/test_prompts.py::test_shares_of_a_batch_are_its_rows",),
    ),
    # ------------------------------------------------------------------ lm: contexts, measurement
    Mutant(
        "lm/target/partition.py",
        "return self._log_z[contexts.cpu()][:, None].to(log_score)",
        "return self._log_z[: len(contexts)][:, None].to(log_score)",
        "contexts: the Z of other prompts than the batch's",
        ("lm/test_conditional.py::test_build_partition_has_a_z_for_every_prompt",),
    ),
    Mutant(
        "lm/evaluation/evidence.py",
        "ratio = (log_policy - log_base).where(",
        "ratio = (log_base - log_policy).where(",
        "contexts: prefix KL of base and policy exchanged",
        ("lm/test_conditional.py::test_prefix_sums_average_to_the_sequences_own_exactly",),
    ),
    Mutant(
        "lm/evaluation/estimates.py",
        "torch.exp(points.log_policy - points.log_proposal)",
        "torch.exp(points.log_policy - points.log_base)",
        "contexts: entropy weighted as if all samples were the base's",
        ("lm/test_conditional.py::test_every_estimate_of_one_context_agrees_with_its_sum",),
    ),
    Mutant(
        "lm/evaluation/statistics.py",
        "return mean_and_standard_error(estimates.mean)",
        "return mean_and_standard_error(estimates.standard_error)",
        "contexts: the mean of errors for the mean of values",
        (
            "lm/test_conditional.py::test_estimates_over_contexts_are_means_with_the_spread_of_contexts",
        ),
    ),
    Mutant(
        "lm/features/registry.py",
        "np.isnan(values) | (values == np.inf)",
        "~np.isfinite(values)",
        "contexts: a score that excludes a text taken for a mistake",
        ("lm/test_features.py::test_a_score_may_exclude_but_not_be_infinite",),
    ),
    Mutant(
        "lm/features/calls.py",
        "material.get(name) or value for name",
        "value for name",
        "contexts: a function of completions given whole texts",
        ("lm/test_features.py::test_a_function_gets_what_its_signature_names",),
    ),
    # ------------------------------------------------------------------ lm: checkpoints, resuming
    Mutant(
        "lm/run/checkpoint.py",
        "if found != recorded:",
        'if found["bytes"] > recorded["bytes"]:',
        "checkpoint verified by its sizes alone",
        ("lm/test_checkpoint.py::test_a_corrupt_newest_checkpoint_is_skipped_and_said_so",),
    ),
    Mutant(
        "lm/run/checkpoint.py",
        "kept = [step for step in steps if step <= newest][:keep]",
        "kept = steps[:keep]",
        "checkpoint of an abandoned course kept in place of a good one",
        ("lm/test_checkpoint.py::test_the_newest_are_kept_and_an_abandoned_course_is_dropped",),
    ),
    Mutant(
        "lm/run/checkpoint.py",
        """        flush_to_disk(folder / name)
    flush_to_disk(folder)""",
        """        flush_to_disk(folder / name)""",
        "checkpoint renamed before its folder is on the disk",
        (
            "lm/test_checkpoint.py::test_everything_is_on_the_disk_before_the_checkpoint_has_its_name",
        ),
    ),
    Mutant(
        "lm/run/state.py",
        'optimizer.load_state_dict({"state": state,',
        'optimizer.load_state_dict({"state": {},',
        "checkpoint without the moments of Adam",
        ("lm/test_checkpoint.py::test_adam_its_schedule_and_the_scaler_go_on_bit_by_bit",),
    ),
    Mutant(
        "lm/run/state.py",
        """        memory.load_state_tensors(_group(state.tensors, name))""",
        """        _group(state.tensors, name)""",
        "checkpoint that forgets Z and the running baseline",
        ("lm/test_resume.py::test_a_run_that_was_broken_twice_is_the_unbroken_one[past]",),
    ),
    Mutant(
        "lm/run/state.py",
        """    moving.generator.set_state(state.tensors["generator"])
""",
        "",
        "resuming that draws the first step's random numbers again",
        ("lm/test_resume.py::test_a_run_that_was_broken_twice_is_the_unbroken_one[plain]",),
    ),
    Mutant(
        "lm/run/start.py",
        'MAY_DIFFER = ("output",',
        'MAY_DIFFER = ("steps", "output",',
        "resuming with another number of steps, and so another learning rate",
        (
            "lm/test_resume.py::test_resuming_with_another_configuration_is_refused_and_names_each_key",
        ),
    ),
    Mutant(
        "lm/run/files.py",
        "file.truncate(before)",
        "file.seek(before)",
        "half a line left in the log of a full disk",
        ("lm/test_checkpoint.py::test_a_line_that_does_not_fit_is_not_written_at_all",),
    ),
    # ------------------------------------------------------------------ lm: precision
    Mutant(
        "lm/device/amp.py",
        "            self._scaler.unscale_(optimizer)\n",
        "            pass\n",
        "a norm, and a clip, of the gradient times the scale of the loss",
        ("lm/test_amp.py::test_the_norm_is_that_of_the_unscaled_gradient",),
    ),
    Mutant(
        "lm/device/amp.py",
        "        made = self.scale >= before\n",
        "        made = True\n",
        "a step that overflowed and is counted as taken",
        ("lm/test_amp.py::test_an_overflow_skips_the_step_and_halves_the_scale",),
    ),
    Mutant(
        "lm/policy/causal/scoring.py",
        "scores.append(log_probs.sum(-1))",
        "scores.append(log_probs.half().sum(-1).float())",
        "a sequence's log-probability summed in half precision by the scorer",
        ("lm/test_ladder.py::test_the_scorer_widens_half_precision_logits_before_softmax_and_sum",),
    ),
    Mutant(
        "lm/policy/causal/sampling.py",
        "    log_prob = torch.stack(step_log_probs, dim=-1).sum(-1)",
        "    log_prob = torch.stack(step_log_probs, dim=-1).half().sum(-1).float()",
        "a sequence's log-probability summed in half precision by the sampler",
        (
            "lm/test_ladder.py::test_the_sampler_widens_half_precision_logits_before_softmax_and_sum",
        ),
    ),
    Mutant(
        "lm/selfcheck/ladder.py",
        "float(gap.square().sum() / 2)",
        "float(gap.square().sum())",
        "twice 1 - cosine",
        ("lm/test_ladder.py::test_gradients_are_those_of_training_toward_a_tilted_policy",),
    ),
    Mutant(
        "lm/selfcheck/trials.py",
        "        return self.value <= self.largest",
        "        return not self.value > self.largest",
        "a self-check that NaN passes",
        ("lm/test_selfcheck.py::test_a_broken_bound_and_a_crash_fail_the_check_and_the_command",),
    ),
    # ------------------------------------------------------------------ lm: loop and proposal
    Mutant(
        "lm/training/accumulate.py",
        "yield Part(log_policy, place, (rows.stop - rows.start) / n)",
        "yield Part(log_policy, place, 1.0)",
        "micro-batches that each count as a whole batch",
        (
            "lm/test_accumulate.py::test_the_order_of_samples_does_not_change_the_gradient",
            "lm/test_accumulate.py::test_the_size_of_micro_batches_does_not_change_the_gradient",
        ),
    ),
    Mutant(
        "lm/training/proposal.py",
        "return gather(self._accelerator, samples.log_prob).view_as(log_policy)",
        "return log_policy",
        "samples of a stale proposal without their importance weights",
        (
            "lm/test_proposal.py::test_samples_of_another_distribution_give_the_gradient_of_this_one",
        ),
    ),
    Mutant(
        "lm/training/proposal.py",
        "        if gain > 0:",
        "        if gain < 0:",
        "a proposal that is renewed when it was the better one",
        ("lm/test_proposal.py::test_a_kl_adaptive_proposal_adopts_the_better_policy_and_no_other",),
    ),
    Mutant(
        "lm/training/proposal.py",
        "return order[place * per_step : (place + 1) * per_step]",
        "return order[:per_step]",
        "the same prompts in every step of an epoch",
        ("lm/test_proposal.py::test_every_epoch_shows_every_prompt_once_in_an_order_of_its_own",),
    ),
    Mutant(
        "lm/config/combinations.py",
        "if config.sampling.truncates and not config.off_policy:",
        "if config.sampling.truncates and config.off_policy:",
        "reverse KL to a base with holes, accepted",
        (
            "lm/test_config.py::test_an_infinite_divergence_to_a_base_with_holes_is_refused_with_advice",
        ),
    ),
    # ------------------------------------------------------------------ lm: several processes
    Mutant(
        "lm/device/processes.py",
        "return slice(accelerator.process_index * share, ",
        "return slice(accelerator.process_index, ",
        "slices that begin at the rank and not at rank times the share",
        ("lm/test_processes.py::test_rows_are_cut_into_equal_slices_for_any_number_of_processes",),
    ),
    Mutant(
        "lm/device/processes.py",
        "    tensor = tensor.detach()\n    if accelerator",
        "    if accelerator",
        "gathered values that carry a gradient on one process only",
        ("lm/test_processes.py::test_one_process_gathers_nothing_and_agrees_with_itself",),
    ),
    Mutant(
        "lm/training/sharding.py",
        "yield self._copy.with_transform(policy.transform)",
        "yield self._copy",
        "a gathered copy that samples without the policy's transform",
        ("lm/test_processes.py::test_whole_weights_are_lent_with_the_transform_and_taken_back",),
    ),
    Mutant(
        "lm/training/sharding.py",
        "yield _unwrapped(policy)",
        "yield policy",
        "an evaluation by one process that waits for the others at each forward pass",
        (
            "lm/test_processes.py"
            "::test_whoever_works_alone_is_lent_a_policy_that_waits_for_no_other_process",
        ),
    ),
    Mutant(
        "lm/device/interrupt.py",
        "    if by_torchelastic():\n",
        "    if False:\n",
        "a process that waits for ever once its launcher was killed",
        (
            "lm/test_processes.py"
            "::test_a_process_whose_launcher_was_killed_ends_even_if_it_waits_for_another",
        ),
    ),
    Mutant(
        "lm/device/launched.py",
        'if device == "cpu":\n            raise RunError(',
        'if device == "gpu":\n            raise RunError(',
        "FSDP2 on a CPU, which accelerate silently turns into DDP",
        ("lm/test_processes.py::test_what_a_launcher_cannot_have_is_refused",),
    ),
    # ------------------------------------------------------------------ what a person sees
    Mutant(
        "lm/report/tables.py",
        "console.width = max(console.width, console.measure(table, options=unbounded).maximum)",
        "console.width = max(console.width, console.measure(table).maximum)",
        "a log file's table folded into 80 columns",
        ("lm/test_report.py::test_the_table_is_not_folded_where_there_is_no_terminal",),
    ),
    Mutant(
        "lm/policy/prompts.py",
        "left = positions.number - longest + 1",
        "left = positions.number - longest + 2",
        "an advice that is refused again",
        ("lm/test_prompts.py::test_a_prompt_too_long_for_the_model_is_refused_with_the_numbers",),
    ),
    # ------------------------------------------------------------------ lm: across its modules
    Mutant(
        "lm/config/combinations.py",
        "config.sampling.truncates and not config.off_policy and config.halves",
        "config.sampling.truncates and config.off_policy and config.halves",
        "a cut policy in half precision, whose own samples become impossible",
        ("lm/test_config.py::test_a_meaningless_configuration_is_refused_with_its_value",),
    ),
    Mutant(
        "lm/train.py",
        "            session.check_coefficients(coefficients, reading)\n",
        "",
        "an infinite coefficient, which float16's scaler takes for an overflow",
        (
            "lm/test_train.py::test_a_coefficient_that_is_not_finite_stops_the_run_and_names_its_sample",
        ),
    ),
    Mutant(
        "lm/cli/export.py",
        "transform=law)",
        "transform=SamplingConfig())",
        "an exported model that generate() samples under another law than the run's",
        ("lm/test_export.py::test_the_law_of_a_run_goes_with_its_model",),
    ),
    Mutant(
        "lm/target/proven_status.py",
        'status.factor in {None, "(n-1)/n"}',
        "True",
        "a gradient over prompts called proportional, though each prompt has its own factor",
        ("lm/test_proposal.py::test_the_status_of_a_run_knows_where_its_samples_come_from",),
    ),
    # ------------------------------------------------------------------ toy: the study
    Mutant(
        "toy/sweep/descents/gradients.py",
        "norm / np.sqrt(trace / n)",
        "norm / np.sqrt(trace * n)",
        "signal-to-noise that falls with the batch instead of rising",
        ("toy/test_study.py::test_gradient_and_noise_are_those_of_the_enumeration",),
    ),
    Mutant(
        "toy/sweep/descents/gradients.py",
        "score_coefficients(signal, baseline=leave_one_out(signal))",
        "score_coefficients(signal)",
        "a sampled gradient of the study without its baseline",
        ("toy/test_study.py::test_sampled_gradients_have_the_exact_mean_and_covariance",),
    ),
    Mutant(
        "toy/sweep/random/families.py",
        "tokens[:, :-1]",
        "tokens[:, 1:]",
        "a bigram that is conditioned on the next token instead of the last one",
        ("toy/test_study.py::test_batched_families_are_those_of_the_toy",),
    ),
    Mutant(
        "toy/sweep/rates.py",
        "np.argmin(np.median(shares, axis=-1))",
        "np.argmin(np.min(shares, axis=-1))",
        "a learning rate that is chosen by the luckiest pilot problem",
        ("toy/test_study.py::test_the_pilot_chooses_the_lowest_median",),
    ),
    Mutant(
        "toy/sweep/run.py",
        "_STUDY, _PILOT = 0, 1",
        "_STUDY, _PILOT = 0, 0",
        "learning rates tuned on the problems that they are judged on",
        (
            "toy/test_study_table.py::"
            "test_a_problem_does_not_depend_on_its_batch_and_the_pilot_shares_none",
        ),
    ),
    # ------------------------------------------------------------------ lm: what the study adds
    Mutant(
        "lm/evaluation/coverage.py",
        "_missed((counts - 1)",
        "_missed((counts - 0)",
        "a jackknife that leaves no sample out",
        ("lm/test_coverage.py::test_its_standard_error_is_the_jackknifes",),
    ),
    Mutant(
        "lm/evaluation/coverage.py",
        "torch.expm1(k * torch.log1p",
        "torch.expm1(torch.log1p",
        "coverage of one sample for that of k",
        ("lm/test_coverage.py::test_coverage_is_the_share_of_the_set_that_k_samples_show",),
    ),
    Mutant(
        "lm/evaluation/statistics.py",
        "return math.sqrt(variance / n) / len(log_probs)",
        "return math.sqrt(variance / n)",
        "the exact error of a mean over two strata without its half",
        (
            "lm/test_coverage.py::"
            "test_the_exact_error_of_a_listed_sum_is_its_standard_deviation_over_all_samples",
        ),
    ),
    Mutant(
        "lm/training/average.py",
        "1.0 - self._past",
        "self._past",
        "a running mean that forgets what it should keep",
        ("lm/test_average.py::test_the_average_is_a_slow_loops_and_is_only_lent",),
    ),
    Mutant(
        "lm/target/targets.py",
        "(features * weights).sum(-1), beta=1.0)",
        "-(features * weights).sum(-1), beta=1.0)",
        "plain reward maximisation that minimises",
        ("lm/test_aims.py::test_a_reward_alone_has_the_gradient_of_its_expectation",),
    ),
    Mutant(
        "lm/target/problem.py",
        'return None if self.target.config.kind == "reward" else self.base',
        "return self.base",
        "a reward alone that is held by the base after all",
        ("lm/test_aims.py::test_a_run_on_reward_alone_descends_minus_the_reward",),
    ),
    Mutant(
        "lm/target/problem.py",
        "target=config.measure,",
        "target=config.target,",
        "a run that is measured against what it descends, whatever was asked for",
        ("lm/test_aims.py::test_a_run_is_measured_against_the_other_target",),
    ),
    Mutant(
        "lm/target/teacher.py",
        "torch.arange(tokens.shape[1]) < lengths",
        "torch.arange(tokens.shape[1]) + 1 < lengths",
        "a teacher that is not asked about the end token",
        ("lm/test_aims.py::test_a_teachers_score_is_its_log_probability_of_every_sequence",),
    ),
    Mutant(
        "lm/target/teacher.py",
        "    if difference:\n",
        "    if teacher.vocabulary != base.vocabulary:\n",
        "a teacher that is refused because its tokenizer was loaded separately",
        (
            "lm/test_aims.py"
            "::test_a_teacher_with_a_tokenizer_is_taken_by_its_tokens_and_not_as_an_object",
        ),
    ),
    Mutant(
        "lm/selfcheck/unification.py",
        "batch.reward - BETA * (held - batch.log_base)",
        "batch.reward - BETA * (batch.log_base - held)",
        "a KL penalty that pays for leaving the base",
        ("lm/test_unification.py::test_every_pair_agrees_in_both_precisions",),
    ),
    Mutant(
        "lm/sweep/cells.py",
        "input_digests(config, known=",
        "{} and input_digests(config, known=",
        "a sweep that reports a reward that is no longer there",
        ("lm/test_sweep.py::test_what_is_in_a_file_is_part_of_the_run_that_reads_it",),
    ),
    Mutant(
        "lm/sweep/command.py",
        "int(bool(failed) or not all(",
        "int(not all(",
        "a sweep with failed runs that ends well",
        ("lm/test_sweep.py::test_a_run_that_fails_is_recorded_and_the_others_go_on",),
    ),
    Mutant(
        "lm/sweep/promises.py",
        "nearest <= -errors",
        "nearest <= errors",
        "a promise that is kept without having been",
        ("lm/test_demo.py::test_a_divergence_that_is_not_clearly_halved_fails",),
    ),
    Mutant(
        "lm/sweep/cells.py",
        "rate.method or labels.method",
        "labels.method",
        "a common learning rate that is everybody's own",
        ("lm/test_sweep.py::test_rates_are_numbers_or_those_chosen_for_group_method_and_size",),
    ),
    Mutant(
        "lm/sweep/table.py",
        'before < entry["step"] <= step',
        'before <= entry["step"] <= step',
        "a training step that is counted in two intervals",
        ("lm/test_sweep.py::test_the_table_holds_what_the_runs_wrote",),
    ),
    *mistakes.study.MUTANTS,
]


# How far back a file counts as recently changed.
LAST_COMMITS = 10
# Mutants per worker between two checks that their tests pass as they are.
ROUND = 12


class UnmutatedFailure(Exception):
    """Tests that are to notice mutants fail without one."""


def main() -> int:
    """Run the mutants and print one row each; 1 if any survives or breaks."""
    parser = argparse.ArgumentParser(prog="python tests/mutants.py", description=__doc__)
    _ = parser.add_argument("--list", action="store_true", help="print the list and stop")
    _ = parser.add_argument("--only", default="", metavar="SUBSTRING", help="of file or reason")
    _ = parser.add_argument("--jobs", type=int, default=cores(), metavar="N")
    _ = parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="stop after this time; mutants of recently changed files come first",
    )
    _ = parser.add_argument("--not-reached", type=Path, metavar="FILE", help="what time cut off")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.file or options.only in m.why]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not chosen:
        parser.error(f"no mutant has {options.only!r} in its file or reason")
    if options.list:
        console.print(_table("Mutants", [Result(m, "", "", 0.0) for m in chosen]))
        console.print(counted(chosen))
        return 0
    for mutant in chosen:
        if (count := occurrences(mutant)) != 1:
            console.print(f"{mutant.file}: found {count} times, not once:\n{mutant.before}")
            return 1

    end = math.inf
    if options.seconds is not None:
        end = time.monotonic() + options.seconds
        chosen = recent_first(chosen)
    console.print(f"{counted(chosen)}, {options.jobs} at a time")
    try:
        results = _run_all(chosen, options.jobs, end, console)
    except UnmutatedFailure as error:
        console.print(f"The unmutated selection does not pass:\n{error}", markup=False)
        return 1

    tried = [result for result in results if result.verdict != OUT_OF_TIME]
    alive = [result for result in tried if result.verdict != "killed"]
    console.print(_table("Mutants", tried))
    console.print(f"{len(tried) - len(alive)} of {len(tried)} mutants killed")
    if late := [result.mutant for result in results if result.verdict == OUT_OF_TIME]:
        console.print(f"not reached within the time: {counted(late)}")
        if options.not_reached:
            _ = options.not_reached.write_text(f"{counted(late)}\n", encoding="utf-8")
    return int(bool(alive))


def cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def counted(mutants: Sequence[Mutant]) -> str:
    """Say how many mutants there are, and of which packages."""
    packages = Counter(mutant.file.partition("/")[0] for mutant in mutants)
    parts = ", ".join(f"{name} {number}" for name, number in sorted(packages.items()))
    return f"{len(mutants)} mutants ({parts})"


def recent_first(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants of files that the last commits changed, and then the others.

    Both in an order drawn from the commit: where time is short, each commit tries other ones.
    """
    commit = _git("rev-parse", "HEAD")
    changed = set(_git("log", f"-{LAST_COMMITS}", "--name-only", "--format=").split())
    drawn = random.Random(commit).sample(mutants, len(mutants))
    return sorted(drawn, key=lambda mutant: mutant.file not in changed)


def _git(*words: str) -> str:
    """Return what git prints; nothing without git, or outside of a repository."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _run_all(mutants: Sequence[Mutant], jobs: int, end: float, console: Console) -> list[Result]:
    results: list[Result] = []
    checked: set[str] = set()
    with Progress(console=console) as progress, worker_pool(jobs) as pool:
        task = progress.add_task("mutants", total=len(mutants))
        for start in range(0, len(mutants), ROUND * jobs):
            some = mutants[start : start + ROUND * jobs]

            # A test that fails without a mutant kills none.
            tests = sorted({test for mutant in some for test in mutant.tests} - checked)
            parts = split(tests, jobs)
            for found in pool.map(check_unmutated, parts, [end] * len(parts)):
                if found not in ("", OUT_OF_TIME):
                    raise UnmutatedFailure(found)
            checked |= set(tests)

            for future in as_completed([pool.submit(try_mutant, mutant, end) for mutant in some]):
                results.append(future.result())
                progress.advance(task)
    return sorted(results, key=lambda result: mutants.index(result.mutant))


def split(tests: Sequence[str], parts: int) -> list[list[str]]:
    """Split tests into at most so many parts; a file stays whole, for the sake of its fixtures."""
    found: list[list[str]] = [[] for _ in range(parts)]
    for _, group in itertools.groupby(sorted(tests), key=lambda test: test.partition("::")[0]):
        min(found, key=len).extend(group)
    return [part for part in found if part]


def _table(title: str, results: list[Result]) -> Table:
    table = Table(title=title)
    for heading in ("file", "mistake", "verdict", "by", "s"):
        table.add_column(heading)
    for mutant, verdict, detail, seconds in results:
        style = None if verdict in ("killed", "") else "bold red"
        took = f"{seconds:.0f}" if seconds else ""
        table.add_row(mutant.file, mutant.why, verdict, detail, took, style=style)
    return table


if __name__ == "__main__":
    sys.exit(main())
