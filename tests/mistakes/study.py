"""Mistakes in the rules by which the study judges its hypotheses, and in its statistics."""

from __future__ import annotations

from mutation import Mutant

HYPOTHESES, JUDGE, POWER, RATES = (
    f"study/rules/{name}.py" for name in ("hypotheses", "judge", "power", "rates")
)
STATISTICS = "study/statistics.py"
ON_FULL_TABLES = "study/test_report.py::test_every_hypothesis_is_judged_on_full_tables"

MUTANTS = [
    # ------------------------------------------------------------------ the rules
    Mutant(
        HYPOTHESES,
        "return max(float(error) for error in errors[precision].values())",
        "return min(float(error) for error in errors[precision].values())",
        "the best of the compared updates for the worst",
        ("study/test_hypotheses.py::test_h1",),
    ),
    Mutant(
        HYPOTHESES,
        "holds, partly = _below(found.high, BEST_SHARE), _below(found.value, BEST_SHARE)",
        "holds, partly = _below(found.value, BEST_SHARE), _below(found.low, BEST_SHARE)",
        "a share of wins judged by its value, whatever its interval",
        ("study/test_hypotheses.py::test_h2",),
    ),
    Mutant(
        HYPOTHESES,
        "parts = wins / np.maximum(wins.sum(axis=2, keepdims=True), 1)",
        "parts = wins.astype(float)",
        "a tie that counts as a whole win for each",
        ("study/test_hypotheses.py::test_h2_counts_pairs_and_shares_ties",),
    ),
    Mutant(
        HYPOTHESES,
        "means[:, place] - means[:, others].min(axis=1)",
        "means[:, place] - np.nanmin(means[:, others], axis=1)",
        "a draw without an objective's runs taken for one in which it is the worst",
        ("study/test_hypotheses.py::test_a_draw_in_which_an_objective_has_no_run_is_undefined",),
    ),
    Mutant(
        HYPOTHESES,
        "partly=rank <= 2",
        "partly=rank <= 3",
        "the third of five as a good balance",
        ("study/test_hypotheses.py::test_h4",),
    ),
    Mutant(
        HYPOTHESES,
        "difference = after_js - after_forward\n",
        "difference = after_forward - after_js\n",
        "tasks counted that forward KL wins",
        ("study/test_hypotheses.py::test_h5",),
    ),
    Mutant(
        HYPOTHESES,
        "holds = below and found.value <= WIDE_MARGIN",
        "holds = below",
        "any margin as a wide one",
        ("study/test_hypotheses.py::test_h5",),
    ),
    Mutant(
        HYPOTHESES,
        "rows = [row[None] for row in difference if not np.isnan(row).all()]",
        "rows = [row[None] for row in difference.T if not np.isnan(row).all()]",
        "seeds counted for tasks",
        ("study/test_hypotheses.py::test_h5",),
    ),
    Mutant(
        HYPOTHESES,
        "return value > bound + ROUNDING",
        "return value > bound - ROUNDING",
        "a correlation of one half that lies above one half, by rounding",
        ("study/test_hypotheses.py::test_h6",),
    ),
    Mutant(
        HYPOTHESES,
        "above = [_above(first.low, DIP), _above(second.low, DIP)]",
        "above = [_above(first.value, DIP), _above(second.value, DIP)]",
        "a dip that no interval shows",
        ("study/test_hypotheses.py::test_h7_is_judged_by_the_intervals",),
    ),
    Mutant(
        HYPOTHESES,
        "holds=_below(found.high, NOISE_CORRELATION),",
        "holds=_above(found.low, -NOISE_CORRELATION),",
        "more regret with more signal to noise",
        ("study/test_hypotheses.py::test_h8",),
    ),
    Mutant(
        HYPOTHESES,
        "holds=_above(found.low, 0.0), partly=_above(found.value, 0.0)",
        "holds=_above(found.value, 0.0), partly=_above(found.high, 0.0)",
        "a large batch judged without its interval",
        ("study/test_hypotheses.py::test_h9",),
    ),
    Mutant(
        HYPOTHESES,
        "holds = _below(found.high, 0.0) and _below(own.value, 0.0)",
        "holds = _below(found.high, 0.0)",
        "a baseline that hurts the others more, as one that helps",
        ("study/test_hypotheses.py::test_h10",),
    ),
    Mutant(
        HYPOTHESES,
        "_below(second.high, -FRONTIER)]",
        "_above(second.low, FRONTIER)]",
        "coverage that rises with alpha",
        ("study/test_hypotheses.py::test_h11",),
    ),
    Mutant(
        HYPOTHESES,
        "interval(_order_of_regrets, both[~same])",
        "interval(_order_of_regrets, both[same])",
        "runs compared with themselves",
        ("study/test_hypotheses.py::test_h12",),
    ),
    Mutant(
        JUDGE,
        'entropy[soft][..., FIVE.index("reverse_kl")] - ',
        '-entropy[soft][..., FIVE.index("reverse_kl")] + ',
        "the diversity that reverse KL gains over forward KL",
        (ON_FULL_TABLES,),
    ),
    Mutant(
        JUDGE,
        "gains = log_measures(own) - log_measures(cube.values[..., 0])",
        "gains = log_measures(cube.values[..., 0]) - log_measures(own)",
        "what is lost with a baseline, as its gain",
        (ON_FULL_TABLES,),
    ),
    # ------------------------------------------------------------------ rates and power
    Mutant(
        RATES,
        "return float(np.exp(np.log(np.maximum(known, FLOOR)).mean()))",
        "return float(np.maximum(known, FLOOR).mean())",
        "rates chosen by an arithmetic mean, which the largest task decides",
        ("study/test_rates.py::test_the_score_is_a_geometric_mean_over_tasks_and_seeds",),
    ),
    Mutant(
        RATES,
        "shared = table[present.notna().all(axis=1)]",
        "shared = table",
        "rates compared on different runs",
        ("study/test_rates.py::test_rates_are_compared_on_the_runs_that_all_of_them_have",),
    ),
    Mutant(
        POWER,
        "critical = t.ppf(1.0 - significance / 2.0, seeds - 1)",
        "critical = t.ppf(1.0 - significance, seeds - 1)",
        "a one-sided test for a two-sided one",
        ("study/test_statistics.py::test_power_is_the_share_of_rejections",),
    ),
    Mutant(
        POWER,
        "squares += float(np.var(ratio, ddof=1)) * (ratio.size - 1)",
        "squares += float(np.var(ratio)) * (ratio.size - 1)",
        "the spread of a known mean",
        ("study/test_rates.py::test_the_spread_is_pooled_over_pairs_by_hand",),
    ),
    # ------------------------------------------------------------------ statistics
    Mutant(
        STATISTICS,
        "tails = np.round([(1.0 - level) / 2.0, (1.0 + level) / 2.0], 12)",
        "tails = np.round([1.0 - level, level], 12)",
        "5 % in each tail of an interval of 95 %",
        ("study/test_statistics.py::test_percentiles_of_a_known_sample",),
    ),
    Mutant(
        STATISTICS,
        "drawn = packed[unit[..., None], place]",
        "drawn = packed[np.arange(units)[:, None], place]",
        "a bootstrap of the seeds alone: the tasks are taken as they are",
        ("study/test_statistics.py::test_bootstrap_draws_seeds_within_the_units_drawn",),
    ),
]
