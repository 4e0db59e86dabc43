// Gradient descent and its Hilbert-constrained form (the paper's Algorithms 1 and 2), the L2 memory
// regularizer (section 3.1) and the exact natural gradient (equation 6).
import { l2Distance } from "./geometry.js";

/** v <- βv + εJ; the proposal is -v (the paper's form of momentum: the velocity has the step's units). */
export class SGD {
  constructor(size) {
    this.velocity = new Float64Array(size);
  }
  propose(grad, delta, { eps, beta }) {
    const v = this.velocity;
    for (let i = 0; i < v.length; i++) delta[i] = -(v[i] = beta * v[i] + eps * grad[i]);
  }
  /** The velocity takes up the correction, so that the next proposal starts from the corrected step. */
  absorb(correction, eta) {
    const v = this.velocity;
    for (let i = 0; i < v.length; i++) v[i] += eta * correction[i];
  }
}

/** Adam (Kingma & Ba 2015) with β1 = beta. Its moments don't see the corrections. */
export class Adam {
  constructor(size) {
    this.m = new Float64Array(size);
    this.v = new Float64Array(size);
    this.powers = Float64Array.of(1, 1); // β1^t, β2^t
  }
  propose(grad, delta, { eps, beta, beta2 = 0.999, tiny = 1e-8 }) {
    const { m, v, powers } = this;
    const debias = 1 / Math.sqrt(1 - (powers[1] *= beta2));
    const step = eps / (1 - (powers[0] *= beta));
    for (let i = 0; i < m.length; i++) {
      m[i] = beta * m[i] + (1 - beta) * grad[i];
      v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
      delta[i] = (-step * m[i]) / (Math.sqrt(v[i]) * debias + tiny);
    }
  }
  absorb() {}
}

/**
 * The gradient, with respect to theta, of λ times the L2 distance of the network's outputs on x (n, inputs)
 * from reference (n, classes); norm "rms": λ·sqrt(mean_i |Δf_i|²), "squared": λ·mean_i |Δf_i|². Returns the distance.
 */
export function distanceGradient(network, theta, x, n, reference, lam, norm, scratch, grad) {
  const p = network.forward(theta, x, n);
  const c = network.classes;
  const distance = l2Distance(p, reference, n, c);
  // The norm has no gradient at zero distance; zero is the subgradient that leaves the step alone.
  const scale = norm === "squared" ? (2 * lam) / n : distance > 0 ? lam / (n * distance) : 0;
  for (let i = 0; i < n * c; i++) scratch[i] = scale * (p[i] - reference[i]);
  network.outputGradient(theta, x, n, scratch, grad);
  return distance;
}

/** One network being trained: parameters, optimizer state and the buffers of a step. */
export class Learner {
  constructor(network, theta, base = "sgd") {
    this.network = network;
    this.theta = Float64Array.from(theta);
    this.optimizer = base === "adam" ? new Adam(network.size) : new SGD(network.size);
    this.delta = new Float64Array(network.size); // the step as it is corrected
    this.grad = new Float64Array(network.size); // J
    this.correction = new Float64Array(network.size);
    this.moved = new Float64Array(network.size); // theta_t + delta
    this.reserve(64);
  }

  reserve(n) {
    if (this.reference && this.reference.length >= n * this.network.classes) return;
    this.reference = new Float64Array(n * this.network.classes);
    this.scratch = new Float64Array(n * this.network.classes);
  }

  /**
   * J at theta on a batch: the cross-entropy and, given a memory {x, n, outputs, lam, norm}, (λ/2)·‖f_A - f‖ on it
   * (section 3.1). Returns the loss without the penalty.
   */
  gradient(x, y, n, memory = null) {
    const loss = this.network.lossGradient(this.theta, x, y, n, this.grad);
    if (memory && memory.n > 0 && memory.lam > 0) {
      this.reserve(memory.n);
      distanceGradient(this.network, this.theta, memory.x, memory.n, memory.outputs, memory.lam / 2, memory.norm, this.scratch, this.correction);
      axpy(1, this.correction, this.grad);
    }
    return loss;
  }

  /**
   * A step of the base optimizer and its n corrections (Algorithm 2). xv: n arrays, one X_V a correction; each has
   * nv rows. From the second correction on the gradient J is added. With measure, the distance on the last X_V before
   * the first and after the last correction is kept in this.before and this.after.
   */
  step({ eps, beta = 0, lam = 0, eta = 0, n = 1, norm = "rms" }, xv = [], nv = 0, measure = false) {
    const { network, theta, delta, grad, correction, moved } = this;
    this.optimizer.propose(grad, delta, { eps, beta });
    this.reserve(nv);
    const size = nv * network.classes;
    for (let j = 0; j < xv.length && j < n; j++) {
      const reference = this.reference.subarray(0, size);
      reference.set(network.forward(theta, xv[j], nv).subarray(0, size));
      add(theta, delta, moved);
      const distance = distanceGradient(network, moved, xv[j], nv, reference, lam, norm, this.scratch, correction);
      if (j === 0) this.before = distance;
      if (j > 0) axpy(1, grad, correction);
      axpy(-eta, correction, delta);
      this.optimizer.absorb(correction, eta);
      if (measure && j === Math.min(n, xv.length) - 1) {
        add(theta, delta, moved);
        this.after = l2Distance(network.forward(moved, xv[j], nv), reference, nv, network.classes);
      }
    }
    axpy(1, delta, theta);
  }

  /** The exact natural gradient step -(1/λ)(F + damping·I)⁻¹J, F the softmax Fisher on x (n, inputs). */
  naturalStep({ lam = 1, damping = 1e-3 }, x, n) {
    const size = this.network.size;
    const f = (this.fisher ??= new Float64Array(size * size));
    fisher(this.network, this.theta, x, n, f);
    for (let i = 0; i < size; i++) f[i * size + i] += damping;
    solve(f, this.grad, this.delta);
    for (let i = 0; i < size; i++) this.delta[i] /= -lam;
    axpy(1, this.delta, this.theta);
  }
}

/** F = (1/N) Σ_i Σ_c p_ic ∇log p_ic ∇log p_icᵀ, the Fisher information of a softmax classifier, (P, P) dense. */
export function fisher(network, theta, x, n, out) {
  const { size, classes: c, inputs } = network;
  const grad = new Float64Array(size);
  const dp = new Float64Array(c);
  out.fill(0);
  for (let i = 0; i < n; i++) {
    const row = x.subarray(i * inputs, (i + 1) * inputs);
    for (let j = 0; j < c; j++) {
      const p = network.forward(theta, row, 1)[j];
      if (p < 1e-300) continue; // its term is zero in the limit
      dp.fill(0);
      dp[j] = 1 / p;
      network.outputGradient(theta, row, 1, dp, grad);
      for (let a = 0; a < size; a++) {
        const g = (p / n) * grad[a];
        if (g !== 0) for (let b = 0; b <= a; b++) out[a * size + b] += g * grad[b];
      }
    }
  }
  for (let a = 0; a < size; a++) for (let b = 0; b < a; b++) out[b * size + a] = out[a * size + b];
  return out;
}

/** x with A x = b for a symmetric positive definite A (P, P), by Cholesky; A is overwritten. */
export function solve(a, b, x) {
  const n = b.length;
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let s = a[i * n + j];
      for (let k = 0; k < j; k++) s -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i === j ? Math.sqrt(s) : s / a[j * n + j];
    }
  }
  for (let i = 0; i < n; i++) {
    let s = b[i];
    for (let k = 0; k < i; k++) s -= a[i * n + k] * x[k];
    x[i] = s / a[i * n + i];
  }
  for (let i = n - 1; i >= 0; i--) {
    let s = x[i];
    for (let k = i + 1; k < n; k++) s -= a[k * n + i] * x[k];
    x[i] = s / a[i * n + i];
  }
  return x;
}

function axpy(a, x, y) {
  for (let i = 0; i < x.length; i++) y[i] += a * x[i];
}

function add(x, y, out) {
  for (let i = 0; i < x.length; i++) out[i] = x[i] + y[i];
}
