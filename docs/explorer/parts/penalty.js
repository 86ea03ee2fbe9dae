// Tab 3: a penalty on the log-ratio to a reference, and what its expected gradient descends.
"use strict";

const PenaltyTab = (() => {
  const { exp, log, max, min, abs } = Math;
  const START = { policy: [0.7, 0.2, 0.1], reference: [0.15, 0.3, 0.55], old: [0.2, 0.7, 0.1] };
  const STEPS = { steps: 900, rate: 0.25, longest: 0.08 };
  const state = {
    policy: START.policy.map(log), reference: START.reference.map(log), old: START.old.map(log),
    text: "exp(-u) - 1 + u", placement: "loss", samples: "own", penalty: null, path: [], shown: 0,
  };

  const use = () => ({ placement: state.placement, samples: state.samples });

  function read() {
    const found = Penalties.verdict(state.penalty, use(), state.reference, state.old);
    const end = state.path.at(-1);
    const away = Numbers.divergence("total_variation", end, state.reference);
    const slope = Penalties.penaltyGradient(state.penalty, use(), state.policy, state.reference, state.old);
    return { ...found, end, away, arrives: away < 0.03, slope };
  }

  // ------------------------------------------------------------ pictures

  const GRID = Penalties.GRID;
  function paintCurve(values, color) {
    return (context, width, height) => {
      const numbers = values();
      const finite = numbers.filter((value) => Number.isFinite(value));
      const low = max(-6, min(0, ...finite));
      const high = min(6, max(0.5, ...finite));
      const steps = Draw.ticks(max(high, -low));
      const plot = Draw.axes(context, width, height, {
        x: { from: -3, to: 3, ticks: [-3, -2, -1, 0, 1, 2, 3], label: "u = log (policy / reference)" },
        y: { from: low - 0.08 * (high - low), to: high + 0.05 * (high - low), ticks: [...steps.slice(1).map((y) => -y), ...steps].filter((y) => y >= low && y <= high) },
        space: { left: 46 },
      });
      Draw.line(context, [[plot.x(-3), plot.y(0)], [plot.x(3), plot.y(0)]], Draw.ink("line"), 1.5);
      Draw.line(context, [[plot.x(0), plot.y(low)], [plot.x(0), plot.y(high)]], Draw.ink("line"), 1.5);
      plot.inside(() => {
        // A jump is no steep line.
        let piece = [];
        numbers.forEach((value, i) => {
          const jump = i && abs(value - numbers[i - 1]) > 0.45 * (high - low);
          if (jump) {
            Draw.line(context, piece, color(), 2.5);
            piece = [];
          }
          piece.push([plot.x(GRID[i]), plot.y(max(-50, min(50, value)))]);
        });
        Draw.line(context, piece, color(), 2.5);
      });
    };
  }

  function tone() {
    return { minimum: Draw.ink("good"), "no minimum": Draw.ink("bad"), nothing: Draw.ink("bad") }[read().reference];
  }

  const value = Draw.surface("p-value", paintCurve(() => GRID.map((u) => state.penalty(u)[0]), () => Draw.ink("ink")));
  const slope = Draw.surface("p-slope", (context, width, height) => {
    if (state.samples !== "old") {
      paintCurve(() => GRID.map((u) => Penalties.factor(state.penalty, use(), u)), tone)(context, width, height);
      return;
    }
    const lines = ["With samples of an older policy and", "no ratio, there is no such curve: what", "counts is the old policy’s weight, too."];
    lines.forEach((words, i) => Draw.text(context, words, width / 2, height / 2 + 20 * (i - 1), { align: "center" }));
  });

  function paintDescent(context, width, height) {
    const view = Draw.triangle(width, height);
    const at = (logs) => view.pixel(logs.map(exp));
    Draw.drawTriangle(context, view);
    const path = state.path.map(at);
    Draw.line(context, path, tone(), 2.5);
    Draw.dot(context, path.at(-1), 6, tone());
    policyHandle.put(at(state.policy), Draw.spoken(state.policy));
    referenceHandle.put(at(state.reference), Draw.spoken(state.reference));
    oldHandle.show(state.samples !== "own");
    oldHandle.put(at(state.old), Draw.spoken(state.old));
  }

  // ------------------------------------------------------------ words

  const KL = { forward_kl: "KL(reference‖policy), the forward KL", reverse_kl: "KL(policy‖reference), the reverse KL" };
  function explain({ reference, shape, named }) {
    if (reference === "nothing") return "The samples that it makes rarer and those that it makes likelier cancel exactly: the expected gradient is zero.";
    if (state.samples === "old") return "Old samples, counted as if they were new: no divergence to the reference is descended.";
    if (named) {
      const { title } = Numbers.find(named.name);
      const times = abs(abs(named.scale) - 1) < 1e-6 ? "" : abs(abs(named.scale) - 0.5) < 1e-6 ? "half of " : `${Draw.number(abs(named.scale))} × `;
      const verb = named.scale > 0 ? "descends" : "ascends";
      return `It ${verb} ${times}${KL[named.name] ?? `the ${title} divergence`}.`;
    }
    if (shape === "rising") return "f′ never falls: it descends an f-divergence that has no name here.";
    if (shape === "falling") return "f′ never rises: it ascends an f-divergence. The sign is wrong.";
    return "f′ rises and falls: that is no f-divergence.";
  }

  function headline({ reference, shape }) {
    if (reference === "minimum" && shape === "rising") return "Has its minimum at the reference";
    if (reference === "minimum") return "Pulls back to the reference, from nearby";
    return reference === "nothing" ? "Does nothing" : "Has no minimum at the reference";
  }

  function refresh() {
    if (!Controls.open("penalty")) return;
    state.path = Penalties.descent(state.penalty, use(), state.policy, state.reference, state.old, STEPS);
    const found = read();
    const verdict = Controls.get("p-verdict");
    verdict.className = `verdict ${found.reference === "minimum" ? "good" : "bad"}`;
    verdict.textContent = headline(found);
    Controls.say("p-explain", explain(found));
    const away = `${Math.round(100 * found.away)} % of the mass`;
    Controls.say("p-arrives", found.arrives
      ? "From here the descent arrives."
      : `From here the descent ends elsewhere: ${away} would have to move to be the reference.`);
    for (const own of [value, slope, descent]) own.redraw();
  }

  const descent = Draw.surface("p-descent", paintDescent);
  function place(which) {
    return (point) => {
      state[which] = Draw.inside(Draw.triangle(descent.width, descent.height).probs(point));
      refresh();
    };
  }
  const policyHandle = Draw.handle("p-policy", { move: place("policy") });
  const referenceHandle = Draw.handle("p-reference", { move: place("reference") });
  const oldHandle = Draw.handle("p-old", { move: place("old") });

  // An expression that cannot be read leaves the last one in place, and says why.
  function write(text) {
    const box = Controls.get("p-text");
    try {
      state.penalty = Penalties.parse(text);
      state.text = text;
      Controls.say("p-error", "");
      box.setAttribute("aria-invalid", "false");
    } catch (error) {
      Controls.say("p-error", error.message);
      box.setAttribute("aria-invalid", "true");
      return;
    }
    for (const element of document.querySelectorAll('input[name="p-named"]')) {
      const known = Penalties.NAMED[element.value];
      element.checked = known ? known.text === text : !Object.values(Penalties.NAMED).some((n) => n.text === text);
    }
    refresh();
  }

  function init() {
    const box = Controls.get("p-text");
    state.penalty = Penalties.parse(state.text);
    Controls.choice("p-placement", (value) => {
      state.placement = value;
      refresh();
    });
    Controls.choice("p-samples", (value) => {
      state.samples = value;
      refresh();
    });
    Controls.choice("p-named", (name) => {
      if (name === "own") {
        if (Object.values(Penalties.NAMED).some((n) => n.text === box.value)) box.value = "u^2/2 + u^4/20";
        box.focus();
      } else {
        box.value = Penalties.NAMED[name].text;
      }
      write(box.value);
    });
    box.addEventListener("input", () => write(box.value));
    Controls.get("p-reset").addEventListener("click", () => {
      for (const [key, probs] of Object.entries(START)) state[key] = probs.map(log);
      refresh();
    });
  }

  return { init, read, refresh, state, write };
})();
