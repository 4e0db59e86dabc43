// The engine against finite differences, closed forms and the laws that it should obey.
import test from "node:test";
import assert from "node:assert/strict";
import { Random } from "../../hilbertlib/lab/random.js";
import { Network, accuracy, fastTanh, permuteUnits } from "../../hilbertlib/lab/network.js";
import { Learner, distanceGradient, fisher, solve } from "../../hilbertlib/lab/optimizers.js";
import { classicalScaling, l2Distance, parameterDistance, procrustes, stress } from "../../hilbertlib/lab/geometry.js";

const normals = (random, n) => Float64Array.from({ length: n }, () => random.normal());
const close = (a, b, tolerance, what) => assert.ok(Math.abs(a - b) <= tolerance, `${what ?? "value"}: ${a} is not ${b}`);

function setting(activation = "tanh", sizes = [3, 6, 5, 4], n = 7) {
  const random = new Random(11, activation);
  const network = new Network(sizes, activation);
  return { random, network, n, theta: network.init(random), x: normals(random, n * sizes[0]), y: Int32Array.from({ length: n }, () => random.integer(sizes.at(-1))) };
}

/** A central difference of f in every direction, against a gradient. */
function checkGradient(theta, gradient, f) {
  const step = 1e-5;
  for (let i = 0; i < theta.length; i++) {
    const up = theta.slice(), down = theta.slice();
    up[i] += step;
    down[i] -= step;
    close((f(up) - f(down)) / (2 * step), gradient[i], 1e-7, `derivative ${i}`);
  }
}

for (const activation of ["tanh", "relu"]) {
  test(`backpropagation is the derivative of the loss (${activation})`, () => {
    const { network, theta, x, y, n } = setting(activation);
    const gradient = new Float64Array(network.size), other = new Float64Array(network.size);
    network.lossGradient(theta, x, y, n, gradient);
    checkGradient(theta, gradient, (t) => network.lossGradient(t, x, y, n, other));
  });

  for (const norm of ["rms", "squared"])
    test(`the gradient of the L2 distance is its derivative (${activation}, ${norm})`, () => {
      const { network, theta, x, n, random } = setting(activation);
      const reference = network.forward(theta.map((t) => t + 0.3 * random.normal()), x, n).slice();
      const gradient = new Float64Array(network.size), scratch = new Float64Array(reference.length);
      distanceGradient(network, theta, x, n, reference, 1.7, norm, scratch, gradient);
      checkGradient(theta, gradient, (t) => {
        const d = l2Distance(network.forward(t, x, n), reference, n, network.classes);
        return 1.7 * (norm === "squared" ? d * d : d);
      });
    });
}

test("probabilities are positive and sum to one, however large the weights", () => {
  const { network, theta, x, n } = setting();
  const p = network.forward(theta.map((t) => 1000 * t), x, n);
  for (let i = 0; i < n; i++) close(p.subarray(4 * i, 4 * i + 4).reduce((a, b) => a + b), 1, 1e-12);
  assert.ok(p.every((v) => v >= 0));
});

test("a network larger than its workspace gives the same answers row by row", () => {
  const random = new Random(2), network = new Network([2, 9, 3]);
  const theta = network.init(random), x = normals(random, 2 * 300);
  const all = network.forward(theta, x, 300).slice(0, 900);
  for (let i = 0; i < 300; i++) assert.deepEqual(network.forward(theta, x.subarray(2 * i, 2 * i + 2), 1).slice(0, 3), all.slice(3 * i, 3 * i + 3));
});

test("tanh is within four units in the last place, and keeps NaN", () => {
  const random = new Random(5);
  for (let i = 0; i < 20000; i++) {
    const x = (2 * random.uniform() - 1) * 10 ** (4 * random.uniform() - 2.5);
    close(fastTanh(x), Math.tanh(x), 4 * 2 ** -52 * Math.abs(Math.tanh(x)), `tanh ${x}`);
  }
  assert.ok(Number.isNaN(fastTanh(NaN)));
  assert.deepEqual([-Infinity, -25, 25, Infinity].map(fastTanh), [-1, -1, 1, 1]);
});

test("a NaN weight shows in the outputs of a ReLU network instead of being cut to zero", () => {
  const { network, theta, x, n } = setting("relu");
  theta[0] = NaN;
  assert.ok(network.forward(theta, x, n).slice(0, 4 * n).some(Number.isNaN));
});

test("λ = 0 with one correction is the base optimizer, bit for bit", () => {
  for (const base of ["sgd", "adam"]) {
    const { network, theta, x, y, n, random } = setting();
    const plain = new Learner(network, theta, base), corrected = new Learner(network, theta, base);
    for (let step = 0; step < 30; step++) {
      for (const learner of [plain, corrected]) learner.gradient(x, y, n);
      plain.step({ eps: 0.05, beta: 0.9 });
      corrected.step({ eps: 0.05, beta: 0.9, lam: 0, eta: 0.1, n: 1 }, [normals(random, 15)], 5);
    }
    assert.deepEqual(corrected.theta, plain.theta);
  }
});

test("λ = 0 with n corrections is SGD at ε + (n-1)η, with and without momentum", () => {
  for (const beta of [0, 0.9]) {
    const { network, theta, x, y, n } = setting();
    const faster = new Learner(network, theta), corrected = new Learner(network, theta);
    for (let step = 0; step < 30; step++) {
      for (const learner of [faster, corrected]) learner.gradient(x, y, n);
      faster.step({ eps: 0.05 + 3 * 0.02, beta });
      corrected.step({ eps: 0.05, beta, lam: 0, eta: 0.02, n: 4 }, [x, x, x, x], n);
    }
    assert.ok(parameterDistance(corrected.theta, faster.theta) < 1e-12);
    assert.ok(parameterDistance(corrected.theta, theta) > 0.1);
  }
});

test("one correction of a linear step is the one worked out by hand", () => {
  // One input, two classes, no hidden layer: f = softmax(w x + b). With p the first probability, |Δf|² = 2 Δp².
  const network = new Network([1, 2]), theta = Float64Array.of(0.3, -0.2, 0.1, 0.4);
  const learner = new Learner(network, theta);
  learner.gradient(Float64Array.of(1), Int32Array.of(0), 1);
  const grad = learner.grad.slice();
  const [eps, eta, lam, xv] = [0.5, 0.1, 2, 1.5];
  learner.step({ eps, eta, lam, n: 1, norm: "squared" }, [Float64Array.of(xv)], 1, true);
  const proposed = theta.map((t, i) => t - eps * grad[i]);
  const first = (t) => 1 / (1 + Math.exp(t[1] * xv + t[3] - t[0] * xv - t[2]));
  const [p0, p1] = [first(theta), first(proposed)];
  const slope = lam * 4 * (p1 - p0) * p1 * (1 - p1);
  const expected = [xv, -xv, 1, -1].map((d, i) => proposed[i] - eta * slope * d);
  learner.theta.forEach((t, i) => close(t, expected[i], 1e-14));
  close(learner.before, Math.SQRT2 * Math.abs(p1 - p0), 1e-14);
  close(learner.after, Math.SQRT2 * Math.abs(first(expected) - p0), 1e-14);
});

test("a memory of no examples, or λ = 0, leaves the gradient alone", () => {
  const { network, theta, x, y, n } = setting();
  const learner = new Learner(network, theta);
  learner.gradient(x, y, n);
  const plain = learner.grad.slice();
  const outputs = new Float64Array(4 * n).fill(0.25);
  for (const memory of [{ x, n: 0, outputs, lam: 3, norm: "rms" }, { x, n, outputs, lam: 0, norm: "rms" }]) {
    learner.gradient(x, y, n, memory);
    assert.deepEqual(learner.grad, plain);
  }
  learner.gradient(x, y, n, { x, n, outputs, lam: 3, norm: "rms" });
  assert.notDeepEqual(learner.grad, plain);
});

test("at zero distance the norm pulls nowhere", () => {
  const { network, theta, x, n } = setting();
  const reference = network.forward(theta, x, n).slice();
  const gradient = new Float64Array(network.size);
  distanceGradient(network, theta, x, n, reference, 1, "rms", new Float64Array(reference.length), gradient);
  assert.ok(gradient.every((g) => g === 0));
});

test("the Fisher is symmetric, positive semidefinite, and the Hessian of the KL divergence", () => {
  const { network, theta, x, n, random } = setting("tanh", [2, 3, 3]);
  const size = network.size;
  const f = fisher(network, theta, x, n, new Float64Array(size * size));
  const p = network.forward(theta, x, n).slice(0, 3 * n);
  const kl = (t) => {
    const q = network.forward(t, x, n);
    return p.reduce((sum, v, i) => sum + (v * Math.log(v / q[i])) / n, 0);
  };
  for (let trial = 0; trial < 5; trial++) {
    const v = normals(random, size);
    let quadratic = 0;
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) quadratic += v[i] * f[i * size + j] * v[j];
    assert.ok(quadratic >= 0);
    const e = 1e-3;
    const second = (kl(theta.map((t, i) => t + e * v[i])) - 2 * kl(theta) + kl(theta.map((t, i) => t - e * v[i]))) / (e * e);
    close(quadratic, second, 1e-4 * (1 + second));
  }
  for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) assert.equal(f[i * size + j], f[j * size + i]);
});

test("the Cholesky solver solves", () => {
  const random = new Random(3), n = 12;
  const root = normals(random, n * n), b = normals(random, n), a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) for (let k = 0; k < n; k++) a[i * n + j] += root[i * n + k] * root[j * n + k];
  for (let i = 0; i < n; i++) a[i * n + i] += 0.1;
  const x = solve(a.slice(), b, new Float64Array(n));
  for (let i = 0; i < n; i++) close(x.reduce((sum, v, j) => sum + a[i * n + j] * v, 0), b[i], 1e-9);
});

test("renamed units compute the same function from distant weights", () => {
  for (const activation of ["tanh", "relu"]) {
    const { network, theta, x, n, random } = setting(activation);
    const twin = permuteUnits(network, theta, random);
    assert.ok(parameterDistance(theta, twin) > 1);
    const p = network.forward(theta, x, n).slice();
    close(l2Distance(network.forward(twin, x, n), p, n, 4), 0, 1e-14);
  }
});

test("accuracy counts the largest probability, the first of equals", () => {
  assert.equal(accuracy([0.6, 0.4, 0.2, 0.8, 0.5, 0.5], [0, 0, 0], 3, 2), 2 / 3);
});

test("distances: root mean square over examples, Euclidean over parameters", () => {
  close(l2Distance([1, 0, 0, 1], [0, 1, 0, 1], 2, 2), 1, 1e-15);
  close(parameterDistance([0, 3], [4, 0]), 5, 1e-15);
});

const pairwise = (points, d) => {
  const s = points.length / d, out = new Float64Array(s * s);
  for (let i = 0; i < s; i++) for (let j = 0; j < s; j++) out[i * s + j] = parameterDistance(points.slice(i * d, i * d + d), points.slice(j * d, j * d + d));
  return out;
};

test("scaling recovers points of a plane up to a motion, with no stress", () => {
  const points = normals(new Random(1), 40), d = pairwise(points, 2);
  const map = classicalScaling(d, 20);
  close(map.stress, 0, 1e-9);
  const back = procrustes(map.points, points, Array.from({ length: 20 }, (_, i) => [i, i]));
  assert.ok(parameterDistance(back, points) < 1e-8);
});

test("scaling bears equal points, a single one, and points on a line", () => {
  assert.deepEqual([...classicalScaling(new Float64Array(9), 3).points], [0, 0, 0, 0, 0, 0]);
  assert.equal(classicalScaling(new Float64Array(1), 1).stress, 0);
  close(classicalScaling(pairwise(Float64Array.of(0, 1, 3, 7), 1), 4).stress, 0, 1e-9);
});

test("stress is zero for the true map and grows with what the plane can't show", () => {
  const simplex = pairwise(Float64Array.of(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1), 4);
  assert.ok(classicalScaling(simplex, 4).stress > 0.1);
  assert.equal(stress(Float64Array.of(0, 0, 3, 4), Float64Array.of(0, 5, 5, 0), 2), 0);
});

test("Procrustes turns, mirrors and shifts, but never stretches", () => {
  const random = new Random(8), points = normals(random, 24);
  for (const mirror of [1, -1]) {
    const moved = Float64Array.from(points, (_, k) => {
      const x = points[k & ~1], y = mirror * points[k | 1], angle = 2.2;
      return 2 * (k & 1 ? Math.sin(angle) * x + Math.cos(angle) * y + 4 : Math.cos(angle) * x - Math.sin(angle) * y - 1);
    });
    const back = procrustes(points, moved, Array.from({ length: 12 }, (_, i) => [i, i]));
    const a = pairwise(back, 2), b = pairwise(points, 2);
    assert.ok(parameterDistance(a, b) < 1e-12);
    // half as large as the target, and laid onto it: what is left is the difference in size
    const half = pairwise(moved, 2).map((v) => v / 2);
    assert.ok(parameterDistance(a, half) < 1e-12);
    const centre = (array, k) => array.reduce((sum, v, i) => sum + (i % 2 === k ? v / 12 : 0), 0);
    for (const k of [0, 1]) close(centre(back, k), centre(moved, k), 1e-12);
    const error = parameterDistance(back, moved), size = parameterDistance(back, back.map((_, i) => centre(back, i % 2)));
    close(error, size, 1e-9); // |2x - x|
  }
});

test("random numbers: the same from the same seed, others from another seed or purpose", () => {
  const take = (random) => Array.from({ length: 5 }, () => random.uniform());
  assert.deepEqual(take(new Random(1, "a")), take(new Random(1, "a")));
  assert.notDeepEqual(take(new Random(1, "a")), take(new Random(1, "b")));
  assert.notDeepEqual(take(new Random(1, "a")), take(new Random(2, "a")));
  const random = new Random(4), values = Array.from({ length: 20000 }, () => random.normal());
  const mean = values.reduce((a, b) => a + b) / 20000, square = values.reduce((a, b) => a + b * b) / 20000;
  close(mean, 0, 0.03);
  close(square, 1, 0.04);
  assert.deepEqual([...random.permutation(50)].sort((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i));
});
