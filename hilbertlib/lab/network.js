// A multilayer perceptron with softmax output, in float64. The parameters are one flat vector in
// PyTorch's order (weight (out, in), then bias, layer by layer), so that a step is an axpy.

export class Network {
  /** sizes: [inputs, hidden ..., classes]; activation: "tanh" | "relu". */
  constructor(sizes, activation = "tanh") {
    this.sizes = sizes;
    this.activation = activation;
    this.inputs = sizes[0];
    this.classes = sizes[sizes.length - 1];
    this.layers = [];
    this.size = 0;
    for (let l = 1; l < sizes.length; l++) {
      const [fanIn, fanOut] = [sizes[l - 1], sizes[l]];
      this.layers.push({ fanIn, fanOut, w: this.size, b: this.size + fanIn * fanOut });
      this.size += fanIn * fanOut + fanOut;
    }
    this.capacity = 0;
    this.reserve(64);
  }

  /** Uniform on ±1/sqrt(fan-in), weights and biases: PyTorch's default for a linear layer. */
  init(random) {
    const theta = new Float64Array(this.size);
    for (const { fanIn, fanOut, w } of this.layers) {
      const bound = 1 / Math.sqrt(fanIn);
      for (let i = w; i < w + fanIn * fanOut + fanOut; i++) theta[i] = bound * (2 * random.uniform() - 1);
    }
    return theta;
  }

  /** The workspace grows to the largest batch seen and is used again: a step allocates nothing. */
  reserve(n) {
    if (n <= this.capacity) return;
    this.capacity = n;
    this.act = this.layers.map((l) => new Float64Array(n * l.fanOut));   // outputs of each layer; the last: probabilities
    this.delta = this.layers.map((l) => new Float64Array(n * l.fanOut)); // dLoss/d(pre-activation)
  }

  /** Softmax probabilities (n, classes) of x (n, inputs). The array is the network's own: copy it to keep it. */
  forward(theta, x, n) {
    this.reserve(n);
    const tanh = this.activation === "tanh";
    const last = this.layers.length - 1;
    let input = x;
    for (let l = 0; l <= last; l++) {
      const { fanIn, fanOut, w, b } = this.layers[l];
      const out = this.act[l];
      // Two rows and four units at a time: eight sums that don't wait for one another take half the time. An odd last
      // row is its own companion.
      for (let i = 0; i < n; i += 2) {
        const row = i * fanIn, twin = i + 1 < n ? row + fanIn : row;
        let j = 0, k = w, o = i * fanOut, q = i + 1 < n ? o + fanOut : o;
        for (; j + 4 <= fanOut; j += 4, k += 4 * fanIn, o += 4, q += 4) {
          let s0 = theta[b + j], s1 = theta[b + j + 1], s2 = theta[b + j + 2], s3 = theta[b + j + 3];
          let t0 = s0, t1 = s1, t2 = s2, t3 = s3;
          const k1 = k + fanIn, k2 = k1 + fanIn, k3 = k2 + fanIn;
          for (let m = 0; m < fanIn; m++) {
            const u = input[row + m], v = input[twin + m];
            const w0 = theta[k + m], w1 = theta[k1 + m], w2 = theta[k2 + m], w3 = theta[k3 + m];
            s0 += w0 * u; s1 += w1 * u; s2 += w2 * u; s3 += w3 * u;
            t0 += w0 * v; t1 += w1 * v; t2 += w2 * v; t3 += w3 * v;
          }
          out[o] = s0; out[o + 1] = s1; out[o + 2] = s2; out[o + 3] = s3;
          out[q] = t0; out[q + 1] = t1; out[q + 2] = t2; out[q + 3] = t3;
        }
        for (; j < fanOut; j++, k += fanIn, o++, q++) {
          let s = theta[b + j], t = s;
          for (let m = 0; m < fanIn; m++) {
            s += theta[k + m] * input[row + m];
            t += theta[k + m] * input[twin + m];
          }
          out[o] = s;
          out[q] = t;
        }
      }
      if (l < last) {
        if (tanh) for (let o = 0; o < n * fanOut; o++) out[o] = fastTanh(out[o]);
        else for (let o = 0; o < n * fanOut; o++) if (out[o] < 0) out[o] = 0; // NaN stays NaN
      }
      input = out;
    }
    softmax(input, n, this.classes);
    return input;
  }

  /** Adds nothing, overwrites grad with dLoss/dtheta, given dLoss/dlogits in the last delta. Needs forward(theta, x, n) just before. */
  backward(theta, x, n, grad) {
    const tanh = this.activation === "tanh";
    grad.fill(0);
    for (let l = this.layers.length - 1; l >= 0; l--) {
      const { fanIn, fanOut, w, b } = this.layers[l];
      const delta = this.delta[l];
      const input = l ? this.act[l - 1] : x;
      const back = l ? this.delta[l - 1] : null;
      for (let i = 0, row = 0; i < n; i++, row += fanIn) {
        if (back) for (let m = row; m < row + fanIn; m++) back[m] = 0;
        let j = 0, k = w, o = i * fanOut;
        for (; j + 4 <= fanOut; j += 4, k += 4 * fanIn, o += 4) { // four units at a time, for the same reason
          const d0 = delta[o], d1 = delta[o + 1], d2 = delta[o + 2], d3 = delta[o + 3];
          const k1 = k + fanIn, k2 = k1 + fanIn, k3 = k2 + fanIn;
          grad[b + j] += d0; grad[b + j + 1] += d1; grad[b + j + 2] += d2; grad[b + j + 3] += d3;
          for (let m = 0; m < fanIn; m++) {
            const v = input[row + m];
            grad[k + m] += d0 * v; grad[k1 + m] += d1 * v; grad[k2 + m] += d2 * v; grad[k3 + m] += d3 * v;
          }
          if (back) for (let m = 0; m < fanIn; m++)
            back[row + m] += d0 * theta[k + m] + d1 * theta[k1 + m] + d2 * theta[k2 + m] + d3 * theta[k3 + m];
        }
        for (; j < fanOut; j++, k += fanIn, o++) {
          const d = delta[o];
          grad[b + j] += d;
          for (let m = 0; m < fanIn; m++) grad[k + m] += d * input[row + m];
          if (back) for (let m = 0; m < fanIn; m++) back[row + m] += d * theta[k + m];
        }
        if (!back) continue;
        if (tanh) for (let m = row; m < row + fanIn; m++) back[m] *= 1 - input[m] * input[m];
        else for (let m = row; m < row + fanIn; m++) if (!(input[m] > 0)) back[m] = 0;
      }
    }
    return grad;
  }

  /** Mean cross-entropy of labels y (n) and its gradient, written into grad. */
  lossGradient(theta, x, y, n, grad) {
    const p = this.forward(theta, x, n);
    const c = this.classes;
    const delta = this.delta[this.layers.length - 1];
    let loss = 0;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < c; j++) delta[i * c + j] = (p[i * c + j] - (j === y[i] ? 1 : 0)) / n;
      loss -= Math.log(Math.max(p[i * c + y[i]], 1e-300)) / n; // the floor keeps a saturated, finite network's loss finite
    }
    this.backward(theta, x, n, grad);
    return loss;
  }

  /** dLoss/dtheta given dLoss/dprobabilities (n, classes): softmax's transposed Jacobian, then backward(). */
  outputGradient(theta, x, n, dp, grad) {
    const c = this.classes;
    const p = this.act[this.layers.length - 1];
    const delta = this.delta[this.layers.length - 1];
    for (let i = 0; i < n * c; i += c) {
      let dot = 0;
      for (let j = i; j < i + c; j++) dot += p[j] * dp[j];
      for (let j = i; j < i + c; j++) delta[j] = p[j] * (dp[j] - dot);
    }
    return this.backward(theta, x, n, grad);
  }
}

// tanh(a + b) = (tanh a + tanh b) / (1 + tanh a · tanh b), with a from a table and b small enough for four terms of the
// series: within a few units in the last place of Math.tanh, in a third of the time. A step is mostly tanh.
const TANH = Float64Array.from({ length: 2561 }, (_, k) => Math.tanh(k / 64 - 20));

export function fastTanh(x) {
  if (!(Math.abs(x) < 20)) return Number.isNaN(x) ? NaN : Math.sign(x);
  const k = (x * 64 + 1280.5) | 0;
  const a = TANH[k], b = x - (k / 64 - 20), s = b * b;
  const t = b * (1 - s * (1 / 3 - s * (2 / 15 - s * (17 / 315))));
  return (a + t) / (1 + a * t);
}

function softmax(z, n, c) {
  for (let i = 0; i < n * c; i += c) {
    let max = z[i], sum = 0;
    for (let j = i + 1; j < i + c; j++) if (z[j] > max) max = z[j];
    for (let j = i; j < i + c; j++) sum += z[j] = Math.exp(z[j] - max);
    for (let j = i; j < i + c; j++) z[j] /= sum;
  }
}

/** Share of the n labels y that the largest probability names. */
export function accuracy(p, y, n, c) {
  let right = 0;
  for (let i = 0; i < n; i++) {
    let best = 0;
    for (let j = 1; j < c; j++) if (p[i * c + j] > p[i * c + best]) best = j;
    if (best === y[i]) right++;
  }
  return right / n;
}

/**
 * The same function from other weights: hidden units in another order and, for tanh, with signs flipped
 * (tanh is odd, so a unit and its outgoing weights may change sign together).
 */
export function permuteUnits(network, theta, random) {
  const out = theta.slice();
  let source = null, sign = null; // of the layer's inputs; null: as they are
  network.layers.forEach(({ fanIn, fanOut, w, b }, l) => {
    const hidden = l < network.layers.length - 1;
    const order = hidden ? random.permutation(fanOut) : Int32Array.from({ length: fanOut }, (_, i) => i);
    const flip = order.map(() => (hidden && network.activation === "tanh" && random.uniform() < 0.5 ? -1 : 1));
    for (let j = 0; j < fanOut; j++) {
      out[b + j] = flip[j] * theta[b + order[j]];
      for (let k = 0; k < fanIn; k++)
        out[w + j * fanIn + k] = flip[j] * (sign ? sign[k] : 1) * theta[w + order[j] * fanIn + (source ? source[k] : k)];
    }
    [source, sign] = [order, flip];
  });
  return out;
}
