"""The explorer's numbers, run by node without a browser, against fdpg_ref and the toy."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from support import explorer
from support.explorer import PARTS, PROBE, assert_same, random_state

from fdpg_ref import DIVERGENCES, exact_divergence, find_divergence, log_softmax
from tools import build_explorer
from toy.audit.findings import MINIMUM, TRIED

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node: apt-get install nodejs")
SOURCES = ("numbers.js", "penalties.js")


def run(script: str) -> Any:
    """Return the value of an expression that may use Numbers and Penalties."""
    assert NODE is not None
    source = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SOURCES)
    whole = f"{source}\nprocess.stdout.write(JSON.stringify({script}));"
    done = subprocess.run(
        [NODE, "-"], input=whole, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_is_what_its_parts_say():
    assert build_explorer.PAGE.read_text(encoding="utf-8") == build_explorer.page(), (
        "run: python tools/build_explorer.py"
    )


def test_the_page_is_small_and_names_no_other_host():
    text = build_explorer.PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) <= 400_000
    for part in ("http:", "https:", "//cdn", "@import", "src=", "fetch(", "XMLHttpRequest"):
        assert part not in text, part


@needs_node
def test_numbers_are_those_of_the_core():
    rng = np.random.default_rng(0)
    states = [random_state(rng) for _ in range(12)]
    assert_same(run(f"{json.dumps(states)}.map({PROBE})"), states)


@needs_node
def test_kernels_hold_where_policy_and_target_nearly_agree():
    """At log-ratios of 1e-6 a plain sum of p f(t) would keep four digits of a KL divergence."""
    names = [*DIVERGENCES, "alpha_0", "alpha_0.3", "alpha_1"]
    target = np.log([0.2, 0.3, 0.5])
    shifts = [shift * np.array([1.0, -1.0, 0.4]) for shift in (1e-6, 1e-3, 0.7, 3.0)]
    policies = [log_softmax(target + shift) for shift in shifts]
    pairs = json.dumps([[name, policy.tolist()] for name in names for policy in policies])
    found = run(f"{pairs}.map(([n, q]) => Numbers.divergence(n, q, {target.tolist()}))")
    wanted = [
        float(exact_divergence(policy, target, divergence=find_divergence(name)))
        for name in names
        for policy in policies
    ]
    # Both see the same rounded logarithms, and take u from them alike. What is left is the mismatch
    # of the masses: two sums that differ by 1e-16, which is 1e-10 of u.
    assert found == pytest.approx(wanted, rel=1e-9)


# ---------------------------------------------------------------- penalties as people write them

WRITTEN = {
    "u": lambda u: u,
    "u**2/2": lambda u: u**2 / 2,
    "exp(-u) - 1 + u": lambda u: torch.exp(-u) - 1 + u,
    "-u^2 + 3*u": lambda u: -(u**2) + 3 * u,
    "2^u^2": lambda u: 2 ** (u**2),
    "(1 + abs(u))^1.5": lambda u: (1 + torch.abs(u)) ** 1.5,
    "log(1 + u^2) / 3 - 1": lambda u: torch.log(1 + u**2) / 3 - 1,
    "clip(u, -1, 1) * tanh(u)": lambda u: torch.clip(u, -1, 1) * torch.tanh(u),
    "max(u, 0) + min(u, -1/2)": lambda u: torch.clamp(u, min=0) + torch.clamp(u, max=-0.5),
    "sqrt(1 + u*u) - expm1(u/4) + log1p(exp(u))": lambda u: (
        torch.sqrt(1 + u * u) - torch.expm1(u / 4) + torch.log1p(torch.exp(u))
    ),
    "1e-1 * (u - .25)": lambda u: 0.1 * (u - 0.25),
}


@needs_node
def test_a_penalty_is_read_with_its_derivative():
    points = [-2.7, -1.3, -0.6, 0.3, 0.8, 2.1]
    found = run(
        f"{json.dumps(list(WRITTEN))}.map((text) => "
        f"{json.dumps(points)}.map((u) => Penalties.parse(text)(u)))"
    )
    for (text, function), pairs in zip(WRITTEN.items(), found, strict=True):
        u = torch.tensor(points, dtype=torch.float64, requires_grad=True)
        value = function(u)
        value.sum().backward()
        assert u.grad is not None
        # A handful of operations each: a few ulp.
        assert [pair[0] for pair in pairs] == pytest.approx(value.tolist(), rel=1e-13), text
        assert [pair[1] for pair in pairs] == pytest.approx(u.grad.tolist(), rel=1e-13), text


@needs_node
def test_what_cannot_be_read_is_said():
    wrong = {
        "k1": "I do not know “k1”",
        "u +": "Something is missing at the end",
        "(u": "I expected “)” where I found the end",
        "u u": "I cannot read on from “u”",
        "log(u)": "this is no finite number",
        "alert(1)": "I do not know “alert”",
        "constructor(u)": "I do not know “constructor”",
        "": "Something is missing",
    }
    script = """((text) => { try { Penalties.parse(text); return "nothing"; }
        catch (error) { return error.message; } })"""
    found = run(f"{json.dumps(list(wrong))}.map({script})")
    for (text, words), message in zip(wrong.items(), found, strict=True):
        assert words in message, (text, message)


@needs_node
@pytest.mark.slow
def test_verdicts_are_those_of_the_audit():
    from toy.audit import audit

    wanted = {}
    for name, placement in ((n, p) for n in explorer.PENALTIES for p in ("loss", "reward")):
        for samples, said in (("own", "on_policy"), ("old", "stale")):
            loss = explorer.clipped if name == "clip" else name  # which the audit has no name for
            wanted[name, placement, samples] = audit(loss, placement=placement, samples=said)
        if placement == "loss" and name not in ("abs", "clip"):
            wanted[name, placement, "ratio"] = audit(f"ratio_{name}", samples="stale")
    script = """(([name, placement, samples]) => Penalties.verdict(
        Penalties.parse(Penalties.NAMED[name].text), { placement, samples },
        [0.15, 0.3, 0.55].map(Math.log), [0.2, 0.7, 0.1].map(Math.log)))"""
    found = run(f"{json.dumps(list(wanted))}.map({script})")
    for (how, report), verdict in zip(wanted.items(), found, strict=True):
        # The audit tells a proven minimum from one that every tried direction pulls back to.
        said = MINIMUM if report.at_reference == TRIED else report.at_reference
        assert verdict["reference"] == said, (how, report.sentence)
        if how[2] != "old" and report.comparison.best_match is not None:
            assert verdict["named"]["name"] == report.comparison.best_match, how
            assert verdict["named"]["scale"] == pytest.approx(report.comparison.scale), how
