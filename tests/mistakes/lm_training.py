"""Mistakes in training, and in what a run keeps."""

from __future__ import annotations

from mutation import Mutant

MUTANTS = [
    Mutant(
        "lm/sweep/command.py",
        "facts, kept.rows if kept else None)",
        "facts, None)",
        "a sweep's table that loses the parts of an earlier call",
        ("lm/test_sweep_kept.py::test_the_table_of_two_parts_is_that_of_the_whole",),
    ),
    Mutant(
        "lm/sweep/kept.py",
        "now[name] not in (run, None):",
        "now[name] is None:",
        "runs of one part beside those of another that were made with other settings",
        (
            "lm/test_sweep_kept.py::test_a_run_that_the_sweep_does_not_describe_any_more_is_not_mixed_with_others",
        ),
    ),
    Mutant(
        "lm/sweep/command.py",
        '{"before": both[0][: sweep.texts]',
        '{"before": both[1][: sweep.texts]',
        "texts after training stored as those before",
        ("lm/test_sweep.py::test_texts_before_and_after_are_stored_if_they_are_asked_for",),
    ),
    Mutant(
        "lm/engines/verl.py",
        '("rollout_is", "rollout_rs", "bypass_mode") if correction.get(k)]',
        '("rollout_rs", "bypass_mode") if correction.get(k)]',
        "verl's own weights on samples whose coefficients know nothing of them",
        ("engines/test_verl_settings.py::test_settings_that_spoil_the_gradient_are_refused",),
    ),
    Mutant(
        "lm/engines/verl.py",
        '"score": log_score - beta * log_z}',
        '"score": log_score - log_z}',
        "log Z in nats taken from a reward whose unit is beta",
        ("engines/test_verl_settings.py::test_a_reward_is_that_of_the_normalised_target",),
    ),
    Mutant(
        "lm/training/session.py",
        "            )\n        release_freed_memory()\n",
        "            )\n",
        "what an evaluation has freed kept while the policy is saved",
        (
            "lm/test_memory.py::test_memory_is_released_around_every_evaluation_and_after_a_large_step",
        ),
    ),
    Mutant(
        "benchmarks/race.py",
        "both = [(other, ours) for other, ours in pairs if math.isfinite(other + ours)]",
        "both = sorted(pairs)",
        "a run that never got there counted as an infinite ratio",
        ("engines/test_race.py::test_ratios_are_taken_on_the_same_seed",),
    ),
    Mutant(
        "benchmarks/race.py",
        "if times >= FASTER_THAN_TRL",
        "if times >= 1.0",
        "a goal that is met by whoever is not slower",
        ("engines/test_race.py::test_the_page_says_what_became_of_the_goal",),
    ),
    Mutant(
        "lm/conformance/problem.py",
        "float(after[ids[:i]][token])",
        "float(law[0][token])",
        "a batch that is not the policy: each token by the law of the first",
        ("lm/test_conformance.py::test_a_batch_is_the_policy",),
    ),
    Mutant(
        "lm/conformance/candidates.py",
        "policy[0].detach().exp()[BODIES]",
        "policy[0].exp()[BODIES]",
        "a penalty by token whose prefixes are differentiated too",
        ("lm/test_conformance.py::test_known_steps_are_named",),
    ),
    Mutant(
        "lm/conformance/verdict.py",
        "for n in penalties if n != r]",
        "for n in known if n != r]",
        "a penalty towards the base told as more reward and a pull to the target",
        ("lm/test_conformance.py::test_known_steps_are_named",),
    ),
    Mutant(
        "lm/conformance/verdict.py",
        "return self.scale > 0 and self.relative_error",
        "return self.relative_error",
        "a trainer that ascends called conforming",
        ("lm/test_conformance.py::test_the_assertion_says_what_is_descended_instead",),
    ),
    Mutant(
        "lm/policy/causal/saved.py",
        "    allowed = allowed * (_logit_size(theirs, samples) / USUAL_SIZE).clamp(min=1.0)\n",
        "",
        "a right save of a model with large logits refused",
        ("lm/test_law.py::test_large_logits_round_more_and_are_still_the_same_policy",),
    ),
    Mutant(
        "lm/training/session.py",
        "step == 0 and self.problem is not self.evaluator.problem",
        "False",
        "the trained target's warnings lost beside a measured one",
        (
            "lm/test_aims.py::test_the_trained_target_keeps_its_warnings_and_its_check_beside_a_measured_one",
        ),
    ),
    Mutant(
        "lm/run/folder.py",
        "if trained is not measured and",
        "if False and",
        "a run that continues toward another target than it began with",
        (
            "lm/test_aims.py::test_the_trained_target_keeps_its_warnings_and_its_check_beside_a_measured_one",
        ),
    ),
    Mutant(
        "lm/models/adapter.py",
        "weight.detach().cpu()",
        "weight.detach().clone()",
        "a second copy of the whole model to save an adapter",
        ("lm/test_lora.py::test_merging_copies_only_the_weights_under_an_adapter",),
    ),
    Mutant(
        "lm/run/checkpoint.py",
        "here if whole and",
        "here if False and",
        "a second copy of everything that a checkpoint holds",
        ("lm/test_checkpoint.py::test_what_shares_no_memory_is_not_copied_to_be_saved",),
    ),
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
        "lm/training/baseline.py",
        "return leave_one_out(signal)",
        "return signal.mean(-1, keepdim=True)",
        "the batch mean as a baseline in the training loop",
        (
            "lm/test_train.py::"
            "test_the_core_fires_in_every_step_and_its_coefficients_are_what_descends",
        ),
    ),
    Mutant(
        "lm/training/optimizer.py",
        '"cosine": 0.5 * (1.0 + math.cos(math.pi * done)),',
        '"cosine": math.cos(math.pi * done),',
        "a learning rate that turns negative",
        ("lm/test_train.py::test_the_learning_rate_follows_its_schedule",),
    ),
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
            "lm/test_start.py::test_resuming_with_another_configuration_is_refused_and_names_each_key",
        ),
    ),
    Mutant(
        "lm/run/files.py",
        "file.truncate(before)",
        "file.seek(before)",
        "half a line left in the log of a full disk",
        ("lm/test_checkpoint.py::test_a_line_that_does_not_fit_is_not_written_at_all",),
    ),
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
        "lm/train.py",
        "            session.check_coefficients(coefficients, reading)\n",
        "",
        "an infinite coefficient, which float16's scaler takes for an overflow",
        (
            "lm/test_train.py::test_a_coefficient_that_is_not_finite_stops_the_run_and_names_its_sample",
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
        "lm/evaluation/target_samples.py",
        "max(reached, key=lambda least: (least * sum(own >= least for own in reached), -least))",
        "max(reached)",
        "many prompts, of which the luckiest alone is measured",
        (
            "lm/test_target_samples.py::"
            "test_of_contexts_that_accept_few_as_many_samples_are_kept_as_can_be[accepted0-contexts0-41]",
        ),
    ),
    Mutant(
        "lm/evaluation/expected_draws.py",
        "needed = max(spread / asked.error**2, unseen)",
        "needed = max(spread / asked.error, unseen)",
        "a plan that takes a relative error for its square",
        ("lm/test_expected_draws.py::test_as_many_are_drawn_as_are_foreseen[0.01-without bounds]",),
    ),
    Mutant(
        "lm/evaluation/expected_draws.py",
        "if not effective >= ENOUGH:",
        "if effective == 0:",
        "a plan that knows Z by one lucky text",
        ("lm/test_expected_draws.py::test_nothing_is_foreseen_of_what_no_text_shows",),
    ),
    Mutant(
        "lm/training/plan.py",
        "return totals[largest] * (1 + size / largest) / 2",
        "return totals[largest] * size / largest",
        "a plan from four texts, which says four times too much",
        ("lm/test_plan.py::test_a_slow_model_is_measured_with_two_sizes",),
    ),
    Mutant(
        "lm/training/plan.py",
        "if took > (budget if len(seen) > 1 else MOST_SECONDS):",
        "if len(seen) > 1 and took > budget:",
        "minutes of measuring a slow model, before a word of the plan",
        ("lm/test_plan.py::test_a_slow_model_is_not_measured_for_longer_than_is_said",),
    ),
    Mutant(
        "lm/training/plan.py",
        "self._generator = random_stream(config.seed, PLAN)",
        "torch.manual_seed(0); self._generator = torch.default_generator",
        "a plan that draws from, and sets, the random numbers of the program",
        ("lm/test_plan.py::test_the_measurement_leaves_the_policy_and_the_random_numbers_alone",),
    ),
    Mutant(
        "lm/training/plan.py",
        "            parameter.grad = None\n",
        "            pass\n",
        "gradients of the measurement in the first step",
        ("lm/test_plan.py::test_the_measurement_leaves_the_policy_and_the_random_numbers_alone",),
    ),
]
