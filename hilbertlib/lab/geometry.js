// Distances between functions and between parameters, and maps of them: classical scaling, its stress, Procrustes.

/** L2 distance of outputs f, g (n, c): sqrt(mean_i |f_i - g_i|²) (section 2). */
export function l2Distance(f, g, n, c) {
  let sum = 0;
  for (let i = 0; i < n * c; i++) sum += (f[i] - g[i]) * (f[i] - g[i]);
  return Math.sqrt(sum / n);
}

/** ℓ2 distance of two parameter vectors. */
export function parameterDistance(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return Math.sqrt(sum);
}

/**
 * Classical scaling of Euclidean distances (s, s) into the plane: the two leading eigenvectors of
 * B = -½ C D² C, C the centring matrix, each times the root of its eigenvalue. Returns points (s, 2) and Kruskal's stress.
 */
export function classicalScaling(distances, s) {
  const b = new Float64Array(s * s);
  const mean = new Float64Array(s);
  let all = 0;
  for (let i = 0; i < s; i++) {
    for (let j = 0; j < s; j++) mean[i] += distances[i * s + j] ** 2 / s;
    all += mean[i] / s;
  }
  for (let i = 0; i < s; i++)
    for (let j = 0; j < s; j++) b[i * s + j] = -0.5 * (distances[i * s + j] ** 2 - mean[i] - mean[j] + all);
  const points = new Float64Array(2 * s);
  leadingEigenpairs(b, s, 2).forEach(({ value, vector }, k) => {
    const root = Math.sqrt(Math.max(value, 0));
    for (let i = 0; i < s; i++) points[2 * i + k] = root * vector[i];
  });
  return { points, stress: stress(points, distances, s) };
}

/** Kruskal's stress-1: sqrt(Σ (d - d̂)² / Σ d²) over pairs; 0: the map is exact. */
export function stress(points, distances, s) {
  let error = 0, total = 0;
  for (let i = 0; i < s; i++)
    for (let j = 0; j < i; j++) {
      const d = distances[i * s + j];
      const shown = Math.hypot(points[2 * i] - points[2 * j], points[2 * i + 1] - points[2 * j + 1]);
      error += (d - shown) ** 2;
      total += d * d;
    }
  return total > 0 ? Math.sqrt(error / total) : 0;
}

/** The k leading eigenpairs of a symmetric, positive semidefinite matrix (s, s), by block power iteration. */
function leadingEigenpairs(matrix, s, k) {
  const block = Math.min(s, k + 4); // spare vectors: convergence then hangs on the gap to the (k+5)th eigenvalue
  let q = Array.from({ length: block }, (_, j) => Float64Array.from({ length: s }, (_, i) => Math.cos((i + 1) * (j + 1) * 1.7 + j)));
  let previous = [];
  for (let sweep = 0; sweep < 300; sweep++) {
    orthonormalize(q);
    const z = q.map((v) => multiply(matrix, v, s));
    // Rayleigh-Ritz: the best eigenvectors within the block's span
    const h = new Float64Array(block * block);
    for (let i = 0; i < block; i++) for (let j = 0; j < block; j++) h[i * block + j] = dot(q[i], z[j]);
    const { values, vectors } = jacobi(h, block);
    const combine = (basis) => values.map((_, j) => {
      const out = new Float64Array(s);
      for (let i = 0; i < block; i++) for (let r = 0; r < s; r++) out[r] += vectors[i * block + j] * basis[i][r];
      return out;
    });
    const top = values.slice(0, k);
    if (previous.length && top.every((v, i) => Math.abs(v - previous[i]) <= 1e-14 * Math.abs(top[0])))
      return combine(q).slice(0, k).map((vector, i) => ({ value: top[i], vector }));
    previous = top;
    q = combine(z);
  }
  orthonormalize(q);
  return previous.map((value, i) => ({ value, vector: q[i] }));
}

/** All eigenpairs of a small symmetric matrix (m, m), largest first, by Jacobi's rotations; overwrites it. */
function jacobi(a, m) {
  const v = new Float64Array(m * m);
  for (let i = 0; i < m; i++) v[i * m + i] = 1;
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let p = 0; p < m; p++)
      for (let q = p + 1; q < m; q++) {
        const apq = a[p * m + q];
        if (apq === 0) continue;
        off += apq * apq;
        const tau = (a[q * m + q] - a[p * m + p]) / (2 * apq);
        const t = Math.sign(tau || 1) / (Math.abs(tau) + Math.sqrt(1 + tau * tau));
        const c = 1 / Math.sqrt(1 + t * t), sn = t * c;
        for (let i = 0; i < m; i++) rotate(a, i * m + p, i * m + q, c, sn);
        for (let i = 0; i < m; i++) rotate(a, p * m + i, q * m + i, c, sn);
        for (let i = 0; i < m; i++) rotate(v, i * m + p, i * m + q, c, sn);
      }
    if (off < 1e-300) break;
  }
  const order = Array.from({ length: m }, (_, i) => i).sort((i, j) => a[j * m + j] - a[i * m + i]);
  const vectors = new Float64Array(m * m);
  order.forEach((from, to) => { for (let i = 0; i < m; i++) vectors[i * m + to] = v[i * m + from]; });
  return { values: order.map((i) => a[i * m + i]), vectors };
}

function rotate(a, i, j, c, s) {
  const x = a[i], y = a[j];
  a[i] = c * x - s * y;
  a[j] = s * x + c * y;
}

/** Gram-Schmidt in place; a vector that lies in the span of those before it becomes zero. */
function orthonormalize(q) {
  q.forEach((v, j) => {
    const size = Math.sqrt(dot(v, v));
    for (let pass = 0; pass < 2; pass++) // twice is enough
      for (let i = 0; i < j; i++) {
        const d = dot(q[i], v);
        for (let r = 0; r < v.length; r++) v[r] -= d * q[i][r];
      }
    const norm = Math.sqrt(dot(v, v));
    for (let r = 0; r < v.length; r++) v[r] = norm > 1e-10 * size ? v[r] / norm : 0;
  });
}

function multiply(matrix, v, s) {
  const out = new Float64Array(s);
  for (let i = 0; i < s; i++) for (let j = 0, k = i * s; j < s; j++, k++) out[i] += matrix[k] * v[j];
  return out;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * The rotation, reflection and shift (no scaling: distances stay what they are) that best lays points (s, 2) onto
 * reference, over the pairs [i, j] (points i should lie where reference j lies). Returns the moved points.
 */
export function procrustes(points, reference, pairs) {
  const centre = (array, side) => [0, 1].map((k) => pairs.reduce((sum, pair) => sum + array[2 * pair[side] + k], 0) / pairs.length);
  const [px, py] = centre(points, 0), [rx, ry] = centre(reference, 1);
  let a = 0, b = 0, c = 0, d = 0; // cross-covariance
  for (const [i, j] of pairs) {
    const x = points[2 * i] - px, y = points[2 * i + 1] - py;
    const u = reference[2 * j] - rx, v = reference[2 * j + 1] - ry;
    a += x * u; b += x * v; c += y * u; d += y * v;
  }
  // In the plane the best rotation and the best reflection have a closed form: keep the better one.
  const mirror = Math.hypot(a - d, b + c) > Math.hypot(a + d, b - c);
  const angle = mirror ? Math.atan2(b + c, a - d) : Math.atan2(b - c, a + d);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const out = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 2) {
    const x = points[i] - px, y = (points[i + 1] - py) * (mirror ? -1 : 1);
    out[i] = rx + cos * x - sin * y;
    out[i + 1] = ry + sin * x + cos * y;
  }
  return out;
}
