"""Mistakes in the toy: its families, its claims, its sweep and its audit."""

from __future__ import annotations

from mutation import Mutant

MUTANTS = [
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
]
