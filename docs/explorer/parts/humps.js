// Tab 2: a policy that can only be one Gaussian must settle with a target of two humps.
"use strict";

const HumpsTab = (() => {
  const { exp, log, max, min } = Math;
  const { POINTS, gaussian, gaussianGradient } = Numbers;

  const FOUR = ["forward_kl", "reverse_kl", "total_variation", "jensen_shannon"];
  const SIZES = [["reverse_kl", 16], ["forward_kl", 13], ["total_variation", 13], ["jensen_shannon", 9]];
  const START = [0.5, log(2)];
  const MEANS = Array.from({ length: 51 }, (_, i) => -4.5 + (9 * i) / 50);
  const WIDTHS = Array.from({ length: 31 }, (_, i) => log(0.35) + ((log(5) - log(0.35)) * i) / 30);
  const state = { start: START, distance: 5, share: 0.6, shown: "forward_kl", balls: {}, paths: {} };
  let target = [];
  let stars = {};
  let grids = {};

  // ------------------------------------------------------------ the landscape

  let prepared = "";
  function prepare() {
    const key = `${state.distance} ${state.share}`;
    if (prepared === key) return;
    prepared = key;
    target = Numbers.twoHumps(state.distance, state.share);
    const policies = WIDTHS.map((width) => MEANS.map((mean) => gaussian([mean, width])));
    grids = {};
    stars = {};
    for (const name of FOUR) {
      grids[name] = policies.map((row) => row.map((policy) => Numbers.divergence(name, policy, target)));
      stars[name] = deepest(name);
    }
  }

  // The deepest point of the grid, then ever smaller steps around it.
  function deepest(name) {
    let best = { value: Infinity, theta: START };
    const look = (theta, value) => {
      if (value < best.value) best = { value, theta };
    };
    grids[name].forEach((row, j) => row.forEach((value, i) => look([MEANS[i], WIDTHS[j]], value)));
    for (let step = 0.1; step > 1e-5; step /= 2) {
      for (let again = 0; again < 4; again++) {
        const [mean, width] = best.theta;
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1]]) {
          const theta = [mean + step * dx, width + step * dy];
          look(theta, Numbers.divergence(name, gaussian(theta), target));
        }
      }
    }
    return best;
  }

  // ------------------------------------------------------------ four balls

  function release() {
    for (const name of FOUR) {
      state.balls[name] = state.start;
      state.paths[name] = [state.start];
    }
  }

  // A step down the exact slope, at most 0.06 long. Balls rest when a hundred steps lead nowhere:
  // total variation has kinks, on which single steps never end.
  function roll() {
    let moving = false;
    prepare();
    for (const name of FOUR) {
      const here = state.balls[name];
      const slope = gaussianGradient(name, here, target);
      const length = Numbers.norm(slope);
      const rate = min(0.25, 0.06 / max(length, 1e-12));
      const there = [0, 1].map((i) => here[i] - rate * slope[i]);
      there[1] = max(there[1], log(0.2));
      state.balls[name] = there;
      state.paths[name].push(there);
      const earlier = state.paths[name].at(-101);
      if (!earlier || Numbers.norm([0, 1].map((i) => there[i] - earlier[i])) > 0.02) moving = true;
    }
    return moving;
  }

  function rollSome() {
    let moving = true;
    for (let i = 0; i < 5 && moving; i++) moving = roll();
    refresh();
    return moving;
  }

  function read() {
    prepare();
    return Object.fromEntries(FOUR.map((name) => {
      const value = Numbers.divergence(name, gaussian(state.balls[name]), target);
      return [name, { theta: state.balls[name], value, star: stars[name] }];
    }));
  }

  // Where a policy sits: which of the humps holds nine tenths of its mass.
  function where([mean, width]) {
    const left = Numbers.sum(gaussian([mean, width]).map((l, x) => (POINTS[x] < 0 ? exp(l) : 0)));
    return left > 0.9 ? "the left hump" : left < 0.1 ? "the right hump" : "both humps";
  }

  // ------------------------------------------------------------ pictures

  let frame = null;
  function paintLandscape(context, width, height) {
    const plot = Draw.axes(context, width, height, {
      x: { from: -4.5, to: 4.5, ticks: [-4, -2, 0, 2, 4], label: "mean of the policy" },
      y: { from: 0.35, to: 5, log: true, ticks: [0.5, 1, 2, 4], label: "its width" },
      space: { left: 52 },
    });
    frame = plot;

    // Lines between equal shares of the points, so that valleys show in a landscape of any height.
    const grid = grids[state.shown];
    const positions = WIDTHS.flatMap((w) => MEANS.map((m) => [plot.x(m), plot.y(exp(w))]));
    const values = grid.flat();
    const across = MEANS.length;
    const cells = [];
    for (let j = 0; j + 1 < WIDTHS.length; j++) {
      for (let i = 0; i + 1 < across; i++) {
        const corner = j * across + i;
        cells.push([corner, corner + 1, corner + across], [corner + 1, corner + across, corner + across + 1]);
      }
    }
    const sorted = [...values].sort((x, y) => x - y);
    context.strokeStyle = Draw.colorOf(state.shown);
    context.lineWidth = 1;
    for (let k = 1; k < 18; k++) {
      context.globalAlpha = 0.75 - k / 32;
      Draw.contour(context, cells, positions, values, sorted[Math.floor((sorted.length * k * k) / 18 ** 2)]);
    }
    context.globalAlpha = 1;

    const at = ([mean, w]) => [plot.x(mean), plot.y(exp(w))];
    plot.inside(() => {
      for (const name of FOUR) {
        context.globalAlpha = name === state.shown ? 1 : 0.8;
        Draw.line(context, state.paths[name].map(at), Draw.colorOf(name), name === state.shown ? 3 : 2);
      }
      context.globalAlpha = 1;
      for (const name of FOUR) Draw.dot(context, at(state.balls[name]), 8, Draw.colorOf(name));
      // Stars of different sizes: two at one place are both seen.
      for (const [name, size] of SIZES) Draw.star(context, at(stars[name].theta), size, Draw.colorOf(name));
    });
    startHandle.put(at(state.start), `mean ${state.start[0].toFixed(1)}, width ${exp(state.start[1]).toFixed(1)}`);
  }

  function paintPolicies(context, width, height) {
    const policies = FOUR.map((name) => gaussian(state.balls[name]).map(exp));
    const wish = target.map(exp);
    const top = max(...wish, ...policies.flat()) * 1.08;
    const plot = Draw.axes(context, width, height, {
      x: { from: -6, to: 6, ticks: [-6, -4, -2, 0, 2, 4, 6], label: "x" },
      y: { from: 0, to: top, ticks: Draw.ticks(top), label: "probability of a point" },
      space: { left: 56 },
    });
    const curve = (probs) => probs.map((p, x) => [plot.x(POINTS[x]), plot.y(p)]);
    context.beginPath();
    context.moveTo(plot.x(-6), plot.y(0));
    for (const point of curve(wish)) context.lineTo(...point);
    context.lineTo(plot.x(6), plot.y(0));
    context.fillStyle = Draw.ink("shade");
    context.fill();
    FOUR.forEach((name, k) => Draw.line(context, curve(policies[k]), Draw.colorOf(name), name === state.shown ? 3.5 : 2));
  }

  // ------------------------------------------------------------ words

  function refresh() {
    if (!Controls.open("humps")) return;
    const found = read();
    for (const name of FOUR) {
      const { theta, value, star } = found[name];
      Controls.say(`h-${name}-end`, Draw.number(value));
      Controls.say(`h-${name}-star`, Draw.number(star.value));
      const shallow = value > star.value + max(0.01, 0.03 * star.value);
      const rolling = player && player.running() ? "now on" : "on";
      Controls.say(`h-${name}-where`, `${rolling} ${where(theta)}${shallow ? `; deepest on ${where(star.theta)}` : ", the deepest point"}`);
    }
    landscape.redraw();
    policies.redraw();
  }

  const landscape = Draw.surface("h-landscape", paintLandscape);
  const policies = Draw.surface("h-policies", paintPolicies);
  let player = null;

  const startHandle = Draw.handle("h-start", {
    move: ([x, y]) => {
      player.stop();
      const mean = max(-4.4, min(4.4, frame.valueX(x)));
      const width = max(0.36, min(4.9, frame.valueY(y)));
      state.start = [mean, log(width)];
      release();
      refresh();
    },
    done: () => player.start(),
  });

  function init() {
    player = Controls.player("h-play", rollSome, ["Roll", "Pause"]);
    const anew = () => {
      player.stop();
      release();
      refresh();
    };
    Controls.get("h-play").addEventListener("click", () => {
      if (!player.running() && state.paths.forward_kl.length > 5) refresh();
    });
    Controls.get("h-reset").addEventListener("click", () => {
      state.start = START;
      anew();
    });
    for (const [id, key] of [["h-distance", "distance"], ["h-share", "share"]]) {
      Controls.watch(id, (value) => {
        state[key] = value;
        Controls.say(`${id}-value`, key === "share" ? `${Math.round(100 * value)} %` : Draw.number(value, 2));
        anew();
      });
    }
    Controls.choice("h-shown", (name) => {
      state.shown = name;
      refresh();
    });
  }

  return { init, read, refresh, roll, state };
})();
