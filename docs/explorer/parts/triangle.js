// Tab 1: one policy over three outcomes, its target, and the gradient that leads from one to the other.
"use strict";

const TriangleTab = (() => {
  const { exp, log, max, min, sqrt, round } = Math;
  const { batchGradient, batchMoments, descend, drawCounts, gradient, norm, noisePerGradient } = Numbers;

  const START = { policy: [0.72, 0.18, 0.1], target: [0.12, 0.3, 0.58] };
  const state = {
    policy: START.policy.map(log), target: START.target.map(log), divergence: "forward_kl",
    errorOfLogZ: 0, rate: 0.5, n: 16, baseline: "none", path: [],
  };
  const KINDS = ["none", "leave_one_out", "batch"];
  const LATTICE = Draw.lattice(44);
  const ARROWS = Draw.lattice(10).probs;
  const CLOUD = 300;

  // What the tab shows, as numbers.
  function read() {
    const { policy, target, divergence, errorOfLogZ, n, baseline } = state;
    const signal = Numbers.signals(divergence, policy, target, errorOfLogZ);
    const slope = gradient(divergence, policy, target, errorOfLogZ);
    const possible = (kind) => n > 1 || kind === "none";
    const noise = KINDS.map((kind) => {
      return possible(kind) ? noisePerGradient(batchMoments(policy, signal, kind, n), signal) : NaN;
    });
    return {
      value: Numbers.divergence(divergence, policy, target), signal, slope, noise,
      length: norm(slope), mean: batchMoments(policy, signal, possible(baseline) ? baseline : "none", n).mean,
    };
  }

  // ------------------------------------------------------------ left: the triangle

  let contours = { key: "", values: [] };
  function landscape() {
    const key = state.divergence + state.target.join();
    if (contours.key !== key) {
      const values = LATTICE.probs.map((p) => Numbers.divergence(state.divergence, p.map(log), state.target));
      contours = { key, values };
    }
    return contours.values;
  }

  function paintTriangle(context, width, height) {
    const view = Draw.triangle(width, height);
    const color = Draw.colorOf(state.divergence);

    // Lines of equal divergence: from near the target to far from it, each e^(3/4) times the last.
    const values = landscape();
    const positions = LATTICE.probs.map(view.pixel);
    context.strokeStyle = color;
    context.lineWidth = 1;
    context.globalAlpha = 0.35;
    const middle = [...values].sort((x, y) => x - y)[round(values.length / 2)];
    for (let k = -5; k <= 4; k++) {
      Draw.contour(context, LATTICE.cells, positions, values, middle * exp(0.7 * k));
    }
    context.globalAlpha = 1;
    Draw.drawTriangle(context, view);

    // Each arrow ends where one step would take the policy that stands at its beginning.
    context.globalAlpha = 0.75;
    for (const probs of ARROWS) {
      const here = probs.map(log);
      const slope = gradient(state.divergence, here, state.target, state.errorOfLogZ);
      const there = descend(here, slope, state.rate).map(exp);
      arrow(context, view.pixel(probs), view.pixel(there), color);
    }
    context.globalAlpha = 1;

    const path = [...state.path, state.policy].map((logs) => view.pixel(logs.map(exp)));
    Draw.line(context, path, Draw.ink("ink"), 2);
    for (const point of path.slice(0, 40)) Draw.dot(context, point, 2, Draw.ink("ink"), null);
    policyHandle.put(path.at(-1), Draw.spoken(state.policy));
    targetHandle.put(view.pixel(state.target.map(exp)), Draw.spoken(state.target));
  }

  function arrow(context, from, to, color) {
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    Draw.dot(context, from, 1.3, color, null);
    if (length < 1) return;
    Draw.line(context, [from, to], color, 1.4);
    const [dx, dy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
    const size = min(5, 1 + length / 3);
    const wing = (side) => [to[0] - size * (dx + side * 0.6 * dy), to[1] - size * (dy - side * 0.6 * dx)];
    Draw.line(context, [wing(1), to, wing(-1)], color, 1.4);
  }

  // ------------------------------------------------------------ middle: the signal

  const REACH = 3.2;
  function paintSignal(context, width, height) {
    const plot = Draw.axes(context, width, height, {
      x: { from: -3.4, to: 3.4, ticks: [-3, -2, -1, 0, 1, 2, 3], label: "log (policy / target)" },
      y: { from: -REACH, to: REACH, ticks: [-3, -2, -1, 0, 1, 2, 3] },
      space: { left: 30 },
    });
    Draw.line(context, [[plot.x(-3.4), plot.y(0)], [plot.x(3.4), plot.y(0)]], Draw.ink("line"), 1.5);
    Draw.line(context, [[plot.x(0), plot.y(-REACH)], [plot.x(0), plot.y(REACH)]], Draw.ink("line"), 1.5);
    Draw.text(context, "too likely: pushed down", plot.x(-3.3), plot.y(2.85), { halo: true });
    Draw.text(context, "too rare: pulled up", plot.x(3.3), plot.y(-2.85), { align: "right", halo: true });

    const { signal } = Numbers.find(state.divergence);
    const curve = Array.from({ length: 273 }, (_, i) => -3.4 + i / 40);
    plot.inside(() => {
      const points = curve.map((u) => [plot.x(u), plot.y(max(-50, min(50, signal(u))))]);
      Draw.line(context, points, Draw.colorOf(state.divergence), 2.5);
    });

    // A dot per outcome, as large as it is likely. Out of the frame it waits at the border.
    const found = read();
    state.policy.forEach((q, x) => {
      const u = q - state.target[x] + state.errorOfLogZ;
      const at = [plot.x(max(-3.3, min(3.3, u))), plot.y(max(-REACH + 0.1, min(REACH - 0.1, found.signal[x])))];
      const radius = 5 + 11 * sqrt(exp(q));
      if (state.errorOfLogZ) {
        const truth = max(-3.3, min(3.3, u - state.errorOfLogZ));
        const value = max(-REACH + 0.1, min(REACH - 0.1, signal(q - state.target[x])));
        Draw.line(context, [[plot.x(truth), plot.y(value)], at], Draw.ink("muted"), 1, [3, 3]);
      }
      Draw.dot(context, at, radius, Draw.ink("card"), Draw.colorOf(state.divergence));
      Draw.text(context, Draw.NAMES[x], at[0], at[1] + 0.5, { align: "center", color: Draw.ink("ink"), weight: "600" });
    });
  }

  // ------------------------------------------------------------ right: the cloud

  function paintCloud(context, width, height) {
    const { policy, n, baseline } = state;
    const found = read();
    const one = batchMoments(policy, found.signal, "none", 1);
    // The scale does not know n: one can see the cloud shrink.
    const reach = max(1.25 * found.length, 0.9 * sqrt(one.trace), 1e-6);
    const size = min(width, height) / 2 - 22;
    const middle = [width / 2, height / 2 + 4];
    const ways = [0, 1, 2].map((k) => -Math.PI / 2 - (2 * Math.PI * k) / 3);
    const pixel = (slope) => {
      return [0, 1].map((axis) => {
        const along = ways.map((angle, k) => -slope[k] * (axis ? Math.sin(angle) : Math.cos(angle)));
        return middle[axis] + (size / reach) * sqrt(2 / 3) * Numbers.sum(along);
      });
    };

    ways.forEach((angle, k) => {
      const end = [middle[0] + size * Math.cos(angle), middle[1] + size * Math.sin(angle)];
      Draw.line(context, [middle, end], Draw.ink("grid"), 1.5);
      Draw.text(context, Draw.NAMES[k], middle[0] + (size + 11) * Math.cos(angle), middle[1] + (size + 11) * Math.sin(angle), { align: "center", weight: "600", color: Draw.ink("ink") });
    });
    Draw.dot(context, middle, 2.5, Draw.ink("muted"), null);

    if (n > 1 || baseline === "none") {
      const uniform = Numbers.random(7);
      const probs = policy.map(exp);
      context.globalAlpha = 0.45;
      for (let i = 0; i < CLOUD; i++) {
        const counts = drawCounts(probs, n, uniform);
        Draw.dot(context, pixel(batchGradient(counts, policy, found.signal, baseline)), 2.6, Draw.colorOf(state.divergence), null);
      }
      context.globalAlpha = 1;
    } else {
      Draw.text(context, "a baseline needs two samples", middle[0], height - 10, { align: "center", halo: true });
    }
    Draw.cross(context, pixel(found.slope), 8, Draw.ink("ink"));
  }

  // ------------------------------------------------------------ words

  const ALIKE = "Reverse KL does not care: a constant in its signal changes nothing.";
  function aboutZ() {
    if (Math.abs(state.errorOfLogZ) < 0.005) return "Exact. Now move it.";
    const name = state.divergence;
    if (name === "reverse_kl" || name === "alpha_1") return ALIKE;
    if (["forward_kl", "pearson_chi2", "neyman_chi2", "squared_hellinger"].includes(name) || name.startsWith("alpha_")) {
      return "The arrows keep their direction and change their length: like another step size.";
    }
    if (name === "total_variation") return "Where all dots are on one side, no gradient is left: it stops too early.";
    return "The arrows turn: another divergence is descended. Here it still ends at the star, since every policy can be reached.";
  }

  function refresh() {
    if (!Controls.open("triangle")) return;
    const found = read();
    Controls.say("t-value", Draw.number(found.value));
    Controls.say("t-length", Draw.number(found.length));
    Controls.say("t-steps", String(state.path.length));
    Controls.say("t-about-z", aboutZ());
    Controls.say("t-formula", Numbers.find(state.divergence).formula);
    KINDS.forEach((kind, k) => {
      const bar = Controls.get(`t-noise-${kind}`);
      const share = (log(found.noise[k] || 0.01) - log(0.01)) / (log(100) - log(0.01));
      bar.style.width = `${100 * max(0, min(1, share))}%`;
      Controls.say(`t-noise-${kind}-value`, Draw.number(found.noise[k], 2));
    });
    const small = state.baseline === "batch" && state.n <= 16;
    Controls.say("t-about-noise", small
      ? `The sample’s own value is in the mean that is subtracted: ${state.n - 1}/${state.n} of the gradient is left, so the cloud's middle misses the cross.`
      : "Noise of one estimate in units of the gradient: above 1 a step is mostly chance.");
    for (const own of [left, center, right]) own.redraw();
  }

  const left = Draw.surface("t-triangle", paintTriangle);
  const center = Draw.surface("t-signal", paintSignal);
  const right = Draw.surface("t-cloud", paintCloud);

  function place(which) {
    return (point) => {
      const view = Draw.triangle(left.width, left.height);
      state[which] = Draw.inside(view.probs(point));
      state.path = [];
      refresh();
    };
  }
  const policyHandle = Draw.handle("t-policy", { move: place("policy") });
  const targetHandle = Draw.handle("t-target", { move: place("target") });

  function step() {
    const slope = gradient(state.divergence, state.policy, state.target, state.errorOfLogZ);
    const next = descend(state.policy, slope, state.rate);
    const moved = norm(next.map((l, x) => exp(l) - exp(state.policy[x])));
    if (!(moved > 2e-4) || state.path.length >= 2000) return false;
    state.path.push(state.policy);
    state.policy = next;
    refresh();
    return true;
  }

  function init() {
    const player = Controls.player("t-play", step);
    Controls.get("t-step").addEventListener("click", step);
    Controls.get("t-reset").addEventListener("click", () => {
      player.stop();
      Object.assign(state, { policy: START.policy.map(log), target: START.target.map(log), path: [] });
      refresh();
    });
    const alpha = Controls.get("t-alpha");
    Controls.watch("t-divergence", (name) => {
      const alphas = { forward_kl: 0, squared_hellinger: 0.5, reverse_kl: 1 };
      if (name === "alpha") name = `alpha_${alpha.value}`;
      else if (name in alphas) alpha.value = alphas[name];
      state.divergence = name;
      state.path = [];
      Controls.say("t-alpha-value", Draw.number(Number(alpha.value), 2));
      refresh();
    });
    alpha.addEventListener("input", () => {
      Controls.get("t-divergence").value = "alpha";
      Controls.get("t-divergence").dispatchEvent(new Event("input"));
    });
    Controls.watch("t-error", (value) => {
      state.errorOfLogZ = value;
      Controls.say("t-error-value", (value > 0 ? "+" : "") + Draw.number(value, 2));
      refresh();
    });
    Controls.watch("t-rate", (value) => {
      state.rate = 2 ** value;
      Controls.say("t-rate-value", Draw.number(state.rate, 2));
      refresh();
    });
    Controls.watch("t-n", (value) => {
      state.n = 2 ** value;
      Controls.say("t-n-value", String(state.n));
      refresh();
    });
    Controls.choice("t-baseline", (kind) => {
      state.baseline = kind;
      refresh();
    });
  }

  return { init, read, refresh, state, step };
})();
