// What a KL penalty k(u) descends, where u = log policy - log reference at a sample.
//
// A penalty is written as people write it ("u^2/2") and read here into a function that gives k and
// its derivative at once. No text is ever executed.
"use strict";

const Penalties = (() => {
  const { abs, exp, expm1, log, log1p, max, min, sign, sqrt, tanh } = Math;
  const { sum, norm, scoreMean, logSoftmax } = Numbers;

  // ------------------------------------------------------------ an expression and its derivative
  // A value is a pair [k, k']: the rules of the derivative are applied as it is computed.

  const constant = (value) => () => [value, 0];
  const chain = (inner, value, slope) => (u) => {
    const [x, dx] = inner(u);
    return [value(x), dx === 0 ? 0 : slope(x) * dx];
  };

  const FUNCTIONS = {
    exp: (a) => chain(a, exp, exp),
    expm1: (a) => chain(a, expm1, exp),
    log: (a) => chain(a, log, (x) => 1 / x),
    log1p: (a) => chain(a, log1p, (x) => 1 / (1 + x)),
    sqrt: (a) => chain(a, sqrt, (x) => 1 / (2 * sqrt(x))),
    abs: (a) => chain(a, abs, sign),
    tanh: (a) => chain(a, tanh, (x) => 1 - tanh(x) ** 2),
    max: (a, b) => (u) => (a(u)[0] >= b(u)[0] ? a(u) : b(u)),
    min: (a, b) => (u) => (a(u)[0] <= b(u)[0] ? a(u) : b(u)),
    // clip(x, low, high): beyond its bounds nothing depends on x.
    clip: (a, low, high) => (u) => {
      const [x, dx] = a(u);
      const [lowest, highest] = [low(u)[0], high(u)[0]];
      return [max(lowest, min(highest, x)), x >= lowest && x <= highest ? dx : 0];
    },
  };
  const ARGUMENTS = { max: 2, min: 2, clip: 3 };

  const OPERATORS = {
    "+": (a, b) => (u) => [a(u)[0] + b(u)[0], a(u)[1] + b(u)[1]],
    "-": (a, b) => (u) => [a(u)[0] - b(u)[0], a(u)[1] - b(u)[1]],
    "*": (a, b) => (u) => {
      const [[x, dx], [y, dy]] = [a(u), b(u)];
      return [x * y, dx * y + x * dy];
    },
    "/": (a, b) => (u) => {
      const [[x, dx], [y, dy]] = [a(u), b(u)];
      return [x / y, (dx - (x / y) * dy) / y];
    },
    "^": (a, b) => (u) => {
      const [[x, dx], [y, dy]] = [a(u), b(u)];
      const value = x ** y;
      const slope = (dx === 0 ? 0 : y * x ** (y - 1) * dx) + (dy === 0 ? 0 : value * log(x) * dy);
      return [value, slope];
    },
  };
  const STRENGTH = { "+": 1, "-": 1, "*": 2, "/": 2, "^": 4 };
  const NEGATION = 3;

  // Read an expression in u; throws an Error whose message says what to change.
  function parse(text) {
    const written = text.replaceAll("**", "^").replaceAll("−", "-").replaceAll("·", "*");
    const tokens = written.match(/\d+\.?\d*(e[+-]?\d+)?|\.\d+|[a-z]\w*|\S/gi) ?? [];
    let at = 0;
    const take = (wanted) => {
      if (tokens[at] !== wanted) {
        const found = at < tokens.length ? `“${tokens[at]}”` : "the end";
        throw new Error(`I expected “${wanted}” where I found ${found}.`);
      }
      at += 1;
    };

    function atom() {
      const token = tokens[at++];
      if (token === undefined) throw new Error("Something is missing at the end.");
      if (/^[\d.]/.test(token)) return constant(Number(token));
      if (token === "(") {
        const inside = expression(0);
        take(")");
        return inside;
      }
      if (token === "-") return OPERATORS["-"](constant(0), expression(NEGATION));
      if (token === "u") return (u) => [u, 1];
      if (!Object.hasOwn(FUNCTIONS, token)) {
        throw new Error(`I do not know “${token}”: use u, numbers, + − * / ^ and ${Object.keys(FUNCTIONS).join(", ")}.`);
      }
      take("(");
      const given = [expression(0)];
      for (let more = 1; more < (ARGUMENTS[token] ?? 1); more++) {
        take(",");
        given.push(expression(0));
      }
      take(")");
      return FUNCTIONS[token](...given);
    }

    function expression(weakest) {
      let left = atom();
      while (Object.hasOwn(STRENGTH, tokens[at] ?? "") && STRENGTH[tokens[at]] > weakest) {
        const operator = tokens[at++];
        // A power binds to the right: 2^u^2 is 2^(u^2).
        const right = expression(operator === "^" ? STRENGTH[operator] - 1 : STRENGTH[operator]);
        left = OPERATORS[operator](left, right);
      }
      return left;
    }

    const found = expression(0);
    if (at < tokens.length) throw new Error(`I cannot read on from “${tokens.slice(at).join("")}”.`);
    for (let u = -3; u <= 3; u += 0.5) {
      if (!found(u).every(Number.isFinite)) throw new Error(`At u = ${u} this is no finite number.`);
    }
    return found;
  }

  const NAMED = {
    k1: { text: "u", says: "the log-ratio itself" },
    k2: { text: "u^2 / 2", says: "half its square" },
    k3: { text: "exp(-u) - 1 + u", says: "never negative, the right mean" },
    abs: { text: "abs(u)", says: "its size" },
    clip: { text: "clip(u, -1, 1)", says: "k1, cut off at ±1" },
  };

  // ------------------------------------------------------------ what multiplies the score

  // In the loss the derivative of k multiplies the score, in the reward k itself. With the ratio
  // policy/old in front, which is differentiated too, the loss has k + k'.
  function factor(penalty, use, u) {
    const [value, slope] = penalty(u);
    if (use.placement === "reward") return value;
    return use.samples === "ratio" ? value + slope : slope;
  }

  // The expected gradient in the logits. The ratio turns a mean over old samples into one over the
  // policy's; without it, old samples stay old.
  function penaltyGradient(penalty, use, logPolicy, logReference, logOld) {
    const law = use.samples === "old" ? logOld : logPolicy;
    const masses = law.map((m, x) => exp(m) * factor(penalty, use, logPolicy[x] - logReference[x]));
    return scoreMean(masses, logPolicy);
  }

  // ------------------------------------------------------------ the verdict

  const GRID = Array.from({ length: 121 }, (_, i) => -3 + i / 20);

  // "flat", "rising", "falling" or "bending": an f-divergence has an f' that never falls.
  function shape(values) {
    const steps = values.slice(1).map((value, i) => value - values[i]);
    const least = 1e-9 * max(...values.map(abs), 1e-300);
    const [rises, falls] = [steps.some((s) => s > least), steps.some((s) => s < -least)];
    if (rises && falls) return "bending";
    return rises ? "rising" : falls ? "falling" : "flat";
  }

  // The divergence of the table whose signal, scaled and shifted, is this one; null for none.
  function nameOf(values) {
    for (const [name, { signal }] of Object.entries(Numbers.DIVERGENCES)) {
      const known = GRID.map(signal);
      const [center, other] = [sum(known) / known.length, sum(values) / values.length];
      const square = sum(known.map((k) => (k - center) ** 2));
      const scale = sum(known.map((k, i) => (k - center) * (values[i] - other))) / square;
      const left = known.map((k, i) => values[i] - other - scale * (k - center));
      if (norm(left) <= 1e-9 * norm(values.map((v) => v - other))) return { name, scale };
    }
    return null;
  }

  // What the reference is to the descent: "minimum" if every small step away is pulled back,
  // "nothing" if no gradient is left anywhere, else "no minimum".
  function atReference(penalty, use, logReference, logOld) {
    const slopeAt = (angle, step) => {
      const away = [0, 1, 2].map((y) => step * Math.cos(angle + (2 * Math.PI * y) / 3));
      const moved = logSoftmax(logReference.map((l, y) => l + away[y]));
      const slope = penaltyGradient(penalty, use, moved, logReference, logOld);
      return { slope, pull: sum(slope.map((s, y) => s * away[y])) / step };
    };
    const angles = Array.from({ length: 24 }, (_, i) => (Math.PI * i) / 12);
    const found = [0.05, 0.5, 2].flatMap((step) => angles.map((angle) => slopeAt(angle, step)));
    if (found.every(({ slope }) => norm(slope) < 1e-12)) return "nothing";
    return found.slice(0, angles.length).every(({ pull }) => pull > 1e-9) ? "minimum" : "no minimum";
  }

  function verdict(penalty, use, logReference, logOld) {
    const reference = atReference(penalty, use, logReference, logOld);
    if (use.samples === "old") return { reference, shape: null, named: null };
    const values = GRID.map((u) => factor(penalty, use, u));
    const found = shape(values);
    return { reference, shape: found, named: found === "flat" ? null : nameOf(values) };
  }

  // ------------------------------------------------------------ a descent

  // Small steps down the exact gradient, each of at most `longest` in the logits.
  function descent(penalty, use, logPolicy, logReference, logOld, { steps, rate, longest }) {
    const path = [logPolicy];
    for (let step = 0; step < steps; step++) {
      const here = path.at(-1);
      const slope = penaltyGradient(penalty, use, here, logReference, logOld);
      const length = norm(slope);
      if (!Number.isFinite(length) || length < 1e-9 || min(...here) < -14) break;
      path.push(Numbers.descend(here, slope, min(rate, longest / length)));
    }
    return path;
  }

  return { GRID, NAMED, atReference, descent, factor, nameOf, parse, penaltyGradient, shape, verdict };
})();
