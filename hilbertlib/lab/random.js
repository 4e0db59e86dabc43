// Seeded random numbers: a run is a function of its settings and seed, so it never asks the browser for randomness.

/** A 32-bit hash of text, to give every purpose (data, batches, X_V ...) a stream of its own. */
function hash(text, h) {
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x5bd1e995);
  return h ^ (h >>> 15);
}

/** Chris Doty-Humphrey's sfc32 generator: 128 bits of state, passes PractRand. */
export class Random {
  constructor(seed, stream = "") {
    this.state = Int32Array.of(seed, hash(stream, 0x9e3779b9), ~seed, 1);
    for (let i = 0; i < 15; i++) this.bits();
  }

  bits() {
    const s = this.state;
    const t = (((s[0] + s[1]) | 0) + s[3]) | 0;
    s[3] = s[3] + 1;
    s[0] = s[1] ^ (s[1] >>> 9);
    s[1] = s[2] + (s[2] << 3);
    s[2] = ((s[2] << 21) | (s[2] >>> 11)) + t;
    return t >>> 0;
  }

  /** Uniform on [0, 1) with 53 random bits. */
  uniform() {
    return ((this.bits() >>> 5) * 67108864 + (this.bits() >>> 6)) / 9007199254740992;
  }

  /** Standard normal (Box-Muller; the second value is dropped so that the state says all). */
  normal() {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  integer(n) {
    return Math.floor(this.uniform() * n);
  }

  /** 0 ... n-1 in random order. */
  permutation(n) {
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
