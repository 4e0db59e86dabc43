// What the networks learn: two-dimensional tasks made from the seed, and 8x8 digits where the page carries them.
import { Random } from "./random.js";

const TRAIN = 200, TEST = 200;

/** Points in about [-1, 1]² of a class 0 or 1, by the task's name. */
const SHAPES = {
  moons(random, label) {
    const t = Math.PI * random.uniform();
    const [x, y] = label ? [1 - Math.cos(t), 0.5 - Math.sin(t)] : [Math.cos(t), Math.sin(t)];
    return [(x - 0.5) / 1.5 + 0.1 * random.normal(), (y - 0.25) / 1.1 + 0.1 * random.normal()];
  },
  spirals(random, label) {
    const r = 0.1 + 0.85 * random.uniform();
    const t = 2.3 * Math.PI * r + Math.PI * label;
    return [r * Math.cos(t) + 0.03 * random.normal(), r * Math.sin(t) + 0.03 * random.normal()];
  },
  xor(random, label) {
    const sign = random.uniform() < 0.5 ? -1 : 1;
    const [u, v] = [0.06 + 0.88 * random.uniform(), 0.06 + 0.88 * random.uniform()];
    return [sign * u, (label ? -sign : sign) * v];
  },
  rings(random, label) {
    const r = (label ? 0.75 : 0.28) + 0.09 * random.normal(), t = 2 * Math.PI * random.uniform();
    return [r * Math.cos(t), r * Math.sin(t)];
  },
};

function sample(name, n, random, place) {
  const x = new Float64Array(2 * n), y = new Int32Array(n);
  for (let i = 0; i < n; i++) {
    y[i] = i % 2;
    x.set(place(SHAPES[name](random, y[i])), 2 * i);
  }
  return { x, y, n };
}

/** A share of the labels moved to another class, each to every other with equal chance. */
function shuffleLabels(set, noise, classes, random) {
  for (let i = 0; i < set.n; i++) {
    const [flip, shift] = [random.uniform() < noise, 1 + random.integer(classes - 1)]; // always two draws: the same points flip first
    if (flip) set.y[i] = (set.y[i] + shift) % classes;
  }
}

/** {x (n, 64) in [0, 1], y (n)} from base64 text: n labels, then n rows of 32 bytes, two 4-bit pixels each. */
export function decodeDigits(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const n = bytes.length / 33;
  const x = new Float64Array(64 * n);
  for (let i = 0; i < 32 * n; i++) {
    x[2 * i] = (bytes[n + i] >> 4) / 15;
    x[2 * i + 1] = (bytes[n + i] & 15) / 15;
  }
  return { x, y: Int32Array.from(bytes.subarray(0, n)), n };
}

const slice = ({ x, y }, from, to, width) => ({ x: x.slice(from * width, to * width), y: y.slice(from, to), n: to - from });

/**
 * The task named by settings.data: {train, test, inputs, classes}. For the tab "remember" there are two, A then B:
 * in the plane B is the mirror image, beside A, with its classes exchanged; for digits its pixels are permuted.
 */
export function makeTasks(settings, digits = null) {
  const { data, noise, seed, tab } = settings;
  const count = tab === "remember" ? 2 : 1;
  return Array.from({ length: count }, (_, k) => {
    const random = new Random(seed, `data${k}`);
    let task;
    if (data === "digits") {
      if (!digits) throw new Error("this page carries no digits");
      const order = k ? random.permutation(64) : null;
      const cut = Math.round(0.625 * digits.n);
      const move = (set) => ({ ...set, x: order ? set.x.map((_, i) => set.x[i - (i % 64) + order[i % 64]]) : set.x });
      task = { inputs: 64, classes: 10, train: move(slice(digits, 0, cut, 64)), test: move(slice(digits, cut, digits.n, 64)) };
    } else {
      const place = count === 1 ? (p) => p : ([x, y]) => [0.52 * (k ? -x : x) + (k ? 0.5 : -0.5), 0.75 * y];
      task = { inputs: 2, classes: 2, train: sample(data, TRAIN, random, place), test: sample(data, TEST, random, place) };
      if (k) for (const set of [task.train, task.test]) set.y = set.y.map((label) => 1 - label);
    }
    shuffleLabels(task.train, noise, task.classes, new Random(seed, `noise${k}`));
    return task;
  });
}
