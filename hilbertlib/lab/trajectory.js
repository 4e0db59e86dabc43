// Snapshots of several learners on their way, and their maps in function space and in parameter space.
import { classicalScaling, l2Distance, parameterDistance, procrustes } from "./geometry.js";

const LIMIT = 48; // snapshots a learner: memory and time stay bounded however long a run is

export class Trajectory {
  /** learners: how many; n, c: shape of the outputs. */
  constructor(learners, n, c) {
    Object.assign(this, { learners, n, c, every: 1, items: [], rows: { functions: [], parameters: [] }, last: {} });
  }

  distance(space, a, b) {
    return space === "functions" ? l2Distance(a.outputs, b.outputs, this.n, this.c) : parameterDistance(a.theta, b.theta);
  }

  /** Keep a snapshot of each learner ({outputs (n, c), theta (P)}) if the step is one of those that are kept. */
  record(step, states) {
    if (step % this.every) return;
    if (this.items.length === LIMIT * this.learners) {
      this.thin();
      if (step % this.every) return;
    }
    states.forEach((state, learner) => {
      const item = { step, learner, id: `${learner}:${step}`, outputs: Float64Array.from(state.outputs), theta: state.theta.slice() };
      for (const space of Object.keys(this.rows)) this.rows[space].push(this.items.map((other) => this.distance(space, item, other)));
      this.items.push(item);
    });
  }

  /** Drops half of the snapshots, those at which no function had moved far, and takes them half as often from now on. */
  thin() {
    const { learners: m } = this, moved = this.rows.functions;
    const gap = (a, b) => Math.max(...Array.from({ length: m }, (_, k) => moved[b * m + k][a * m + k]));
    const kept = Array.from({ length: this.items.length / m }, (_, i) => i);
    while (kept.length > LIMIT / 2) {
      let least = 1;
      for (let i = 2; i + 1 < kept.length; i++) if (gap(kept[i - 1], kept[i]) < gap(kept[least - 1], kept[least])) least = i;
      kept.splice(least, 1);
    }
    const keep = new Set(kept);
    const stays = (_, i) => keep.has(Math.floor(i / m));
    for (const space of Object.keys(this.rows)) this.rows[space] = this.rows[space].filter(stays).map((row) => row.filter(stays));
    this.items = this.items.filter(stays);
    this.every *= 2;
  }

  /**
   * The map of the snapshots and of where the learners are now: {points (s, 2), stress, items}. Each map is laid on
   * the one before it (Procrustes), so that it turns and flips as little as it can.
   */
  map(space, step, states) {
    const now = states.map((state, learner) => ({ step, learner, id: `${learner}:now`, outputs: state.outputs, theta: state.theta }));
    const items = [...this.items, ...now], s = items.length;
    const d = new Float64Array(s * s);
    for (let i = 0; i < s; i++)
      for (let j = 0; j < i; j++)
        d[i * s + j] = d[j * s + i] = i < this.items.length ? this.rows[space][i][j] : this.distance(space, items[i], items[j]);
    let { points, stress } = classicalScaling(d, s);
    const before = this.last[space];
    if (before) {
      const pairs = items.flatMap((item, i) => (before.index.has(item.id) ? [[i, before.index.get(item.id)]] : []));
      if (pairs.length) points = procrustes(points, before.points, pairs);
    }
    // "now" moves by itself, so only the fixed snapshots hold the next map in place
    this.last[space] = { points, index: new Map(this.items.map((item, i) => [item.id, i])) };
    return { points, stress, items };
  }
}
