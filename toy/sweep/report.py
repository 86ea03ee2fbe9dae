"""The table in print: who wins on which measure, and whether gradient noise explains it."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from toy.sweep.descents.objectives import OBJECTIVES
from toy.sweep.measures import DISTANCES

# Measure: whether more of it is better. The last two are what distances are traded for.
MEASURES = dict.fromkeys(DISTANCES, False) | {"alignment": True, "entropy": True}
RATIOS = ("snr_start", "snr_shared", "snr_path")
# Values this close are a tie, and a win is then shared: the table holds 4.5 digits.
_RELATIVE_TIE, _ABSOLUTE_TIE = 1e-4, 1e-9


def shares_won(frame: Any, measure: str) -> Any:
    """Return the share of problems that each objective wins on a measure.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table of the study, or some of its rows.
    measure : str
        A key of `MEASURES`.

    Returns
    -------
    pandas.DataFrame
        Shares between 0 and 1; one row per phase and rate, one column per objective. A tie is
        shared. Problems do not count where the measure is infinite or missing for all objectives.
    """
    sign = -1.0 if MEASURES[measure] else 1.0
    cost = (sign * frame[measure].astype("float64")).fillna(float("inf"))
    problem = [frame[name] for name in ("problem", "phase", "rate")]
    best = cost.groupby(problem, observed=True).transform("min")
    counted = best < float("inf")
    near = counted & (cost <= best + _RELATIVE_TIE * best.abs() + _ABSOLUTE_TIE)
    winners = near.groupby(problem, observed=True).transform("sum")
    won = near / winners.where(winners > 0, 1)
    keys = [frame[name] for name in ("phase", "rate", "objective")]
    total = won.groupby(keys, observed=True).sum().unstack(fill_value=0.0)
    return total.div(total.sum(axis=1), axis=0)


def noise_correlation(frame: Any, ratio: str, result: Any) -> Any:
    """Return how well the noise of gradients ranks the objectives of a problem.

    Parameters
    ----------
    frame : pandas.DataFrame
        Descents of the study.
    ratio : str
        One of `RATIOS`.
    result : pandas.Series
        The distance reached or lost, row by row. Rows in which it is not finite do not count, nor
        do problems on which all objectives are equal.

    Returns
    -------
    pandas.Series
        Spearman correlation of ratio and result among the objectives of a problem, averaged over
        problems; one entry per phase and rate. Negative: where there is less noise, less is left.
    """
    pairs = frame[["problem", "phase", "rate", ratio]].assign(result=result)
    pairs = pairs[pairs["result"].abs() < float("inf")].dropna()
    keys = [pairs[key] for key in ("problem", "phase", "rate")]
    ranks = pairs[[ratio, "result"]].groupby(keys, observed=True).rank()
    centred = ranks - ranks.groupby(keys, observed=True).transform("mean")
    products = (centred[ratio] * centred["result"]).groupby(keys, observed=True).sum()
    squares = (centred**2).groupby(keys, observed=True).sum()
    found = products / (squares[ratio] * squares["result"]) ** 0.5
    return found.groupby(level=["phase", "rate"], observed=True).mean()


def lost_to_sampling(frame: Any, measure: str) -> Any:
    """Return how much farther a sampled descent ended than the exact one of the same objective.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table of the study.
    measure : str
        A distance to the target.

    Returns
    -------
    pandas.Series
        The difference of the distances, in nats, for the rows of sampled descents.
    """
    keys = ["problem", "objective", "rate"]
    values = frame.set_index([*keys, "phase"])[measure].astype("float64")
    exact = values.xs("exact", level="phase")
    sampled = frame[frame["phase"] == "sampled"]
    matched = exact.reindex(sampled.set_index(keys).index)
    return sampled[measure].astype("float64") - matched.to_numpy()


def print_report(frame: Any, console: Console) -> None:
    """Print the shares won, the correlations with noise, and what was left out or not converged."""
    shares = {measure: shares_won(frame, measure) for measure in MEASURES}
    for phase, rate in next(iter(shares.values())).index:
        console.print(_shares(shares, phase, rate))
    descents = frame[frame["phase"] != "optimum"]
    reached = {name: descents[name] for name in DISTANCES}
    reached["own_share_left"] = descents["own"] / descents["own_start"]
    console.print(_correlations(descents, reached, "distance reached"))
    sampled = frame[frame["phase"] == "sampled"]
    lost = {name: lost_to_sampling(frame, name) for name in DISTANCES}
    lost["own_share_left"] = lost_to_sampling(frame, "own") / sampled["own_start"]
    console.print(_correlations(sampled, lost, "distance lost to sampling"))
    for line in caveats(frame):
        console.print(line, soft_wrap=True, highlight=False)


def caveats(frame: Any) -> list[str]:
    """Return one sentence each on infinite objectives, minima, equal noise and stopped descents."""
    hard = frame.loc[frame["kind"] == "hard_rare"]
    left_out = [name for name in OBJECTIVES if not (hard["objective"] == name).any()]
    problems = hard["problem"].nunique()

    optimum = frame.loc[frame["phase"] == "optimum"]
    descents = frame.loc[frame["phase"] != "optimum"]
    unfinished = optimum.loc[~optimum["converged"]]
    kinked = (unfinished["objective"] == "total_variation").sum()
    endless = (unfinished["kind"] == "hard_rare").sum()
    stopped = (~descents["converged"]).sum()

    lines = [
        f"{', '.join(left_out)}: infinite on the {problems} hard targets and left out there.",
        f"optimum: {len(unfinished)} of {len(optimum)} minimisations did not converge, {kinked} of "
        f"them of total variation (which has kinks) and {endless} on hard targets (whose minimum "
        "may lie at infinity).",
        f"snr_start: the same for all objectives on {_equally_noisy(frame)} of "
        f"{frame['problem'].nunique()} problems, which do not count in its correlations (if pi/p "
        "takes two values, as on the base of one binary feature, all signals are proportional).",
        f"descents: {stopped} of {len(descents)} stopped at a gradient that was not finite.",
    ]
    return lines if problems else lines[1:]


def _equally_noisy(frame: Any) -> int:
    """Return on how many problems the noise at the start is the same for all objectives."""
    ratios = frame.groupby("problem", observed=True)["snr_start"].agg(["min", "max"])
    return int((ratios["max"] <= ratios["min"] * (1 + _RELATIVE_TIE)).sum())


def _shares(shares: dict[str, Any], phase: str, rate: str) -> Table:
    """Return the shares won in one phase, one row per objective."""
    title = f"Problems won, in percent: {phase}" + ("" if rate == "none" else f", {rate} rate")
    headings = [f"{'most' if more else 'least'}_{measure}" for measure, more in MEASURES.items()]
    table = _table(title, ["objective"], headings)
    for name in OBJECTIVES:
        cells = [f"{100 * shares[m].get(name, {}).get((phase, rate), 0.0):.1f}" for m in MEASURES]
        table.add_row(name, *cells)
    return table


def _correlations(rows: Any, results: dict[str, Any], what: str) -> Table:
    title = f"Rank correlation, within a problem, of signal-to-noise with {what}"
    table = _table(title, ["phase", "rate", "ratio"], list(results))
    for ratio in RATIOS:
        columns = [noise_correlation(rows, ratio, result) for result in results.values()]
        for phase, rate in next(iter(columns)).index:
            cells = [f"{column[phase, rate]:+.2f}" for column in columns]
            table.add_row(phase, rate, ratio, *cells)
    return table


def _table(title: str, names: list[str], numbers: list[str]) -> Table:
    """Return a table of 80 characters: the headings are long and the numbers are not."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name.replace("_", "\n"), justify="right")
    return table
