// One run: settings and seed in, learners and their history out. No DOM: the page, Node and the tests use the same.
import { l2Distance, parameterDistance } from "./geometry.js";
import { Network, accuracy, permuteUnits } from "./network.js";
import { Learner } from "./optimizers.js";
import { Random } from "./random.js";
import { CONTROLS, checkValue } from "./settings.js";
import { makeTasks } from "./tasks.js";
import { Trajectory } from "./trajectory.js";

const HISTORY = 240; // points a curve
const PROBE = 100; // test inputs
const KEEP = 200;
// Beyond these a run counts as diverged, though the numbers are finite: softmax is a step function long before.
export const BOUND = { parameter: 1e5, loss: 100 };

export class Run {
  /** settings: complete (completeSettings); changes: [{step, control, value}], applied when their step comes. */
  constructor(settings, { digits = null, changes = [] } = {}) {
    this.initial = { ...settings };
    this.settings = { ...settings };
    this.changes = [];
    this.pending = [...changes];
    this.step = 0;
    this.tasks = makeTasks(settings, digits);
    this.task = this.tasks[0];
    const { inputs, classes } = this.task;
    const hidden = settings.hidden.split("-").map(Number);
    const network = () => new Network([inputs, ...hidden, classes], settings.activation);
    const theta = network().init(new Random(settings.seed, "init"));
    this.learners = this.roles().map((role) => {
      const learner = new Learner(network(), role.start === "other" ? network().init(new Random(settings.seed, "other init"))
        : role.start === "permuted" ? permuteUnits(network(), theta, new Random(settings.seed, "units")) : theta, settings.base);
      return Object.assign(learner, { role: role.key, loss: NaN, path: 0, moved2: 0, stepped: 0, ratio: NaN, length: 0 });
    });
    this.random = { batch: new Random(settings.seed, "batches"), xv: new Random(settings.seed, "X_V") };
    this.order = [];
    this.probe = { x: this.task.test.x, n: Math.min(PROBE, this.task.test.n) }; // where functions are compared, step by step
    for (const learner of this.learners) learner.outputs = this.outputs(learner, this.probe);
    this.trajectory = new Trajectory(this.learners.length, this.probe.n, classes);
    this.trajectory.record(0, this.learners);
    this.kept = []; // the run as it was up to KEEP and 2 KEEP steps ago
    this.history = { every: inputs > 2 ? 4 : 1, rows: [] }; // accuracies of images take longer than a step
    this.note();
    this.applyPending();
  }

  roles() {
    const { tab, start } = this.settings;
    if (tab === "learn") return [{ key: "ghost" }, { key: "own", start }];
    if (tab === "remember") return [{ key: "ghost" }, { key: "own" }];
    return [{ key: "ghost" }, { key: "own" }, { key: "natural" }];
  }

  /** A control moved in the middle of the run: from the next step on it applies, and it is written down. */
  set(control, value) {
    if (!CONTROLS[control]?.live) throw new Error(`${control} begins a new run`);
    if (!Object.hasOwn(this.settings, control)) throw new Error(`${control} is not a control of this tab`);
    value = checkValue(control, value);
    if (value === this.settings[control]) return;
    this.pending = []; // whoever takes the wheel leaves the script
    this.apply({ step: this.step, control, value });
  }

  apply(change) {
    this.settings[change.control] = change.value;
    if (change.control === "speed") return; // it changes no number
    if (this.step === 0) this.initial[change.control] = change.value;
    else {
      const last = this.changes[this.changes.length - 1];
      if (last && last.step === change.step && last.control === change.control) this.changes.pop();
      this.changes.push(change);
    }
  }

  /** The next changes of the script, if their step has come. */
  applyPending() {
    while (this.pending.length && this.pending[0].step <= this.step) this.apply(this.pending.shift());
  }

  outputs(learner, set) {
    const c = this.task.classes;
    return learner.network.forward(learner.theta, set.x, set.n).slice(0, set.n * c);
  }

  /** rows of a set into a flat array */
  gather(set, indices, inputs = this.task.inputs) {
    const x = new Float64Array(indices.length * inputs);
    for (let i = 0; i < indices.length; i++) x.set(set.x.subarray(indices[i] * inputs, (indices[i] + 1) * inputs), i * inputs);
    return x;
  }

  /** The next batch of the training set, reshuffled each time it has been seen. */
  nextBatch() {
    const { train } = this.task;
    const indices = [];
    while (indices.length < this.settings.batch) {
      if (!this.order.length) this.order = Array.from(this.random.batch.permutation(train.n));
      indices.push(this.order.pop());
    }
    return { x: this.gather(train, indices), y: Int32Array.from(indices, (i) => train.y[i]), n: indices.length };
  }

  /** n fresh X_V, drawn from a stream of their own: how many there are doesn't change the batches. */
  nextXV() {
    const { n, xv } = this.settings;
    return Array.from({ length: n }, () => this.gather(this.task.train, Array.from({ length: xv }, () => this.random.xv.integer(this.task.train.n))));
  }

  /** What both learners see in this step. */
  draw() {
    const corrected = this.settings.tab !== "remember";
    return { batch: this.nextBatch(), xv: corrected ? this.nextXV() : [] };
  }

  /** Task B begins: A's examples in the memory keep the answers that each learner gives now. */
  changeTask() {
    const order = new Random(this.settings.seed, "memory").permutation(this.task.train.n);
    const x = this.gather(this.task.train, order);
    for (const learner of this.learners)
      learner.remembered = { x, outputs: this.outputs(learner, { x, n: order.length }), n: order.length, order };
    this.task = this.tasks[1];
    this.order = [];
  }

  /** One step of every learner; the distance that each function moved is added to its path. */
  advance() {
    const s = this.settings;
    if (this.step % KEEP === 0 && !this.lean) this.kept = [...this.kept.slice(-1), this.save()];
    const measure = (this.step + 1) % this.history.every === 0; // only where the history keeps it
    if (s.tab === "remember" && this.step === s.change) this.changeTask();
    const { batch, xv } = this.draw();
    for (const learner of this.learners) {
      const ghost = learner.role === "ghost";
      const memory = !ghost && learner.remembered ? { ...learner.remembered, n: Math.min(s.memory, learner.remembered.n), lam: s.lam, norm: s.norm } : null;
      learner.loss = learner.gradient(batch.x, batch.y, batch.n, memory);
      if (learner.role === "natural") learner.naturalStep({ lam: s.kl, damping: s.damping }, this.task.train.x, this.task.train.n);
      else if (ghost || s.tab === "remember")
        learner.step({ eps: s.eps + (s.ghost === "matched" && s.base === "sgd" ? (s.n - 1) * s.eta : 0), beta: s.beta });
      else learner.step(s, xv, s.xv, measure);
      if (!this.lean) this.measure(learner);
    }
    this.step++;
    if (!this.lean) {
      this.trajectory.record(this.step, this.learners);
      this.note();
    }
    this.applyPending();
    return this;
  }

  /** All that the next steps depend on. */
  save() {
    const copy = (arrays) => Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, array.slice()]));
    return {
      step: this.step, settings: { ...this.settings }, second: this.task === this.tasks[1], order: [...this.order],
      random: [this.random.batch.state.slice(), this.random.xv.state.slice()],
      learners: this.learners.map(({ theta, optimizer, remembered, loss }) => ({ theta: theta.slice(), optimizer: copy(optimizer), remembered, loss })),
    };
  }

  restore(saved) {
    Object.assign(this, { step: saved.step, settings: { ...saved.settings }, order: [...saved.order] });
    if (saved.second) this.task = this.tasks[1];
    this.random.batch.state.set(saved.random[0]);
    this.random.xv.state.set(saved.random[1]);
    this.learners.forEach((learner, k) => {
      learner.theta.set(saved.learners[k].theta);
      for (const [name, array] of Object.entries(saved.learners[k].optimizer)) learner.optimizer[name].set(array);
      Object.assign(learner, { remembered: saved.learners[k].remembered, loss: saved.learners[k].loss });
    });
  }

  measure(learner) {
    const p = learner.network.forward(learner.theta, this.probe.x, this.probe.n);
    const moved = l2Distance(p, learner.outputs, this.probe.n, this.task.classes);
    learner.outputs.set(p.subarray(0, learner.outputs.length));
    learner.path += moved * moved;
    learner.moved2 += moved;
    let square = 0;
    for (let i = 0; i < learner.delta.length; i++) square += learner.delta[i] ** 2;
    learner.stepped += Math.sqrt(square);
  }

  /** A row of the history, if the step is one that is kept: ratios are over the steps since the row before. */
  note() {
    const { history } = this;
    if (this.step % history.every) return;
    if (history.rows.length === HISTORY) {
      history.every *= 2;
      history.rows = history.rows.filter((row) => row.step % history.every === 0);
      if (this.step % history.every) return;
    }
    const learners = this.learners.map((learner) => {
      learner.ratio = learner.stepped > 0 ? learner.moved2 / learner.stepped : NaN;
      learner.moved2 = learner.stepped = 0;
      return { loss: learner.loss, path: learner.path, ratio: learner.ratio, ...this.accuracies(learner),
        overshoot: learner.before > 0 ? learner.after / learner.before : NaN };
    });
    history.rows.push({ step: this.step, learners });
  }

  /** Shares of right answers now: {train, test}, or {A, B} on the test sets of the two tasks. */
  accuracies(learner) {
    const c = this.task.classes;
    const on = (set) => accuracy(learner.network.forward(learner.theta, set.x, set.n), set.y, set.n, c);
    if (this.tasks.length > 1) return { A: on(this.tasks[0].test), B: on(this.tasks[1].test) };
    return { train: on(this.task.train), test: on(this.task.test) };
  }

  /** How far apart the first two learners are now, in both spaces. */
  apart() {
    const [a, b] = this.learners;
    return { functions: l2Distance(a.outputs, b.outputs, this.probe.n, this.task.classes), parameters: parameterDistance(a.theta, b.theta) };
  }

  /** The first learner whose numbers have run away: {learner, what}, or null. */
  diverged() {
    for (const learner of this.learners) {
      const { theta, loss } = learner;
      if (theta.some(Number.isNaN) || (this.step > 0 && Number.isNaN(loss))) return { learner, what: "its weights are no longer numbers" };
      let largest = 0;
      for (const v of theta) largest = Math.max(largest, Math.abs(v));
      if (largest > BOUND.parameter) return { learner, what: `its weights grew past ${BOUND.parameter.toLocaleString("en")}` };
      if (this.step > 0 && loss > BOUND.loss) return { learner, what: `its loss grew past ${BOUND.loss}` };
    }
    return null;
  }
}

/**
 * The control that made a run diverge: the one which alone, put back to what it was before or to where it begins, keeps
 * the last few hundred steps finite. {control, value, safe} or null. The control that was moved last is tried first.
 */
export function findCause(run, defaults, digits = null) {
  const [from] = run.kept;
  if (!from) return null;
  const moved = [...run.changes].reverse().map((change) => change.control);
  for (const control of new Set([...moved, "eps", "eta", "lam", "beta", "n", "kl", "damping"])) {
    if (!Object.hasOwn(run.settings, control) || CONTROLS[control].options) continue;
    const own = run.changes.filter((change) => change.control === control);
    const safe = own.length > 1 ? own[own.length - 2].value : own.length ? run.initial[control] : defaults[control];
    const value = run.settings[control];
    if (value === safe) continue;
    const again = new Run(run.initial, { digits });
    again.lean = true; // the same steps without measuring them
    again.restore(from);
    again.settings[control] = safe;
    again.pending = run.changes.filter((change) => change.step > from.step && change.control !== control);
    while (again.step < run.step + 20 && !again.diverged()) again.advance();
    if (!again.diverged()) return { control, value, safe };
  }
  return null;
}
