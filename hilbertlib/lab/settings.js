// Every control of the laboratory: what it may be, where it begins, and how it is written in the page's address.

const decades = (from, to, steps) => {
  const out = [];
  for (let d = from; d < to; d++) for (const s of steps) out.push(Number(`${s}e${d}`));
  return [...out, Number(`1e${to}`)];
};
const FINE = [1, 1.5, 2, 3, 5, 7], COARSE = [1, 2, 5];

/**
 * grid: the values of a slider; range: what an address may ask for. live: applies in the middle of a run; the others
 * begin a new one. step: an integer. A control with options is a choice.
 */
export const CONTROLS = {
  lam: { symbol: "λ", label: "strength", grid: [0, ...decades(-2, 2, FINE)], live: true,
    hint: "how much a change of the function costs" },
  eps: { symbol: "ε", label: "step size", grid: decades(-3, 1, FINE), live: true, hint: "learning rate of the proposed step" },
  eta: { symbol: "η", label: "correction rate", grid: decades(-3, 0, FINE), live: true, hint: "learning rate of a correction" },
  n: { symbol: "n", label: "corrections", grid: Array.from({ length: 20 }, (_, i) => i + 1), live: true, integer: true,
    hint: "how often a step is corrected" },
  norm: { label: "Penalty", options: { rms: "norm ‖Δf‖", squared: "squared ‖Δf‖²" }, live: true },
  beta: { symbol: "β", label: "momentum", grid: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99], live: true,
    hint: "share of the velocity that is kept" },
  xv: { symbol: "|Xᵥ|", label: "inputs", grid: [2, 4, 8, 16, 32, 64, 128, 256], live: true, integer: true,
    hint: "where a correction looks; no labels" },
  batch: { symbol: "|X|", label: "batch", grid: [1, 2, 4, 8, 10, 16, 32, 64, 128], live: true, integer: true, hint: "examples in a training batch" },
  ghost: { label: "The ghost learns at", options: { plain: "ε", matched: "ε + (n−1)η" }, live: true },
  memory: { symbol: "M", label: "memory", grid: [0, 1, 2, 4, 8, 16, 32, 64, 128, 200], live: true, integer: true,
    hint: "examples of task A that are kept" },
  change: { label: "Task B begins at step", grid: [50, 100, 150, 200, 300, 400, 500, 700, 1000], integer: true, hint: "steps on task A" },
  kl: { symbol: "λ", label: "of the KL term", grid: decades(-1, 2, COARSE), live: true, hint: "the natural step is F⁻¹J / λ" },
  damping: { symbol: "δ", label: "damping", grid: decades(-6, 0, COARSE), live: true, hint: "added to the Fisher's diagonal" },
  data: { label: "Data", options: { moons: "moons", spirals: "spirals", xor: "XOR", rings: "rings", digits: "8×8 digits" } },
  noise: { label: "Shuffled labels", grid: [0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], percent: true, hint: "share of training labels that are wrong" },
  hidden: { label: "Hidden units", options: { 4: "4", "4-2": "4, 2", 8: "8", 32: "32", "8-8": "8, 8", "16-16": "16, 16" } },
  activation: { label: "Activation", options: { tanh: "tanh", relu: "ReLU" } },
  base: { label: "Proposed by", options: { sgd: "SGD", adam: "Adam" } },
  start: { label: "Second network starts from", options: { same: "the same weights", permuted: "same function, other weights", other: "another seed" } },
  seed: { label: "Seed", range: [0, 999999], integer: true },
  speed: { label: "Speed", grid: [1, 5, 15, 30, 60, 120, 300, 600, 1200, 3000], live: true, unit: "steps/s", hint: "steps a second, if this device can" },
};
for (const control of Object.values(CONTROLS)) if (control.grid) control.range ??= [control.grid[0], control.grid[control.grid.length - 1]];

const COMMON = { data: "moons", noise: 0.1, hidden: "16-16", activation: "tanh", base: "sgd", seed: 1, speed: 60,
  lam: 1, eps: 0.1, eta: 0.02, n: 1, norm: "rms", beta: 0.9, xv: 64, batch: 32 };

/** What each tab has, and where it begins. The order is the order on the page. */
export const TABS = {
  learn: { label: "Learn", controls: ["lam", "eta", "eps", "n", "beta", "xv", "batch", "norm", "ghost", "base", "data", "noise", "hidden", "activation", "start"],
    defaults: { ...COMMON, ghost: "plain", start: "same" } },
  remember: { label: "Remember", controls: ["lam", "memory", "eps", "beta", "batch", "norm", "base", "change", "data", "noise", "hidden", "activation"],
    defaults: { ...COMMON, noise: 0, lam: 1.5, memory: 16, change: 200 } },
  natural: { label: "Natural gradient", controls: ["lam", "eta", "eps", "n", "beta", "kl", "damping", "xv", "batch", "norm", "data", "noise", "activation"],
    defaults: { ...COMMON, hidden: "8", eps: 0.5, beta: 0, kl: 10, damping: 1e-3 } },
};

const COMMONLY = ["seed", "speed"];
export const controlsOf = (tab) => [...TABS[tab].controls, ...COMMONLY];

/** A value as it is used: a number in range, or a known option. Throws an Error that says what was expected. */
export function checkValue(id, value) {
  const name = `“${id}”`;
  const control = CONTROLS[id];
  if (!control) throw new Error(`there is no control ${name}`);
  if (control.options) {
    const known = Object.keys(control.options);
    if (!known.includes(String(value))) throw new Error(`${name} is one of ${known.join(", ")}, not “${value}”`);
    return String(value);
  }
  const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  const [low, high] = control.range;
  if (!(number >= low && number <= high) || (control.integer && !Number.isInteger(number)))
    throw new Error(`${name} is ${control.integer ? "a whole number" : "a number"} from ${low} to ${high}, not “${value}”`);
  return number;
}

/** All settings of a run from those given; what can't be used falls back and is told in messages. */
export function completeSettings(given = {}, messages = []) {
  let tab = given.tab ?? "learn";
  if (!Object.hasOwn(TABS, tab)) {
    messages.push(`There is no tab “${tab}”; this is Learn.`);
    tab = "learn";
  }
  const settings = { tab, ...TABS[tab].defaults };
  for (const [id, value] of Object.entries(given)) {
    if (id === "tab") continue;
    if (!Object.hasOwn(settings, id)) {
      if (!Object.hasOwn(CONTROLS, id)) messages.push(`There is no control “${id}”; it was left out.`);
      continue;
    }
    try {
      settings[id] = checkValue(id, value);
    } catch (error) {
      messages.push(`${capital(error.message)}; used ${settings[id]} instead.`);
    }
  }
  return settings;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The address of a run: its settings, the changes made on the way, and how far it went. */
export function writeAddress({ settings, changes = [], step = 0 }) {
  const parts = Object.entries(settings).map(([id, value]) => `${id}=${encodeURIComponent(value)}`);
  if (changes.length) parts.push(`changes=${changes.map((c) => `${c.step}.${c.control}.${encodeURIComponent(c.value)}`.replace(/~/g, "")).join("~")}`);
  if (step) parts.push(`step=${step}`);
  return parts.join("&");
}

/** {settings, changes, step, messages} from an address; null where it speaks of no laboratory. */
export function readAddress(hash) {
  const text = hash.replace(/^#/, "");
  if (!/^tab=/.test(text)) return null;
  const messages = [], given = Object.create(null); // no inherited names
  let changes = [], step = 0;
  for (const part of text.split("&").filter(Boolean)) {
    const cut = part.indexOf("=");
    const id = part.slice(0, cut);
    let value = part.slice(cut + 1);
    try {
      value = decodeURIComponent(value);
    } catch {
      messages.push(`${id || part} could not be read.`);
      continue;
    }
    if (id === "changes") changes = value.split("~").filter(Boolean);
    else if (id === "step") step = value;
    else given[id] = value;
  }
  const settings = completeSettings(given, messages);
  changes = changes.flatMap((item) => {
    const [, at, control, value] = /^(\d{1,7})\.(\w+)\.(.*)$/.exec(item) ?? [];
    try {
      if (!at || !CONTROLS[control]?.live || !Object.hasOwn(settings, control)) throw new Error(`the change “${item}” means nothing here`);
      return [{ step: Number(at), control, value: checkValue(control, value) }];
    } catch (error) {
      messages.push(`${capital(error.message)}; it was left out.`);
      return [];
    }
  }).sort((a, b) => a.step - b.step);
  if (!/^\d{1,6}$/.test(String(step))) {
    messages.push(`The step to go to is a whole number, not “${step}”; the run begins at 0.`);
    step = 0;
  }
  return { settings, changes, step: Number(step), messages };
}
