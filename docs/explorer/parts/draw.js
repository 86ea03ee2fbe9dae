// Drawing: canvases that follow the page's width and theme, axes, a triangle, handles to drag.
"use strict";

const Draw = (() => {
  const { max, min, round, log10, sqrt } = Math;

  // ------------------------------------------------------------ colours

  // Those of fdpg_ref/display.py, and lighter ones of the same hue on a dark page.
  const LIGHT = {
    forward_kl: "#0072B2", reverse_kl: "#D55E00", total_variation: "#009E73",
    jensen_shannon: "#A1478B", pearson_chi2: "#CC79A7", neyman_chi2: "#8C8C8C",
    squared_hellinger: "#56B4E9", jeffreys: "#222222", le_cam: "#B8A800",
  };
  const DARK = {
    ...LIGHT, forward_kl: "#4FA8E0", reverse_kl: "#F0803C", total_variation: "#34C39A",
    jensen_shannon: "#CF7DBA", jeffreys: "#D8DEE6", neyman_chi2: "#A9A9A9",
  };
  const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // An alpha divergence is coloured by its place between forward and reverse KL.
  function colorOf(name) {
    const colors = dark() ? DARK : LIGHT;
    if (!name.startsWith("alpha_")) return colors[name];
    const share = min(1, max(0, Number(name.slice("alpha_".length))));
    const parts = [colors.forward_kl, colors.reverse_kl].map((hex) => {
      return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    });
    return `rgb(${parts[0].map((c, i) => round(c + share * (parts[1][i] - c))).join(" ")})`;
  }

  // ------------------------------------------------------------ numbers in words

  function number(value, digits = 3) {
    if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    let text;
    if (size >= 1e6 || size < 1e-4) {
      const [mantissa, power] = value.toExponential(digits - 1).split("e");
      const raised = [...power.replace("+", "")].map((c) => "⁻0123456789".includes(c) ? "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] : "⁻");
      text = `${mantissa} · 10${raised.join("")}`;
    } else {
      text = value.toFixed(max(0, digits - 1 - Math.floor(log10(size))));
      if (size >= 1e4) text = Number(text).toLocaleString("en");
    }
    return text.replace("-", "−");
  }

  // ------------------------------------------------------------ canvases

  const surfaces = [];

  // A canvas that is drawn anew, at most once a frame, when something changed while it is seen.
  function surface(id, paint) {
    const canvas = document.getElementById(id);
    const own = { canvas, width: 0, height: 0, waiting: false };
    own.redraw = () => {
      if (own.waiting) return;
      own.waiting = true;
      requestAnimationFrame(() => {
        own.waiting = false;
        own.width = canvas.clientWidth;
        own.height = canvas.clientHeight;
        if (!own.width) return;
        const density = window.devicePixelRatio || 1;
        if (canvas.width !== round(own.width * density) || canvas.height !== round(own.height * density)) {
          canvas.width = round(own.width * density);
          canvas.height = round(own.height * density);
        }
        const context = canvas.getContext("2d");
        context.setTransform(density, 0, 0, density, 0, 0);
        context.clearRect(0, 0, own.width, own.height);
        context.font = `13px ${ink("font")}`;
        context.lineJoin = context.lineCap = "round";
        paint(context, own.width, own.height);
      });
    };
    new ResizeObserver(own.redraw).observe(canvas);
    surfaces.push(own);
    return own;
  }

  const redrawAll = () => surfaces.forEach((own) => own.redraw());

  function line(context, points, color, width = 2, dash = []) {
    if (points.length < 2) return;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
    context.setLineDash([]);
  }

  function dot(context, [x, y], radius, fill, edge = ink("card")) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.fill();
    if (edge) {
      context.strokeStyle = edge;
      context.lineWidth = 1.5;
      context.stroke();
    }
  }

  function star(context, [x, y], radius, fill, edge = ink("card")) {
    context.beginPath();
    for (let i = 0; i < 10; i++) {
      const reach = i % 2 ? radius * 0.45 : radius;
      const angle = (Math.PI * i) / 5 - Math.PI / 2;
      context.lineTo(x + reach * Math.cos(angle), y + reach * Math.sin(angle));
    }
    context.closePath();
    context.fillStyle = fill;
    context.fill();
    context.strokeStyle = edge;
    context.lineWidth = 1.2;
    context.stroke();
  }

  function cross(context, [x, y], size, color) {
    for (const [width, stroke] of [[5, ink("card")], [2.5, color]]) {
      line(context, [[x - size, y], [x + size, y]], stroke, width);
      line(context, [[x, y - size], [x, y + size]], stroke, width);
    }
  }

  function text(context, words, x, y, { color = ink("muted"), align = "left", base = "middle", halo = false, weight = "" } = {}) {
    context.font = `${weight} 13px ${ink("font")}`;
    context.textAlign = align;
    context.textBaseline = base;
    if (halo) {
      context.strokeStyle = ink("card");
      context.lineWidth = 4;
      context.strokeText(words, x, y);
    }
    context.fillStyle = color;
    context.fillText(words, x, y);
  }

  // ------------------------------------------------------------ axes

  // A frame with two axes. Returns x() and y(), from values to pixels, and their inverses.
  function axes(context, width, height, { x, y, space = {} }) {
    const box = { left: 44, right: 12, top: 14, bottom: 40, ...space };
    const scale = ({ from, to, log }, start, end) => {
      const place = log ? Math.log : (value) => value;
      const back = log ? Math.exp : (value) => value;
      const [low, high] = [place(from), place(to)];
      return {
        pixel: (value) => start + ((place(value) - low) / (high - low)) * (end - start),
        value: (pixel) => back(low + ((pixel - start) / (end - start)) * (high - low)),
      };
    };
    const across = scale(x, box.left, width - box.right);
    const up = scale(y, height - box.bottom, box.top);

    const label = (tick) => (Array.isArray(tick) ? tick : [tick, String(Number(tick.toPrecision(3))).replace("-", "−")]);
    for (const [value, words] of (x.ticks ?? []).map(label)) {
      const at = across.pixel(value);
      line(context, [[at, box.top], [at, height - box.bottom]], ink("grid"), 1);
      text(context, words, at, height - box.bottom + 12, { align: "center" });
    }
    for (const [value, words] of (y.ticks ?? []).map(label)) {
      const at = up.pixel(value);
      line(context, [[box.left, at], [width - box.right, at]], ink("grid"), 1);
      text(context, words, box.left - 7, at, { align: "right" });
    }
    text(context, x.label ?? "", (box.left + width - box.right) / 2, height - 9, { align: "center" });
    if (y.label) {
      context.save();
      context.translate(11, (box.top + height - box.bottom) / 2);
      context.rotate(-Math.PI / 2);
      text(context, y.label, 0, 0, { align: "center" });
      context.restore();
    }
    const inside = (paint) => {
      context.save();
      context.beginPath();
      context.rect(box.left, box.top, width - box.left - box.right, height - box.top - box.bottom);
      context.clip();
      paint();
      context.restore();
    };
    return { x: across.pixel, y: up.pixel, valueX: across.value, valueY: up.value, box, inside };
  }

  // Even ticks for a range that starts at zero.
  function ticks(to) {
    const rough = to / 4;
    const power = 10 ** Math.floor(log10(rough));
    const step = [1, 2, 5, 10].find((nice) => nice * power >= rough) * power;
    return Array.from({ length: Math.floor(to / step + 1e-9) + 1 }, (_, i) => i * step);
  }

  // ------------------------------------------------------------ the triangle of three outcomes

  const NAMES = ["A", "B", "C"];

  // Pixels of probabilities and back, in a canvas of this size.
  function triangle(width, height) {
    const side = min(width - 44, (height - 52) / (sqrt(3) / 2));
    const tall = (side * sqrt(3)) / 2;
    const top = (height - tall) / 2 + 4;
    const corners = [
      [width / 2, top], [width / 2 - side / 2, top + tall], [width / 2 + side / 2, top + tall],
    ];
    const pixel = (probs) => [0, 1].map((i) => Numbers.sum(probs.map((p, k) => p * corners[k][i])));
    const probs = ([x, y]) => {
      const a = (corners[1][1] - y) / tall;
      const c = (x - corners[1][0]) / side - a / 2;
      return [a, 1 - a - c, c];
    };
    return { corners, pixel, probs, side };
  }

  function drawTriangle(context, { corners }) {
    line(context, [...corners, corners[0]], ink("line"), 1.5);
    const [top, left, right] = corners;
    text(context, "A", top[0], top[1] - 13, { align: "center", weight: "600", color: ink("ink") });
    text(context, "B", left[0] - 4, left[1] + 14, { align: "center", weight: "600", color: ink("ink") });
    text(context, "C", right[0] + 4, right[1] + 14, { align: "center", weight: "600", color: ink("ink") });
  }

  // Log-probabilities inside the triangle: dragging beyond an edge stays near it.
  const LEAST = 0.004;
  function inside(probs) {
    const bounded = probs.map((p) => max(p, LEAST));
    const total = Numbers.sum(bounded);
    return bounded.map((p) => Math.log(p / total));
  }

  // The lines of equal value on the triangle. `rows` is the number of lattice steps along an edge;
  // values come as they are asked for by lattice().
  function lattice(rows) {
    const points = [];
    for (let a = 0; a <= rows; a++) {
      for (let c = 0; c <= rows - a; c++) points.push([a, rows - a - c, c]);
    }
    const start = (a) => a * (rows + 1) - (a * (a - 1)) / 2;
    const cells = [];
    for (let a = 0; a < rows; a++) {
      for (let c = 0; c < rows - a; c++) {
        cells.push([start(a) + c, start(a) + c + 1, start(a + 1) + c]);
        if (c < rows - a - 1) cells.push([start(a) + c + 1, start(a + 1) + c, start(a + 1) + c + 1]);
      }
    }
    // A hair inside the edges, where some divergences are infinite.
    const probs = points.map((point) => point.map((k) => (k + 0.06) / (rows + 0.18)));
    return { probs, cells };
  }

  // Segments where values cross a level; positions are pixels of the lattice points.
  function contour(context, cells, positions, values, level) {
    context.beginPath();
    for (const cell of cells) {
      const found = [];
      for (const [i, j] of [[0, 1], [1, 2], [2, 0]]) {
        const [v, w] = [values[cell[i]], values[cell[j]]];
        if (v < level === w < level) continue;
        const share = (level - v) / (w - v);
        const [from, to] = [positions[cell[i]], positions[cell[j]]];
        found.push([from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])]);
      }
      if (found.length === 2) {
        context.moveTo(...found[0]);
        context.lineTo(...found[1]);
      }
    }
    context.stroke();
  }

  // ------------------------------------------------------------ handles

  // A button on a canvas that can be dragged, and moved with the arrow keys. `move` gets pixels.
  function handle(id, { move, done = () => {}, step = 8 }) {
    const button = document.getElementById(id);
    let grip = null;
    const place = () => [parseFloat(button.style.left) || 0, parseFloat(button.style.top) || 0];
    button.addEventListener("pointerdown", (event) => {
      const [x, y] = place();
      grip = [x - event.clientX, y - event.clientY];
      button.setPointerCapture(event.pointerId);
      button.focus();
      event.preventDefault();
    });
    button.addEventListener("pointermove", (event) => {
      if (grip) move([grip[0] + event.clientX, grip[1] + event.clientY]);
    });
    const release = () => {
      if (grip) done();
      grip = null;
    };
    button.addEventListener("pointerup", release);
    button.addEventListener("pointercancel", release);
    button.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (!ways[event.key]) return;
      const far = event.shiftKey ? 4 * step : step;
      const [x, y] = place();
      move([x + far * ways[event.key][0], y + far * ways[event.key][1]]);
      done();
      event.preventDefault();
    });
    return {
      put: ([x, y], says) => {
        button.style.left = `${x}px`;
        button.style.top = `${y}px`;
        button.setAttribute("aria-valuetext", says);
      },
      show: (visible) => (button.hidden = !visible),
    };
  }

  const spoken = (logProbs) => {
    return logProbs.map((l, x) => `${NAMES[x]} ${round(100 * Math.exp(l))} %`).join(", ");
  };

  return {
    NAMES, axes, colorOf, contour, cross, dot, drawTriangle, handle, ink, inside, lattice, line, number,
    redrawAll, spoken, star, surface, text, ticks, triangle,
  };
})();

// ---------------------------------------------------------------- controls

const Controls = {
  get: (id) => document.getElementById(id),

  // A slider or a select: `use` gets its value now and whenever it changes.
  watch(id, use) {
    const element = document.getElementById(id);
    const give = () => use(element.type === "range" ? Number(element.value) : element.value);
    element.addEventListener("input", give);
    give();
  },

  // A group of radio buttons.
  choice(name, use) {
    for (const element of document.querySelectorAll(`input[name="${name}"]`)) {
      element.addEventListener("change", () => use(element.value));
      if (element.checked) use(element.value);
    }
  },

  // Whether a tab is the one that is open: only that one computes.
  open(tab) {
    return !document.getElementById(`panel-${tab}`).hidden;
  },

  say(id, words) {
    document.getElementById(id).textContent = words;
  },

  // Calls `step` some times a second until it returns false. Where the reader wants no motion, all at once.
  player(button, step, words = ["Play", "Pause"]) {
    const element = document.getElementById(button);
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      element.textContent = words[0];
    };
    const start = () => {
      if (timer) return;
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
        for (let i = 0; i < 4000 && step(); i++);
        return;
      }
      element.textContent = words[1];
      timer = setInterval(() => step() || stop(), 40);
    };
    element.addEventListener("click", () => (timer ? stop() : start()));
    return { start, stop, running: () => timer !== null };
  },
};
