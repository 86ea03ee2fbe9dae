"""The verification report: one self-contained page, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import exp
from pathlib import Path

from fdpg_ref import DIVERGENCES
from fdpg_ref.display import html_page, title_of
from toy.files import write_text
from toy.verify.claims import penalties
from toy.verify.records import FACTS, PROPORTIONAL, Record
from toy.verify.report import figures, measures
from toy.verify.report.guards import PASSED
from toy.verify.report.table import TITLE, factor_text, short_number

_STYLE = """
.fact { background: #1c2430; color: #fff; border-radius: .3rem; padding: .1rem .45rem;
  margin-right: .4rem; font-size: .95rem; }
nav { margin-bottom: 1.2rem; } summary { cursor: pointer; }
nav a, summary { display: inline-block; padding: .35rem .5rem; color: #0b5cad;
  text-decoration: none; font-size: .92rem; }
.claim { border-top: 1px solid #e8ebef; margin-top: .6rem; padding-top: .5rem; }
.claim p { margin: .15rem 0; }
.chip { display: inline-block; border-radius: .8rem; padding: 0 .5rem; margin: .1rem .15rem .1rem 0;
  font-size: .82rem; white-space: nowrap; }
.exact { background: #d9f2e3; color: #0b5a33; }
.proportional { background: #fdf0cd; color: #6b4a00; }
.biased { background: #f3e3f3; color: #6b216b; } .failed { background: #b42318; color: #fff; }
code { font-size: .82rem; overflow-wrap: anywhere; } table { font-size: .86rem; }
tbody th { position: sticky; left: 0; background: #fff; color: inherit; min-width: 7rem; }
img { width: 100%; max-width: 40rem; margin: 0 auto; }
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; }
  body { background: #12171e; color: #d9dee6; }
  section, tbody th { background: #1b222c; } img { background: #fff; }
  .muted, figcaption, th { color: #a3aebb; } .fact { background: #d9dee6; color: #12171e; }
  th, td, .claim { border-color: #323c49; } nav a, summary { color: #7ab7ff; }
}
"""

# Rows of the table of Z policies: title, and the estimators whose records fill it.
Z_TABLE: Mapping[str, str] = {
    "exact": "one sample",
    "exact, LOO baseline": "LOO baseline",
    "frozen offline": "frozen Z",
    "frozen offline, LOO baseline": "frozen Z, LOO baseline",
    "past-only, policy moved": "past-only Z, policy moved",
    "past and current": "past-and-current Z",
    "leave-one-out": "LOO Z",
    "leave-one-out, LOO baseline": "LOO Z, LOO baseline",
    "same batch": "same-batch Z",
    "same batch, LOO baseline": "same-batch Z, LOO baseline",
    "off by a constant": "Z off by a constant",
}


def write_page(records: Sequence[Record], guards: Mapping[str, str], path: Path) -> None:
    """Write the report as one HTML file without anything outside it, whole or not at all.

    Parameters
    ----------
    records : sequence of Record
        From `toy.verify.run_claims`.
    guards : mapping of str
        Outcome of each guarding test, from `toy.verify.report.guards.run_guards`.
    path : pathlib.Path
        Where to; missing folders are made.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    write_text(path, page(records, guards))


def page(records: Sequence[Record], guards: Mapping[str, str]) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    records, guards
        As in `write_page`.

    Returns
    -------
    str
        A whole document with its style and figures inline.
    """
    by_fact = {fact: [r for r in records if r.fact == fact] for fact in FACTS}
    links = "".join(f'<a href="#{fact}">{escape(fact)}</a>' for fact in FACTS)
    extras = {"F4": _noise(), "F5": _z_policies(records), "F7": _dictionary()}
    sections = "".join(
        _section(fact, by_fact[fact], guards, extras.get(fact, "")) for fact in FACTS
    )
    return html_page(
        TITLE,
        f"<header><h1>{TITLE}</h1></header>{_summary(records, guards)}{_introduction()}"
        f"<nav>{links}</nav>{sections}",
        _STYLE,
    )


def _summary(records: Sequence[Record], guards: Mapping[str, str]) -> str:
    failed = sum(not r.holds for r in records)
    unguarded = sum(outcome != PASSED for outcome in guards.values())
    claims = len({r.claim for r in records})
    text = (
        f"{len(records)} measurements of {claims} claims: {len(records) - failed} hold, {failed} "
        "fail. "
    )
    # The site measures, and leaves the tests to whoever makes the page.
    text += (
        f"{len(guards)} guarding tests were run: {len(guards) - unguarded} passed, "
        f"{unguarded} did not."
        if guards
        else "Their guarding tests are named, and were not run for this page."
    )
    return f'<p class="verdict {"bad" if failed or unguarded else "good"}">{text}</p>'


def _introduction() -> str:
    return (
        "<p>Each claim was measured by adding up <em>all</em> outcomes, batches or sequences of "
        "small random problems with large log-ratios; nothing is sampled and no verdict is stored. "
        "The judge differentiates the definition of the divergence by complex steps and shares no "
        "code with the estimators. “Verified by exact enumeration over N problems” is what it "
        "says: it is no proof.</p>"
        f"<p>{_chip('exact', 'exact')} the mean is the truth to 1e-10. "
        f"{_chip('proportional', '×0.667')} it is a factor, computed apart from the estimator, "
        f"times the truth. {_chip('biased', 'biased')} it is neither, off by more than 1e-3 "
        "(of an inequality or a zero: it does not hold), as claimed.</p>"
    )


def _section(fact: str, records: Sequence[Record], guards: Mapping[str, str], before: str) -> str:
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.claim, []).append(r)
    claims = "".join(_claim(claim, members, guards) for claim, members in groups.items())
    return (
        f'<section id="{fact}"><h2><span class="fact">{escape(fact)}</span>{FACTS[fact]}</h2>'
        f"{before}{claims}</section>"
    )


def _claim(claim: str, members: Sequence[Record], guards: Mapping[str, str]) -> str:
    worst = max(r.max_relative_error for r in members)
    estimators = sorted({r.estimator for r in members if r.estimator})
    subject = escape("; ".join(estimators) or "an identity between exact quantities")
    chips = "".join(_record_chip(r) for r in members)
    tests = sorted({r.test_id for r in members})
    guarded = "<br>".join(
        f"guarded by <code>{escape(test)}</code>"
        + (f": {guards.get(test, 'not run')}" if guards else "")
        for test in tests
    )

    rows = (
        (r.composition, _record_verdict(r), str(r.problems), f"{r.max_relative_error:.1e}")
        for r in members
    )
    table = _table(("composition", "verdict", "problems", "largest error"), rows)
    return (
        f'<div class="claim"><p>{escape(claim)}</p><p class="muted">{subject}</p><p>{chips}</p>'
        f'<p class="muted">{members[0].evidence}; largest relative error {worst:.1e}<br>'
        f"{guarded}</p><details><summary>{len(members)} measured</summary>{table}</details></div>"
    )


def _record_chip(r: Record) -> str:
    about = title_of(r.divergence) + " " if r.divergence else ""
    return _chip(r.verdict if r.holds else "failed", about + _record_verdict(r))


def _record_verdict(r: Record) -> str:
    if not r.holds:
        return f"FAILED: claimed {r.claimed}, measured {r.verdict}"
    if r.verdict == PROPORTIONAL and r.factor is not None:
        return factor_text(r.factor)
    return r.verdict


def _chip(kind: str, text: str) -> str:
    return f'<span class="chip {kind}">{escape(text)}</span>'


def _z_policies(records: Sequence[Record]) -> str:
    cells = {(r.estimator, r.divergence): r for r in records}
    rows = []
    for title, estimator in Z_TABLE.items():
        found = (cells.get((estimator, name)) for name in DIVERGENCES)
        rows.append([title, *("·" if r is None else _z_cell(r) for r in found)])
    table = _table(("where Z comes from", *(d.title for d in DIVERGENCES.values())), rows, raw=True)
    return (
        "<p>The table of Z policies, from the measurements below. A factor that depends on the "
        "problem, or on its past, is that of the first one; under a bias stands its largest "
        f"size, relative to the gradient.</p>{table}"
        + _image(
            figures.bias_figure(),
            "Relative bias |E ĝ − g|/|g| against the batch size, over all batches, three outcomes. "
            f"What lies on the floor is zero to rounding. {_problem()}",
        )
    )


def _z_cell(r: Record) -> str:
    size = f"<br>{short_number(r.max_relative_error)}" if r.verdict == "biased" else ""
    return _chip(r.verdict if r.holds else "failed", _record_verdict(r)) + size


def _problem() -> str:
    world = measures.world_of(measures.bias_problem())
    policy, target = (
        "(" + ", ".join(f"{exp(x):.3f}" for x in log_probs) + ")"
        for log_probs in (world.log_policy, world.log_score - world.log_z)
    )
    return f"Policy {policy}, target {target}, Z = {exp(world.log_z):.3f}."


def _dictionary() -> str:
    rows = []
    for entry in penalties.DICTIONARY:
        found = penalties.find(entry)
        if found.descends is None:
            nearest = title_of(found.nearest)
            words = f"none of the named (nearest: {nearest}, residual {found.residual:.2f})"
        else:
            words = penalties.describe(found.descends)
        where = "loss × ratio" if entry.placement == "ratio" else entry.placement
        samples = entry.samples.replace("_", "-")
        rows.append((f"{entry.row} {entry.penalty}", f"{where}, {samples}", words))
    table = _table(("penalty", "where", "measured expected gradient"), rows)
    return (
        "<p>The dictionary, measured: gradients of the expected penalty on all problems, fitted "
        "by at most two of the named divergences. “× ratio”: times π/π_old, differentiated as "
        "well.</p>"
        f"{table}"
    )


def _noise() -> str:
    nats = [f"{measures.distance_in_nats(d):.2g}" for d in measures.DISTANCES]
    rows = []
    for name, by_distance in measures.noise_of_divergences().items():
        found = list(by_distance.values())
        rows.append(
            (
                title_of(name),
                *(f"{one.signal_to_noise:.2f}" for one in found),
                f"{found[0].samples:.1f}",
                f"{found[0].rarest:.0%}",
            )
        )

    heads = (
        "divergence",
        *(f"SNR at {value} nats" for value in nats),
        f"samples for SNR 1, {nats[0]} nats",
        "noise from the rarest outcome",
    )

    return (
        "<p>The exact signal-to-noise ratio |E ĝ| / √trace Cov of the gradient at equal samples "
        "(n = 5, leave-one-out baseline; medians over the problems), with the policy at three "
        "distances KL(π‖p) from the target. Near the target all smooth divergences agree. Far "
        "away the ones whose signal grows like p/π where the policy is small lose: they pay for "
        "rare samples with large coefficients.</p>"
        + _table(heads, rows)
        + _image(
            figures.mode_figure(),
            "The same where the policy misses a mode: the ratio of forward KL falls like the root "
            "of the mass that is missing, since E_π[(1 − p/π)²] = χ²(p‖π).",
        )
        + _image(
            figures.baseline_figure(),
            "Noise by baseline. Four peers are a noisy leave-one-out mean, five past samples a "
            "less noisy one; both are unbiased. The best constant is the floor of the constants.",
        )
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, raw: bool = False) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>"
        + "".join(f"<td>{cell if raw else escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _image(encoded: str, caption: str) -> str:
    alt = escape(caption, quote=True)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
