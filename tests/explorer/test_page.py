"""The explorer in headless Chromium, with the network closed: its numbers, and every control."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import chromium
from support.chromium import Page, offline_page
from support.explorer import PAGE, PROBE, assert_same, random_state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING),
]
ADDRESS = PAGE.as_uri()
TABS = {"triangle": "Triangle", "humps": "Humps", "penalty": "Penalty", "measure": "Measure"}
STATES = 1000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with offline_page(tmp_path_factory.mktemp("profile"), ADDRESS) as opened:
        yield opened
        # Whatever the tests did, no script failed, and nothing but the page itself was asked for.
        assert opened.errors == []
        assert {address for address in opened.requests if not address.startswith("data:")} == {
            ADDRESS
        }


@pytest.fixture
def fresh(page: Page) -> Page:
    """Return the page as a reader finds it."""
    page.screen(1240, 1200)
    page.open("about:blank")
    page.open(ADDRESS)
    return page


def state(page: Page, tab: str) -> dict[str, Any]:
    return page.run(f"JSON.parse(JSON.stringify({TABS[tab]}Tab.state))")


def picture(page: Page, canvas: str) -> str:
    return page.run(f"document.getElementById({canvas!r}).toDataURL()")


def text(page: Page, place: str) -> str:
    return page.run(f"document.getElementById({place!r}).textContent")


def test_a_thousand_random_states_are_those_of_the_core(page: Page):
    rng = np.random.default_rng(1)
    states = [random_state(rng) for _ in range(STATES)]
    assert_same(page.run(f"{json.dumps(states)}.map({PROBE})"), states)


def test_what_is_written_is_what_was_computed(fresh: Page):
    """The numbers in the page's text are the functions' numbers, rounded to three digits."""
    script = "[TriangleTab.read().value, TriangleTab.read().length]"
    wanted = fresh.run(script)
    shown = [float(text(fresh, place)) for place in ("t-value", "t-length")]
    assert shown == pytest.approx(wanted, rel=5e-3)
    fresh.click("#tab-measure")
    found = fresh.run("MeasureTab.read()")
    assert float(text(fresh, "m-truth")) == pytest.approx(found["policy"]["truth"], rel=5e-3)
    assert float(text(fresh, "m-policy-mean")) == pytest.approx(found["policy"]["mean"], rel=5e-3)
    fresh.click("#tab-humps")
    for name, ball in fresh.run("HumpsTab.read()").items():
        assert float(text(fresh, f"h-{name}-end")) == pytest.approx(ball["value"], rel=5e-3)


# ---------------------------------------------------------------- every control

# A tab, a control, how it is moved, what of the state it changes, and what is drawn anew.
SLIDERS = [
    ("triangle", "t-alpha", "divergence", "t-triangle"),
    ("triangle", "t-error", "errorOfLogZ", "t-signal"),
    ("triangle", "t-rate", "rate", "t-triangle"),
    ("triangle", "t-n", "n", "t-cloud"),
    ("humps", "h-distance", "distance", "h-landscape"),
    ("humps", "h-share", "share", "h-policies"),
    ("measure", "m-share", "share", "m-curves"),
    ("measure", "m-trace", "trace", "m-masses"),
]
RADIOS = [
    ("triangle", "t-baseline", "baseline", "t-cloud"),
    ("humps", "h-shown", "shown", "h-landscape"),
    ("penalty", "p-placement", "placement", "p-slope"),
    ("penalty", "p-samples", "samples", None),
    ("penalty", "p-named", "text", "p-value"),
]
HANDLES = [
    ("triangle", "t-policy", "policy", "t-signal"),
    ("triangle", "t-target", "target", "t-triangle"),
    ("humps", "h-start", "start", "h-landscape"),
    ("penalty", "p-policy", "policy", "p-descent"),
    ("penalty", "p-reference", "reference", "p-descent"),
    ("penalty", "p-old", "old", "p-descent"),
    ("measure", "m-size", "n", "m-curves"),
]
OTHERS = {
    *(f"tab-{name}" for name in TABS),
    *("theme", "t-divergence", "t-play", "t-step", "t-reset", "h-play", "h-reset"),
    *("p-text", "p-reset", "m-again"),
}


def test_no_control_is_forgotten(fresh: Page):
    script = """[...document.querySelectorAll("input, select, button, textarea, a")].map(
        (element) => element.type === "radio" ? element.name : element.id)"""
    driven = {row[1] for row in (*SLIDERS, *RADIOS, *HANDLES)} | OTHERS
    assert set(fresh.run(script)) == driven


def test_every_control_has_a_name(fresh: Page):
    script = """[...document.querySelectorAll("input, select, button")].filter((element) =>
        !element.getAttribute("aria-label") && !element.labels?.length
        && !element.textContent.trim()).map((element) => element.outerHTML)"""
    assert fresh.run(script) == []


def test_a_slider_moves_by_the_keyboard(fresh: Page):
    for tab, control, key, canvas in SLIDERS:
        fresh.click(f"#tab-{tab}")
        before, drawn = state(fresh, tab), picture(fresh, canvas)
        said = text(fresh, f"{control}-value")
        fresh.run(f"document.getElementById({control!r}).focus()")
        fresh.press("ArrowRight", times=2)
        assert state(fresh, tab)[key] != before[key], control
        assert text(fresh, f"{control}-value") != said, control
        assert picture(fresh, canvas) != drawn, control


def test_a_choice_is_made_by_a_click(fresh: Page):
    for tab, group, key, canvas in RADIOS:
        fresh.click(f"#tab-{tab}")
        values = fresh.run(
            f"[...document.querySelectorAll('input[name={group}]')].map((e) => e.value)"
        )
        seen = set()
        for value in [*values[1:], values[0]]:
            before = picture(fresh, canvas) if canvas else None
            fresh.click(f"label:has(> input[name={group}][value={value}])")
            seen.add(state(fresh, tab)[key])
            assert canvas is None or picture(fresh, canvas) != before, (group, value)
        assert len(seen) == len(values), group


@pytest.mark.parametrize("by", ["mouse", "finger", "keyboard"])
def test_a_handle_is_dragged(fresh: Page, by: str):
    fresh.screen(*((390, 844) if by == "finger" else (1240, 1200)), touch=by == "finger")
    for tab, control, key, canvas in HANDLES:
        fresh.click(f"#tab-{tab}")
        if control == "p-old":
            fresh.click("label:has(> input[name=p-samples][value=old])")
        before, drawn = state(fresh, tab), picture(fresh, canvas)
        if by == "keyboard":
            fresh.run(f"document.getElementById({control!r}).focus()")
            fresh.press("ArrowRight", times=3)
            fresh.press("ArrowUp", times=2)
        else:
            move = fresh.drag if by == "mouse" else fresh.swipe
            move(f"#{control}", (30.0, -20.0))
        assert state(fresh, tab)[key] != before[key], control
        assert picture(fresh, canvas) != drawn, control
        said = fresh.run(f"document.getElementById({control!r}).getAttribute('aria-valuetext')")
        assert any(letter.isdigit() for letter in said), control


def test_a_dragged_policy_lies_under_the_pointer(fresh: Page):
    x, y = fresh.center("#t-policy")
    fresh.drag("#t-policy", (25.0, 60.0))
    assert fresh.center("#t-policy") == pytest.approx((x + 25, y + 60), abs=1)


def test_every_divergence_can_be_chosen(fresh: Page):
    values = fresh.run("[...document.querySelectorAll('#t-divergence option')].map((o) => o.value)")
    fresh.run("document.getElementById('t-divergence').focus()")
    pictures = {picture(fresh, "t-signal")}
    for value in values[1:]:
        fresh.press("ArrowDown")
        assert state(fresh, "triangle")["divergence"].startswith(value)
        pictures.add(picture(fresh, "t-signal"))
    # The slider of alpha stands where reverse KL or Hellinger left it.
    assert len(pictures) >= len(values) - 1


def test_the_descent_steps_plays_and_goes_back(fresh: Page):
    start = state(fresh, "triangle")["policy"]
    fresh.click("#t-step")
    assert text(fresh, "t-steps") == "1"
    fresh.click("#t-play")
    assert text(fresh, "t-play") == "Pause"
    while text(fresh, "t-play") == "Pause":
        fresh.settle()
    # At its end the policy is where the target is: the play stops at steps below 2e-4.
    assert fresh.run("TriangleTab.read().value") < 1e-4
    fresh.click("#t-reset")
    assert state(fresh, "triangle")["policy"] == start
    assert text(fresh, "t-steps") == "0"


def test_balls_roll_to_where_the_notebook_saw_them(fresh: Page):
    fresh.click("#tab-humps")
    fresh.click("#h-play")
    while text(fresh, "h-play") == "Pause":
        fresh.settle()
    found = fresh.run("HumpsTab.read()")
    on_one = {name for name, ball in found.items() if np.exp(ball["theta"][1]) < 1}
    assert on_one == {"reverse_kl"}
    for name in ("total_variation", "jensen_shannon"):
        assert found[name]["star"]["value"] < found[name]["value"] - 0.02
    fresh.click("#h-reset")
    assert state(fresh, "humps")["balls"]["reverse_kl"] == state(fresh, "humps")["start"]


def test_a_penalty_of_ones_own_is_judged(fresh: Page):
    fresh.click("#tab-penalty")
    fresh.run("document.getElementById('p-text').select()")
    _ = fresh.call("Input.insertText", text="u^3")
    fresh.settle()
    assert fresh.run("document.querySelector('input[name=p-named]:checked').value") == "own"
    assert text(fresh, "p-explain") == "f′ rises and falls: that is no f-divergence."
    fresh.run("document.getElementById('p-text').select()")
    _ = fresh.call("Input.insertText", text="u^")
    fresh.settle()
    assert "missing" in text(fresh, "p-error")
    # What cannot be read leaves the last penalty in place.
    assert state(fresh, "penalty")["text"] == "u^3"
    fresh.drag("#p-policy", (40.0, 40.0))
    fresh.click("#p-reset")
    assert np.exp(state(fresh, "penalty")["policy"]) == pytest.approx([0.7, 0.2, 0.1])


def test_samples_are_drawn_again(fresh: Page):
    fresh.click("#tab-measure")
    drawn = picture(fresh, "m-curves")
    fresh.click("#m-again")
    assert picture(fresh, "m-curves") != drawn


def test_tabs_go_by_the_keyboard_and_theme_by_a_click(fresh: Page):
    fresh.run("document.getElementById('tab-triangle').focus()")
    fresh.press("ArrowRight")
    assert not fresh.run("document.getElementById('panel-humps').hidden")
    fresh.press("ArrowLeft", times=2)
    assert not fresh.run("document.getElementById('panel-measure').hidden")
    scheme = "getComputedStyle(document.documentElement).colorScheme"
    assert fresh.run(scheme) == "light"
    drawn = picture(fresh, "m-curves")
    fresh.click("#theme")
    assert fresh.run(scheme) == "dark"
    assert picture(fresh, "m-curves") != drawn


@pytest.mark.parametrize("width", [390, 768, 1240])
def test_nothing_is_wider_than_the_screen(fresh: Page, width: int):
    fresh.screen(width, 844, touch=width < 500)
    for tab in TABS:
        fresh.click(f"#tab-{tab}")
        assert fresh.run("document.documentElement.scrollWidth") <= width, tab
        widths = fresh.run("[...document.querySelectorAll('canvas')].map((c) => c.clientWidth)")
        assert max(widths) <= width, tab
