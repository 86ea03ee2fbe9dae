// Every number that the explorer shows. Nothing here draws, and nothing here knows the page.
//
// The formulas are those of fdpg_ref/numerics.py in float64, written for the log-ratio
// u = log policy - log target: each divergence is a signal g'(e^u), which multiplies the score, and a
// density p g(policy/p), whose sum is the divergence. tests/explorer holds both against fdpg_ref.
"use strict";

const Numbers = (() => {
  const { abs, exp, expm1, log, log1p, max, min, sign, sqrt, tanh } = Math;

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const norm = (vector) => sqrt(sum(vector.map((x) => x * x)));

  // ------------------------------------------------------------ log space

  function logSumExp(values) {
    const highest = max(...values);
    return highest + log(sum(values.map((value) => exp(value - highest))));
  }

  function logSoftmax(logits) {
    const highest = max(...logits);
    const shifted = logits.map((logit) => logit - highest);
    const normaliser = logSumExp(shifted);
    return shifted.map((logit) => logit - normaliser);
  }

  // e^x - 1 - x without cancellation: the series x^2/2 + x^3/6 + ... where e^x is near 1 + x.
  function phi(x) {
    if (x <= -1 || x >= 2) return exp(x) - 1 - x;
    let term = (x * x) / 2;
    let total = term;
    for (let k = 3; k < 30; k++) {
      term *= x / k;
      total += term;
    }
    return total;
  }

  // ------------------------------------------------------------ densities p g(policy/p)
  // q is log policy, p is log target.

  function forwardDensity(q, p) {
    const u = q - p;
    return u > -1 && u < 2 ? exp(p) * phi(u) : exp(q) - exp(p) * (1 + u);
  }

  // KL of one part to the mixture m, where v = log(m / part).
  function towardMixture(part, mixture, v) {
    return v > -1 && v < 2 ? exp(part) * phi(v) : exp(mixture) - exp(part) * (1 + v);
  }

  function shannonDensity(q, p) {
    const u = q - p;
    const fromTarget = u < 30 ? log1p(expm1(u) / 2) : u - log(2);
    const fromPolicy = u > -30 ? log1p(expm1(-u) / 2) : -u - log(2);
    const mixture = max(q, p) + log1p(exp(-abs(u))) - log(2);
    return (towardMixture(p, mixture, fromTarget) + towardMixture(q, mixture, fromPolicy)) / 2;
  }

  function pearsonDensity(q, p) {
    const u = q - p;
    return u > 1 ? exp(2 * q - p) * expm1(-u) ** 2 : exp(p) * expm1(u) ** 2;
  }

  // The larger mass times (1 - e^-|u|), which several densities share.
  const gapMass = (q, p) => exp(max(q, p)) * -expm1(-abs(q - p));

  // u^2 times the second divided difference of exp at log p, log p + alpha u and log policy.
  function alphaDensity(alpha) {
    const width = max(1, alpha, 1 - alpha);
    return (q, p) => {
      const u = q - p;
      const [low, middle, high] = [q, p, p + alpha * u].sort((x, y) => x - y);
      const span = high - low;
      const scale = abs(u) / width;
      if (span > 1) return difference(middle, high, scale) - difference(low, middle, scale);

      // Near u = 0: a series of positive terms, in which s is the place of the middle node.
      const s = span > 0 ? (middle - low) / span : 0;
      let [power, ones, total] = [0.5, 1, 0];
      for (let k = 0; k < 22; k++) {
        total += power * ones;
        power *= span / (k + 3);
        ones = 1 + s * ones;
      }
      return u * u * exp(low) * total;
    };
  }

  // scale (e^y - e^x) / (y - x) for x <= y.
  function difference(x, y, scale) {
    const gap = y - x;
    return scale * exp(y) * (gap > 0 ? -expm1(-gap) / gap : 1);
  }

  function alphaSignal(alpha) {
    const exponent = alpha - 1;
    return exponent === 0 ? (u) => u : (u) => expm1(exponent * u) / exponent;
  }

  // ------------------------------------------------------------ the table

  const DIVERGENCES = {
    forward_kl: {
      title: "forward KL",
      formula: "KL(p‖π)",
      signal: (u) => -expm1(-u),
      density: forwardDensity,
    },
    reverse_kl: {
      title: "reverse KL",
      formula: "KL(π‖p)",
      signal: (u) => u,
      density: (q, p) => forwardDensity(p, q),
    },
    total_variation: {
      title: "total variation",
      formula: "½ Σ |π − p|",
      signal: (u) => sign(u) / 2,
      density: (q, p) => gapMass(q, p) / 2,
    },
    jensen_shannon: {
      title: "Jensen–Shannon",
      formula: "both KLs to the average of π and p, halved",
      signal: (u) => (u >= -1 ? -log1p(expm1(-u) / 2) : u - log1p(expm1(u) / 2)) / 2,
      density: shannonDensity,
    },
    pearson_chi2: {
      title: "Pearson χ²",
      formula: "Σ (π − p)² / p",
      signal: (u) => 2 * expm1(u),
      density: pearsonDensity,
    },
    neyman_chi2: {
      title: "Neyman χ²",
      formula: "Σ (π − p)² / π",
      signal: (u) => -expm1(-2 * u),
      density: (q, p) => pearsonDensity(p, q),
    },
    squared_hellinger: {
      title: "squared Hellinger",
      formula: "Σ (√π − √p)²",
      signal: (u) => -expm1(-u / 2),
      density: (q, p) => exp(min(q, p)) * expm1(abs(q - p) / 2) ** 2,
    },
    jeffreys: {
      title: "Jeffreys",
      formula: "both KLs added",
      signal: (u) => u - expm1(-u),
      density: (q, p) => gapMass(q, p) * abs(q - p),
    },
    le_cam: {
      title: "Le Cam",
      formula: "Σ (π − p)² / (π + p)",
      signal: (u) => tanh(u / 2) * (2 - tanh(u / 2)),
      density: (q, p) => gapMass(q, p) * tanh(abs(q - p) / 2),
    },
  };

  // A record of the table, or "alpha_A": 0 is forward KL, 1 is reverse KL.
  function find(name) {
    if (!name.startsWith("alpha_")) return DIVERGENCES[name];
    const alpha = Number(name.slice("alpha_".length));
    return {
      title: `alpha ${alpha}`,
      formula: "between forward KL (0) and reverse KL (1)",
      signal: alphaSignal(alpha),
      density: alphaDensity(alpha),
    };
  }

  // D_f(policy||target). Rounded logarithms do not sum to one exactly: the mismatch of the two masses
  // is taken out of u.
  function divergence(name, logPolicy, logTarget) {
    const { density } = find(name);
    let [mass, change, total] = [0, 0, 0];
    for (let x = 0; x < logTarget.length; x++) {
      const p = exp(logTarget[x]);
      mass += p;
      change += p * expm1(min(logPolicy[x] - logTarget[x], 700));
    }
    const shift = log1p(change / mass);
    for (let x = 0; x < logTarget.length; x++) total += density(logPolicy[x] - shift, logTarget[x]);
    return total / mass;
  }

  // The signal at each outcome, where log Z is believed to be off by an error.
  function signals(name, logPolicy, logTarget, errorOfLogZ = 0) {
    const { signal } = find(name);
    return logPolicy.map((q, x) => signal(q - logTarget[x] + errorOfLogZ));
  }

  // ------------------------------------------------------------ gradients in the logits

  // E_law[weight (e_x - policy)], where law and weight are given as their product, a mass.
  function scoreMean(masses, logPolicy) {
    const total = sum(masses);
    return logPolicy.map((q, x) => masses[x] - exp(q) * total);
  }

  function gradient(name, logPolicy, logTarget, errorOfLogZ = 0) {
    const signal = signals(name, logPolicy, logTarget, errorOfLogZ);
    // A constant changes nothing in the mean of the scores: the centred form cancels less.
    const mean = sum(signal.map((value, x) => exp(logPolicy[x]) * value));
    return signal.map((value, x) => exp(logPolicy[x]) * (value - mean));
  }

  const descend = (logits, slope, rate) => logSoftmax(logits.map((l, x) => l - rate * slope[x]));

  // What is subtracted from the signal of each outcome, in a batch with these counts.
  function baselines(counts, signal, kind) {
    const n = sum(counts);
    const total = sum(signal.map((value, x) => counts[x] * value));
    if (kind === "leave_one_out") return signal.map((value) => (total - value) / (n - 1));
    return signal.map(() => (kind === "batch" ? total / n : 0));
  }

  // The gradient that a batch estimates: (1/n) sum_i (signal_i - baseline_i) score_i.
  function batchGradient(counts, logPolicy, signal, kind) {
    const n = sum(counts);
    const baseline = baselines(counts, signal, kind);
    const masses = counts.map((count, x) => (count ? (count / n) * (signal[x] - baseline[x]) : 0));
    return scoreMean(masses, logPolicy);
  }

  // Mean of that estimate and the trace of its covariance, exactly, for n >= 2 (n >= 1 without
  // a baseline). The two spreads of a leave-one-out estimate are those of a U-statistic.
  function batchMoments(logPolicy, signal, kind, n) {
    const probs = logPolicy.map(exp);
    const scores = probs.map((_, x) => probs.map((prob, y) => (x === y ? 1 : 0) - prob));
    const average = sum(probs.map((prob, x) => prob * signal[x]));
    const slope = probs.map((prob, x) => prob * (signal[x] - average));
    const spread = (factor, vector) => sum(vector.map((s, y) => (factor * s - slope[y]) ** 2));

    if (kind === "none") {
      const trace = sum(probs.map((prob, x) => prob * spread(signal[x], scores[x])));
      return { mean: slope, trace: trace / n };
    }
    const one = sum(probs.map((prob, x) => prob * spread(signal[x] - average, scores[x]))) / 4;
    let two = 0;
    for (const x of probs.keys()) {
      for (const y of probs.keys()) {
        const apart = scores[x].map((s, z) => (s - scores[y][z]) / 2);
        two += probs[x] * probs[y] * spread(signal[x] - signal[y], apart);
      }
    }
    const trace = (4 * (n - 2) * one + 2 * two) / (n * (n - 1));
    const left = kind === "batch" ? (n - 1) / n : 1;
    return { mean: slope.map((value) => left * value), trace: left * left * trace };
  }

  // Infinite where no gradient is left but the rounding of its signals.
  function noisePerGradient({ mean, trace }, signal) {
    const nothing = 1e-12 * max(...signal.map(abs));
    return norm(mean) > nothing ? sqrt(trace) / norm(mean) : Infinity;
  }

  // ------------------------------------------------------------ chance

  // A generator with a seed (mulberry32): the same pictures every time.
  function random(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  // How often each of three outcomes comes in n draws.
  function drawCounts(probs, n, uniform) {
    const [first, second] = [probs[0], probs[0] + probs[1]];
    const counts = [0, 0, 0];
    for (let i = 0; i < n; i++) {
      const value = uniform();
      counts[value < first ? 0 : value < second ? 1 : 2] += 1;
    }
    return counts;
  }

  // ------------------------------------------------------------ two humps

  const POINTS = Array.from({ length: 61 }, (_, i) => -6 + i / 5);

  // The probabilities of a Gaussian on the points: theta is its mean and the logarithm of its width.
  function gaussian([mean, logWidth]) {
    return logSoftmax(POINTS.map((x) => -0.5 * ((x - mean) / exp(logWidth)) ** 2));
  }

  // Two Gaussians of widths 0.7 and 0.5, a distance apart; the left one has a share of the mass.
  function twoHumps(distance, share) {
    const left = gaussian([-distance / 2, log(0.7)]);
    const right = gaussian([distance / 2, log(0.5)]);
    return left.map((value, x) => logSumExp([log(share) + value, log(1 - share) + right[x]]));
  }

  // The slope of D in (mean, log width), by the scores of the Gaussian.
  function gaussianGradient(name, theta, logTarget) {
    const logPolicy = gaussian(theta);
    const masses = gradient(name, logPolicy, logTarget);
    const width = exp(theta[1]);
    const z = POINTS.map((x) => (x - theta[0]) / width);
    return [sum(masses.map((m, x) => (m * z[x]) / width)), sum(masses.map((m, x) => m * z[x] ** 2))];
  }

  // ------------------------------------------------------------ measuring

  // A target of two parts. The policy gives the part of mass `share` only the mass `trace`.
  // Each estimate is a function of how many of n samples fall on that part, k. So its law is
  // a binomial's, and its moments are sums over k; nothing is simulated.
  function estimate(k, n, share, trace, from) {
    const [q, p] = [[log(trace), log1p(-trace)], [log(share), log1p(-share)]];
    const counts = [k, n - k];
    let terms = [p[0] - q[0], p[1] - q[1]];
    if (from === "policy") {
      // Z is the mean of the weights p/policy of the same samples, as is usual.
      const logZ = log(sum(counts.map((count, x) => (count / n) * exp(p[x] - q[x]))));
      terms = terms.map((logWeight) => forwardDensity(0, logWeight - logZ));
    }
    const value = sum(counts.map((count, x) => count * terms[x])) / n;
    const squares = sum(counts.map((count, x) => count * (terms[x] - value) ** 2));
    return { value, error: sqrt(squares / (n - 1) / n) };
  }

  function measurement(n, share, trace, from) {
    const truth = divergence("forward_kl", [log(trace), log1p(-trace)], [log(share), log1p(-share)]);
    const sets = binomial(n, from === "policy" ? trace : share).map(({ k, mass }) => {
      return { mass, ...estimate(k, n, share, trace, from) };
    });

    const mean = sum(sets.map((set) => set.mass * set.value));
    const deviation = sqrt(sum(sets.map((set) => set.mass * (set.value - mean) ** 2)));
    const error = sum(sets.map((set) => set.mass * set.error));
    const holds = (set) => abs(set.value - truth) <= 2 * set.error + 1e-12 * max(1, truth);
    const coverage = sum(sets.filter(holds).map((set) => set.mass));

    // The reports that a tenth, a half and nine tenths of the sample sets do not exceed.
    sets.sort((one, other) => one.value - other.value);
    const quantile = (share) => {
      let reached = 0;
      for (const set of sets) {
        reached += set.mass;
        if (reached >= share) return set;
      }
      return sets.at(-1);
    };
    const shown = -expm1(n * log1p(-(from === "policy" ? trace : share)));
    const [low, typical, high] = [0.1, 0.5, 0.9].map(quantile);
    return { truth, mean, deviation, error, coverage, shown, low: low.value, typical, high: high.value };
  }

  // The counts k of n that matter, with their masses: outward from the likeliest.
  function binomial(n, prob) {
    const mode = min(n, Math.floor((n + 1) * prob));
    const odds = prob / (1 - prob);
    const found = [{ k: mode, mass: 1 }];
    for (let k = mode, mass = 1; k < n && mass > 1e-20; k++) {
      mass *= ((n - k) / (k + 1)) * odds;
      found.push({ k: k + 1, mass });
    }
    for (let k = mode, mass = 1; k > 0 && mass > 1e-20; k--) {
      mass *= k / (n - k + 1) / odds;
      found.push({ k: k - 1, mass });
    }
    const total = sum(found.map(({ mass }) => mass));
    return found.map(({ k, mass }) => ({ k, mass: mass / total }));
  }

  return {
    DIVERGENCES, POINTS, alphaDensity, batchGradient, batchMoments, binomial, descend, divergence,
    drawCounts, estimate, find, gaussian, gaussianGradient, gradient, logSoftmax, logSumExp,
    measurement, noisePerGradient, norm, random, scoreMean, signals, sum, twoHumps,
  };
})();
