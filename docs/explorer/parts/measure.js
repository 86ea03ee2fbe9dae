// Tab 4: a policy that dropped a mode, and what samples of either side report of it.
"use strict";

const MeasureTab = (() => {
  const { exp, log, max, min, round } = Math;
  const state = { share: 0.28, trace: 2e-4, n: 1024, seed: 1 };
  const SIZES = Array.from({ length: 27 }, (_, i) => round(2 ** (4 + i / 2)));
  let curves = { key: "" };

  function compute() {
    const key = `${state.share} ${state.trace}`;
    if (curves.key === key) return curves;
    const { share, trace } = state;
    const measure = (from) => SIZES.map((n) => Numbers.measurement(n, share, trace, from));
    curves = { key, policy: measure("policy"), target: measure("target") };
    return curves;
  }

  const read = () => ({
    policy: Numbers.measurement(state.n, state.share, state.trace, "policy"),
    target: Numbers.measurement(state.n, state.share, state.trace, "target"),
  });

  // One set of samples that grows: its report at each size.
  function run(from) {
    const uniform = Numbers.random(1000 * state.seed + (from === "policy" ? 1 : 2));
    const prob = from === "policy" ? state.trace : state.share;
    const points = [];
    let [drawn, seen] = [0, 0];
    for (let size = 16; size <= SIZES.at(-1) * 1.001; size *= 2 ** 0.125) {
      for (; drawn < size; drawn++) seen += uniform() < prob ? 1 : 0;
      points.push([drawn, Numbers.estimate(seen, drawn, state.share, state.trace, from).value]);
    }
    return points;
  }

  // ------------------------------------------------------------ pictures

  const COLORS = () => ({ policy: Draw.colorOf("reverse_kl"), target: Draw.colorOf("total_variation") });
  let frame = null;

  function paintCurves(context, width, height) {
    const found = compute();
    const truth = found.policy[0].truth;
    const top = truth * 1.9;
    const plot = Draw.axes(context, width, height, {
      x: { from: 16, to: SIZES.at(-1), log: true, ticks: [[16, "16"], [128, "128"], [1024, "1024"], [8192, "8192"], [65536, "65 536"]], label: "samples, n" },
      y: { from: 0, to: top, ticks: Draw.ticks(top), label: "KL(p‖π) in nats" },
      space: { left: 54, right: 20 },
    });
    frame = plot;
    const colors = COLORS();

    // From a tenth to nine tenths of all sample sets, and their mean.
    plot.inside(() => {
      for (const from of ["policy", "target"]) {
        context.beginPath();
        SIZES.forEach((n, i) => context.lineTo(plot.x(n), plot.y(min(10 * top, found[from][i].high))));
        [...SIZES.keys()].reverse().forEach((i) => context.lineTo(plot.x(SIZES[i]), plot.y(found[from][i].low)));
        context.closePath();
        context.globalAlpha = 0.16;
        context.fillStyle = colors[from];
        context.fill();
        context.globalAlpha = 1;
        const mean = SIZES.map((n, i) => [plot.x(n), plot.y(found[from][i].mean)]);
        Draw.line(context, mean, colors[from], 2.5, [7, 5]);
      }
      for (const from of ["target", "policy"]) {
        const points = run(from).map(([n, value]) => [plot.x(n), plot.y(min(10 * top, value))]);
        Draw.line(context, points, colors[from], 2.2);
      }
    });
    Draw.line(context, [[plot.x(16), plot.y(truth)], [plot.x(SIZES.at(-1)), plot.y(truth)]], Draw.ink("ink"), 2);
    Draw.text(context, "exact", plot.x(18), plot.y(truth) - 10, { color: Draw.ink("ink"), halo: true, weight: "600" });
    Draw.line(context, [[plot.x(state.n), plot.y(0)], [plot.x(state.n), plot.y(top)]], Draw.ink("muted"), 1.5, [2, 4]);
    sizeHandle.put([plot.x(state.n), plot.y(top)], `${state.n} samples`);
  }

  function paintMasses(context, width, height) {
    const groups = [["the mode that was dropped", state.share, state.trace], ["everything else", 1 - state.share, 1 - state.trace]];
    const colors = COLORS();
    groups.forEach(([words, target, policy], g) => {
      const top = 8 + (g * height) / 2;
      Draw.text(context, words, 0, top + 8, { color: Draw.ink("ink") });
      [["target p", target, colors.target], ["policy π", policy, colors.policy]].forEach(([name, mass, color], k) => {
        const y = top + 22 + 22 * k;
        Draw.text(context, name, 0, y + 8);
        context.fillStyle = color;
        context.fillRect(64, y, max(1.5, (width - 136) * mass), 16);
        Draw.text(context, `${Draw.number(100 * mass, mass > 0.99 ? 4 : 2)} %`, 70 + (width - 136) * mass, y + 8);
      });
    });
  }

  // ------------------------------------------------------------ words

  const percent = (share) => `${Draw.number(100 * share, share > 0.0995 ? 3 : 2)} %`;
  // Below rounding is nothing.
  const small = (value, digits) => Draw.number(value < 1e-12 ? 0 : value, digits);

  function refresh() {
    if (!Controls.open("measure")) return;
    const found = read();
    Controls.say("m-truth", Draw.number(found.policy.truth));
    for (const from of ["policy", "target"]) {
      const { typical, mean, coverage } = found[from];
      Controls.say(`m-${from}-typical`, `${small(typical.value, 3)} ± ${small(2 * typical.error, 2)}`);
      Controls.say(`m-${from}-mean`, small(mean, 3));
      Controls.say(`m-${from}-covers`, percent(coverage));
      Controls.say(`m-${from}-shown`, percent(found[from].shown));
    }
    Controls.say("m-n", state.n.toLocaleString("en").replace(",", "\u202f"));
    const blind = found.policy.typical.value < 0.5 * found.policy.truth;
    Controls.say("m-about", blind
      ? "The policy’s own samples say that almost nothing is missing, and are sure of it. They cannot show what the policy never writes. (Everywhere else this policy is perfect; a real one also reports its other faults.)"
      : "With so many samples the policy’s own ones have met what it dropped, and both sides agree.");
    curve.redraw();
    masses.redraw();
  }

  const curve = Draw.surface("m-curves", paintCurves);
  const masses = Draw.surface("m-masses", paintMasses);
  const sizeHandle = Draw.handle("m-size", {
    step: 14,
    move: ([x]) => {
      state.n = round(max(16, min(SIZES.at(-1), frame.valueX(x))));
      refresh();
    },
  });

  function init() {
    Controls.watch("m-share", (value) => {
      state.share = value;
      Controls.say("m-share-value", `${round(100 * value)} %`);
      refresh();
    });
    Controls.watch("m-trace", (value) => {
      state.trace = 10 ** value;
      Controls.say("m-trace-value", Draw.number(state.trace, 2));
      refresh();
    });
    Controls.get("m-again").addEventListener("click", () => {
      state.seed += 1;
      refresh();
    });
  }

  return { init, read, refresh, run, state };
})();
