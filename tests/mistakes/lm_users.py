"""Mistakes in what stands between a run and its users: files, words, code and folders of theirs."""

from __future__ import annotations

from mutation import Mutant

MUTANTS = [
    Mutant(
        "lm/config/recipes.py",
        "node is not None and node.end_mark is None",
        "node is None",
        "a recipe that holds itself, which no check comes to the end of",
        ("lm/test_typed.py::test_what_readers_read_differently_is_refused",),
    ),
    Mutant(
        "lm/run/start.py",
        "if not RUN.proves(final):",
        "if False:",
        "a model folder taken for a finished run",
        ("lm/test_start.py::test_a_model_is_no_run_to_resume",),
    ),
    Mutant(
        "lm/cli/commands.py",
        "        if config.report:\n",
        "        if True:\n",
        "the path of a report that was not drawn",
        ("lm/test_cli.py::test_a_run_without_a_report_names_none",),
    ),
    Mutant(
        "lm/errors.py",
        "isinstance(error, RuntimeError) and any(name in words for name in OUT_OF_MEMORY)",
        "False",
        "a full memory called a fault of the program",
        ("lm/test_cli.py::test_a_memory_that_is_full_says_what_to_lower",),
    ),
    Mutant(
        "lm/run/owned.py",
        "if not folder.is_dir() or not kind.proves(folder):",
        "if not folder.is_dir():",
        "--overwrite that deletes a folder of somebody else",
        ("lm/test_start.py::test_overwrite_replaces_a_run_and_nothing_else",),
    ),
    Mutant(
        "lm/run/owned.py",
        "    if foreign:\n",
        "    if False:\n",
        "--overwrite that deletes a file which somebody put into a run",
        ("lm/test_start.py::test_overwrite_replaces_a_run_and_nothing_else[a note in a run]",),
    ),
    Mutant(
        "lm/run/owned.py",
        "                yield from _foreign(path, words, kind)\n",
        "                pass\n",
        "--overwrite that deletes a file which somebody put into a folder of a run",
        ("lm/test_owned.py::test_a_file_of_the_users_is_found_at_any_depth_of_a_run",),
    ),
    Mutant(
        "lm/run/owned.py",
        "if path.is_file() and path.stat().st_size and not proves(path):",
        "if False:",
        "--json that replaces any file",
        ("lm/test_owned.py::test_a_record_replaces_no_file_of_somebody_else",),
    ),
    Mutant(
        "lm/run/files.py",
        "    if path.exists() and not path.is_file():\n        with path.open",
        "    if False:\n        with path.open",
        "an output that takes the place of a device",
        ("lm/test_owned.py::test_an_output_goes_where_a_link_leads_and_into_a_device",),
    ),
    Mutant(
        "lm/demo/command.py",
        "if others and not is_demonstration(folder):",
        'if others and not (folder / "summary.json").exists():',
        "a demonstration that deletes the cells of a sweep",
        ("lm/test_demo.py::test_a_sweep_is_no_demonstration_and_is_not_started_over",),
    ),
    Mutant(
        "lm/sweep/command.py",
        'kept = f"{names[cell.run]}-{cell.run[:8]}"',
        "kept = names[cell.run]",
        "a kept run that is replaced by another one of a later sitting",
        ("lm/test_sweep_records.py::test_the_folders_that_are_kept_are_never_those_of_other_runs",),
    ),
    Mutant(
        "lm/sweep/bars.py",
        "self._before.setdefault(label, self._shares[label])",
        "self._before.setdefault(label, 0.0)",
        "a second worker's first word that counts as work done since the first one's",
        ("lm/test_sweep_bars.py::test_the_first_word_of_a_second_worker_is_no_speed",),
    ),
    Mutant(
        "lm/sweep/records.py",
        "        if is_of_the_moment(error):\n",
        "        if False:\n",
        "a full memory that is a run's failure for ever",
        ("lm/test_sweep_records.py::test_what_only_this_moment_forbids_is_not_recorded",),
    ),
    Mutant(
        "lm/sweep/records.py",
        "    except (Stopped, RunInterrupted):\n",
        "    except Stopped:\n",
        "an interrupted run that counts as failed",
        (
            "lm/test_sweep_records.py::test_a_run_that_was_interrupted_ends_the_sweep_and_is_not_recorded",
        ),
    ),
    Mutant(
        "lm/sweep/command.py",
        """    with held(Path(sweep.output)):
        return""",
        """    if sweep.output:
        return""",
        "two sweeps in one folder at once",
        ("lm/test_sweep.py::test_two_sweeps_do_not_share_a_folder",),
    ),
    Mutant(
        "lm/cli/export.py",
        "    require_owned(destination, MODEL)\n",
        "",
        "export that deletes any folder",
        ("lm/test_export.py::test_only_a_model_of_ours_is_replaced",),
    ),
    Mutant(
        "lm/cli/export.py",
        "    for key, name in _read_by(source):\n",
        "    for key, name in ():\n",
        "export that deletes the model which its run began from",
        ("lm/test_export.py::test_an_export_never_replaces_what_its_run_reads[model]",),
    ),
    Mutant(
        "lm/cli/export.py",
        "        source = source.resolve()  # the",
        "        pass  # the",
        "the run of a checkpoint looked for in the wrong folder",
        ("lm/test_export.py::test_a_source_may_be_named_from_within_its_run",),
    ),
    Mutant(
        "lm/models/folder.py",
        ".{os.getpid()}.{secrets.token_hex(4)}.partial",
        ".{os.getpid()}.partial",
        "a folder of a killed process in the way of a new one",
        ("lm/test_export.py::test_what_a_killed_process_left_blocks_no_export",),
    ),
    Mutant(
        "lm/run/folder.py",
        """    files = [*run.partial.rglob("*"), run.partial]
    for path in each("bringing the run to the disk", files):
        flush_to_disk(path)
""",
        """    (run.partial / LOCK).unlink()
    files = [*run.partial.rglob("*"), run.partial]
    for path in each("bringing the run to the disk", files):
        flush_to_disk(path)
    (run.partial / LOCK).touch()
""",
        "lock given back before the run has its name",
        (
            "lm/test_resume.py::test_a_second_process_cannot_take_a_run_that_is_about_to_get_its_name",
        ),
    ),
    Mutant(
        "lm/run/start.py",
        """        if step != 0:
            return True
""",
        """        return True
""",
        "a base's evaluation that blocks the corrected command",
        (
            "lm/test_resume.py::test_what_fails_before_the_first_step_does_not_block_the_corrected_command",
        ),
    ),
    Mutant(
        "lm/run/checkpoint.py",
        "if digest is not None and log_digest(path, offset) != digest:",
        "if False:",
        "a changed record that is taken for what was measured",
        ("lm/test_checkpoint.py::test_a_checkpoint_whose_log_was_changed_since_is_not_used",),
    ),
    Mutant(
        "lm/run/checkpoint.py",
        'if set(manifest["files"]) != {TENSORS, NUMBERS}:',
        "if False:",
        "a manifest that names no file, so that nothing is verified",
        ("lm/test_checkpoint.py::test_a_corrupt_newest_checkpoint_is_skipped_and_said_so",),
    ),
    Mutant(
        "lm/run/files.py",
        """        flush_to_disk(partial)
        partial.replace(path)
""",
        """        partial.replace(path)
""",
        "configuration that a power cut takes",
        ("lm/test_resume.py::test_what_a_run_needs_to_go_on_is_on_the_disk_before_its_first_step",),
    ),
    Mutant(
        "lm/run/foreign.py",
        "        if _lies_in(path, run):",
        "        if False:",
        "code that came with a run folder is executed",
        ("lm/test_foreign.py::test_code_that_came_with_a_run_is_not_executed",),
    ),
    Mutant(
        "lm/report/page.py",
        "{html.escape(status['verdict'])}",
        "{status['verdict']}",
        "a report that runs the script of a run folder",
        ("lm/test_foreign.py::test_a_report_shows_hostile_words_as_words",),
    ),
    Mutant(
        "lm/config/parts.py",
        '        check_types(self, "baseline")\n',
        "",
        "a misspelt baseline from Python that trains without one",
        ("lm/test_typed.py::test_python_a_recipe_and_the_command_line_refuse_alike",),
    ),
    Mutant(
        "lm/config/recipes.py",
        "if node is not None and _values(node, {}) > MOST_VALUES:",
        "if False:",
        "ten lines of aliases that stand for more than the memory holds",
        ("lm/test_config.py::test_an_unusable_recipe_is_refused",),
    ),
    Mutant(
        "lm/config/recipes.py",
        "except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:",
        "except ArithmeticError as error:",
        "a KeyError of PyYAML for !!bool x",
        ("project/test_fuzz.py::test_a_reader_takes_what_is_known_to_be_difficult",),
    ),
    Mutant(
        "lm/config/typed.py",
        "if isinstance(value, str) and not _is_writable(value):",
        "if False:",
        "a zero byte in the name of a folder, which the operating system refuses without a word",
        ("lm/test_config.py::test_an_unusable_recipe_is_refused",),
    ),
    Mutant(
        "lm/run/records.py",
        "except (ValueError, RecursionError) as error:",
        "except ValueError as error:",
        "deep JSON in a log, which is no ValueError",
        ("project/test_fuzz.py::test_a_reader_takes_what_is_known_to_be_difficult",),
    ),
    Mutant(
        "lm/config/recipes.py",
        "            if key in seen:\n",
        "            if False:\n",
        "the first of two equal keys of a recipe dropped without a word",
        ("lm/test_typed.py::test_what_readers_read_differently_is_refused",),
    ),
    Mutant(
        "lm/config/recipes.py",
        "if _LEADING_ZERO.fullmatch(node.value):",
        "if False:",
        "seed 010 read as 8",
        ("lm/test_typed.py::test_what_readers_read_differently_is_refused",),
    ),
    Mutant(
        "lm/target/prompt_file.py",
        'decode("utf-8-sig")',
        'decode("utf-8")',
        "a mark of the byte order in the first prompt",
        ("lm/test_prompt_file.py::test_a_prompt_is_its_text_and_nothing_else",),
    ),
    Mutant(
        "lm/target/prompt_file.py",
        "suffix = Path(path).suffix.lower()",
        "suffix = Path(path).suffix",
        "JSON lines read as text because of a capital",
        ("lm/test_prompt_file.py::test_a_prompt_is_its_text_and_nothing_else",),
    ),
    Mutant(
        "lm/features/calls.py",
        "copies = {name: _copy(given[name][rows]) for name in names}",
        "copies = {name: given[name] for name in names}",
        "a feature that sorts its texts changes the next one",
        (
            "lm/test_features.py::test_a_function_that_changes_what_it_is_given_changes_nothing_for_the_next",
        ),
    ),
    Mutant(
        "lm/features/calls.py",
        "    if np.ma.isMaskedArray(values):",
        "    if False:",
        "masked values taken for numbers",
        ("lm/test_features.py::test_a_failing_feature_names_itself_and_the_text",),
    ),
    Mutant(
        "lm/features/files.py",
        "    except (Exception, SystemExit) as error:",
        "    except Exception as error:",
        "a reward file that leaves the program with exit code 0",
        ("lm/test_borders.py::test_a_bad_reward[leaves while loaded]",),
    ),
    Mutant(
        "lm/run/records.py",
        "character if character.isprintable()",
        "character if character.isascii()",
        "a sample that steers the terminal",
        ("lm/test_foreign.py::test_a_sample_cannot_steer_the_terminal",),
    ),
    Mutant(
        "lm/report/outcome.py",
        "verdict = CLOSER if fell else FARTHER if rose else UNDECIDED",
        "verdict = CLOSER",
        "a report that says it moved toward the target, whatever the numbers are",
        ("lm/test_outcome.py::test_the_verdict_follows_from_value_and_error",),
    ),
    Mutant(
        "lm/report/outcome.py",
        "error = BEYOND * (low_error + high_error)",
        "error = 0.0 * (low_error + high_error)",
        "a verdict that takes noise for progress",
        ("lm/test_outcome.py::test_the_verdict_follows_from_value_and_error",),
    ),
    Mutant(
        "lm/report/outcome.py",
        "BEYOND * (low_error + high_error)",
        "BEYOND * math.hypot(low_error, high_error)",
        "errors of evaluations that share samples combined as independent ones",
        ("lm/test_outcome.py::test_the_verdict_follows_from_value_and_error",),
    ),
    Mutant(
        "lm/report/outcome.py",
        "if not math.isnan(value)]",
        "if place >= 0]",
        "the least of values that hold NaN",
        ("lm/test_outcome.py::test_a_value_that_is_not_known_is_not_the_least",),
    ),
    Mutant(
        "lm/report/outcome.py",
        "if _is_less(pairs[least], pairs[-1]) and",
        "if least != len(pairs) - 1 and",
        "the least of noisy values called the lowest",
        ("lm/test_outcome.py::test_lowest_is_said_of_what_lies_below_the_last_beyond_its_error",),
    ),
    Mutant(
        "lm/phases.py",
        "self._stopped.wait(self._silence * LOOK)",
        "self._stopped.wait(60.0)",
        "a phase that is told of only once it is over",
        ("lm/test_phases.py::test_a_phase_speaks_while_its_work_is_under_way",),
    ),
    Mutant(
        "lm/phases.py",
        "pace * (self.total - self.done)",
        "pace * self.total",
        "a time left that is that of the whole work",
        ("lm/test_phases.py::test_time_left_is_that_of_the_parts_still_to_do",),
    ),
    Mutant(
        "lm/models/pretrained.py",
        "!= model.sha256:",
        "== '':",
        "a package with another content, converted as if it were the recorded one",
        ("lm/test_pretrained.py::test_another_file_under_the_name_is_not_used",),
    ),
    Mutant(
        "lm/models/pretrained.py",
        "if free < model.megabytes:",
        "if False:",
        "a conversion that fills the disk",
        ("lm/test_pretrained.py::test_a_disk_that_is_too_small_is_refused_before_the_download",),
    ),
    Mutant(
        "lm/policy/checks.py",
        "same_law_tolerance(precision, lengths) * rounding",
        "same_law_tolerance(precision, lengths)",
        "a deep model whose rounding is called a fault of its law",
        (
            "lm/test_law.py::test_a_deep_model_of_large_logits_may_round_more_and_a_small_one_may_not",
        ),
    ),
    Mutant(
        "lm/features/words.py",
        '(?!\\w)", re.IGNORECASE',
        '", re.IGNORECASE',
        "a word that is found inside a longer one",
        ("lm/test_rewards.py::test_contains_sees_whole_words_in_any_capitals",),
    ),
    Mutant(
        "lm/features/formats.py",
        "    except NO_PROGRAM:\n        return False\n    return True",
        "    except NO_PROGRAM:\n        return False\n    exec(text)\n    return True",
        "a text of the model that is executed",
        ("lm/test_rewards.py::test_valid_python_is_compiled_and_never_executed",),
    ),
    Mutant(
        "lm/features/classifier.py",
        "torch.autocast(device.type, enabled=False)",
        "torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type))",
        "a reward that depends on the policy's precision",
        ("lm/test_rewards.py::test_a_classifier_is_float32_whatever_the_policy_computes_in",),
    ),
    Mutant(
        "lm/features/registry.py",
        "known[atom] = _finite(str(atom), _atom_feature(atom).values, texts, material)",
        "known[atom] = call_on_texts(str(atom), _atom_feature(atom).values, {}, texts, material)",
        "a NaN behind a threshold",
        ("lm/test_rewards.py::test_a_threshold_does_not_hide_a_nan",),
    ),
    Mutant(
        "lm/cli/partition.py",
        "    if torn:",
        "    if False:",
        "a torn line of log Z kept, and the next prompt written behind it",
        ("lm/test_partition_column.py::test_a_second_call_goes_on_where_the_first_ended",),
    ),
    Mutant(
        "lm/cli/partition.py",
        'require_replaceable_file(beside, "the settings of a file of log Z", ours)',
        "_ = ours",
        "somebody's file beside the output written over with our settings",
        ("lm/test_partition_column.py::test_what_is_not_ours_stays_as_it_is",),
    ),
    Mutant(
        "lm/cli/partition.py",
        "found = _estimate(options, base, reader, one, index)",
        "found = _estimate(options, base, reader, one, index - done)",
        "samples that depend on where an earlier call ended",
        ("lm/test_partition_column.py::test_a_second_call_goes_on_where_the_first_ended",),
    ),
    Mutant(
        "lm/cli/partition.py",
        ", chat=base.vocabulary.chat_text",
        "",
        "messages of a chat that lm partition says no model understands",
        ("lm/test_partition_column.py::test_messages_of_a_chat_go_through_the_models_template",),
    ),
    Mutant(
        "lm/models/tokenizer.py",
        "if bare and bare[0] == self._chat_start:",
        "if False:",
        "a chat that begins with a second start token",
        (
            "lm/test_prompt_columns.py::test_messages_go_through_the_template_without_a_second_start",
        ),
    ),
    Mutant(
        "lm/target/problem.py",
        "columns_of(lines), strict=bool(lines)",
        "columns_of(lines)[::-1], strict=bool(lines)",
        "the columns of another prompt",
        ("lm/test_prompt_columns.py::test_columns_reach_a_function_by_the_names_after_the_star",),
    ),
]
