// The tabs, the theme, and the start.
"use strict";

(() => {
  const TABS = { triangle: TriangleTab, humps: HumpsTab, penalty: PenaltyTab, measure: MeasureTab };
  const buttons = Object.keys(TABS).map((name) => document.getElementById(`tab-${name}`));

  function open(name, focus = false) {
    for (const button of buttons) {
      const chosen = button.id === `tab-${name}`;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !chosen;
      if (chosen && focus) button.focus();
    }
    history.replaceState(null, "", `#${name}`);
    TABS[name].refresh();
  }

  buttons.forEach((button, place) => {
    button.addEventListener("click", () => open(button.id.slice("tab-".length)));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(place + step + buttons.length) % buttons.length];
      open(next.id.slice("tab-".length), true);
      event.preventDefault();
    });
  });

  // Light or dark as the system says, until the reader chooses.
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    Draw.redrawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", Draw.redrawAll);

  for (const tab of Object.values(TABS)) tab.init();
  const wanted = location.hash.slice(1);
  open(Object.hasOwn(TABS, wanted) ? wanted : "triangle");
})();
