// Runs, their settings and their addresses: what a link promises, and the guided experiments' claims.
import test from "node:test";
import assert from "node:assert/strict";
import { Run, findCause } from "../../hilbertlib/lab/run.js";
import { CONTROLS, TABS, checkValue, completeSettings, controlsOf, readAddress, writeAddress } from "../../hilbertlib/lab/settings.js";
import { decodeDigits, makeTasks } from "../../hilbertlib/lab/tasks.js";
import { Trajectory } from "../../hilbertlib/lab/trajectory.js";
import { GUIDES } from "../../hilbertlib/lab/guides.js";
import { performGuide } from "./perform.mjs";

/** Stands for the digits of a page: ten blurred patterns and noise, in the same encoding. */
function someDigits(n = 160) {
  let state = 7;
  const next = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
  const patterns = Array.from({ length: 10 }, () => Array.from({ length: 64 }, () => (next() < 0.4 ? 12 : 1)));
  const labels = Array.from({ length: n }, (_, i) => i % 10);
  const bytes = [...labels];
  for (const label of labels)
    for (let k = 0; k < 64; k += 2) {
      const [a, b] = [0, 1].map((d) => Math.min(15, Math.floor(patterns[label][k + d] + 3 * next())));
      bytes.push(a * 16 + b);
    }
  return decodeDigits(btoa(String.fromCharCode(...bytes)));
}
const digits = someDigits();

function train(run, steps) {
  for (let i = 0; i < steps; i++) run.advance();
  return run;
}
const begin = (given = {}, options = {}) => new Run(completeSettings(given), { digits, ...options });
const parameters = (run) => run.learners.map((learner) => learner.theta);

test("the same settings give the same run, to the last bit; another seed another", () => {
  for (const given of [{}, { data: "digits", base: "adam", eps: 0.01 }, { tab: "remember", change: 50 }, { tab: "natural" }]) {
    assert.deepEqual(parameters(train(begin(given), 80)), parameters(train(begin(given), 80)));
    assert.notDeepEqual(parameters(train(begin(given), 5)), parameters(train(begin({ ...given, seed: 2 }), 5)));
  }
});

test("λ = 0 with one correction: both learners are one", () => {
  for (const base of ["sgd", "adam"]) {
    const run = train(begin({ lam: 0, n: 1, base, eps: 0.01 }), 100);
    assert.deepEqual(run.learners[0].theta, run.learners[1].theta);
    assert.equal(run.apart().functions, 0);
    assert.equal(run.learners[0].path, run.learners[1].path);
  }
});

test("λ applies in the middle of a run, and touches neither the past nor the batches", () => {
  const changed = train(begin({ lam: 0 }), 50), plain = train(begin({ lam: 0 }), 50);
  changed.set("lam", 5);
  assert.deepEqual(parameters(changed), parameters(plain));
  train(changed, 20);
  train(plain, 20);
  assert.deepEqual(changed.learners[0].theta, plain.learners[0].theta);
  assert.notDeepEqual(changed.learners[1].theta, plain.learners[1].theta);
});

test("neither n nor |X_V| changes the batches that the ghost sees", () => {
  const one = train(begin({ n: 1, xv: 8 }), 30), many = train(begin({ n: 5, xv: 128 }), 30);
  assert.deepEqual(one.learners[0].theta, many.learners[0].theta);
});

test("an address reproduces a run exactly, with the changes made on the way", () => {
  const run = train(begin({ data: "rings", seed: 9, lam: 0.7 }), 40);
  run.set("lam", 3);
  run.set("lam", 2); // a slider on its way: only where it stops counts
  train(run, 30);
  run.set("eps", 0.05);
  run.set("norm", "squared");
  train(run, 30);
  const address = writeAddress({ settings: run.initial, changes: run.changes, step: run.step });
  const asked = readAddress(`#${address}`);
  assert.deepEqual(asked.messages, []);
  assert.equal(asked.step, 100);
  assert.deepEqual(asked.changes.map((c) => [c.step, c.control, c.value]), [[40, "lam", 2], [70, "eps", 0.05], [70, "norm", "squared"]]);
  const again = train(new Run(asked.settings, { changes: asked.changes }), asked.step);
  assert.deepEqual(parameters(again), parameters(run));
  assert.deepEqual(again.settings, run.settings);
  assert.equal(writeAddress({ settings: again.initial, changes: again.changes, step: again.step }), address);
});

test("a change before the first step is a setting, not a change", () => {
  const run = begin();
  run.set("lam", 4);
  assert.equal(run.initial.lam, 4);
  assert.deepEqual(run.changes, []);
});

test("who takes the wheel leaves the script", () => {
  const run = train(begin({}, { changes: [{ step: 10, control: "lam", value: 9 }, { step: 30, control: "lam", value: 0 }] }), 20);
  assert.equal(run.settings.lam, 9);
  run.set("lam", 2);
  train(run, 20);
  assert.equal(run.settings.lam, 2);
});

test("only live controls move in the middle of a run, within their range", () => {
  const run = train(begin(), 3);
  for (const [control, value] of [["data", "xor"], ["seed", 3], ["lam", -1], ["lam", NaN], ["lam", Infinity], ["eps", "x"], ["n", 1.5], ["n", 0], ["memory", 3], ["nothing", 1]])
    assert.throws(() => run.set(control, value), Error, `${control} = ${value}`);
  assert.deepEqual(run.changes, []);
});

test("what an address asks wrongly falls back, and is told", () => {
  const asked = readAddress("#tab=learn&lam=banana&eps=-3&n=2.5&data=cats&seed=7&beta=&xv=%E0%A4%A&nonsense=1&changes=5.lam.2~6.data.xor~x~7.eps.1e99&step=-4");
  assert.equal(asked.settings.lam, TABS.learn.defaults.lam);
  assert.equal(asked.settings.eps, TABS.learn.defaults.eps);
  assert.equal(asked.settings.data, "moons");
  assert.equal(asked.settings.seed, 7);
  assert.deepEqual(asked.changes, [{ step: 5, control: "lam", value: 2 }]);
  assert.equal(asked.step, 0);
  for (const word of ["banana", "-3", "2.5", "cats", "beta", "xv", "nonsense", "data.xor", "“x”", "1e99", "-4"])
    assert.ok(asked.messages.some((message) => message.includes(word)), word);
  assert.equal(readAddress("#a-section-of-the-page"), null);
  assert.equal(readAddress(""), null);
  assert.equal(readAddress("#tab=__proto__").settings.tab, "learn");
  assert.ok(readAddress("#tab=learn&constructor=1&__proto__=2").messages.length >= 2);
});

test("every control has a beginning that it accepts, and sliders offer only what is in range", () => {
  for (const tab of Object.keys(TABS)) {
    for (const id of controlsOf(tab)) assert.equal(checkValue(id, TABS[tab].defaults[id]), TABS[tab].defaults[id], `${tab} ${id}`);
    assert.deepEqual(completeSettings({ tab }), { tab, ...TABS[tab].defaults });
  }
  for (const [id, control] of Object.entries(CONTROLS)) {
    const grid = control.grid ?? [];
    assert.deepEqual(grid, [...grid].sort((a, b) => a - b), id);
    for (const value of grid) assert.equal(checkValue(id, value), value);
  }
});

test("a run of any length keeps a bounded history and bounded maps", () => {
  const run = train(begin({ hidden: "4", batch: 4, xv: 4 }), 3000);
  assert.ok(run.history.rows.length <= 240);
  assert.ok(run.trajectory.items.length <= 48 * 2);
  assert.equal(run.history.rows[0].step, 0);
  assert.equal(run.trajectory.items[0].step, 0);
  assert.ok(run.history.rows.at(-1).step > 2900);
  assert.ok(Math.max(...run.trajectory.items.map((item) => item.step)) > 2800);
  const map = run.trajectory.map("functions", run.step, run.learners);
  assert.ok(map.points.every(Number.isFinite) && map.stress < 1);
});

test("maps keep still from frame to frame", () => {
  const run = train(begin(), 60);
  let before = null;
  for (let frame = 0; frame < 20; frame++) {
    train(run, 3);
    const map = run.trajectory.map("functions", run.step, run.learners);
    const where = new Map(map.items.map((item, i) => [item.id, [map.points[2 * i], map.points[2 * i + 1]]]));
    if (before) {
      const size = Math.max(...map.points) - Math.min(...map.points);
      const moved = [...where].filter(([id]) => before.has(id) && !id.endsWith("now")).map(([id, [x, y]]) => Math.hypot(x - before.get(id)[0], y - before.get(id)[1]));
      assert.ok(moved.length > 10);
      assert.ok(Math.max(...moved) < 0.25 * size, `frame ${frame}: ${Math.max(...moved)} of ${size}`);
    }
    before = where;
  }
});

test("a map's distances are those between the snapshots", () => {
  const trajectory = new Trajectory(1, 2, 1);
  for (let step = 0; step < 6; step++) trajectory.record(step, [{ outputs: Float64Array.of(step, 0), theta: Float64Array.of(2 * step) }]);
  const now = [{ outputs: Float64Array.of(6, 0), theta: Float64Array.of(12) }];
  for (const [space, unit] of [["functions", Math.SQRT1_2], ["parameters", 2]]) {
    const { points, stress } = trajectory.map(space, 6, now);
    assert.ok(stress < 1e-9);
    for (let i = 0; i < 7; i++) assert.ok(Math.abs(Math.hypot(points[2 * i] - points[0], points[2 * i + 1] - points[1]) - unit * i) < 1e-9);
  }
});

test("the guard stops a run that diverges and names the control", () => {
  const run = begin({ activation: "relu", data: "digits" });
  train(run, 20);
  run.set("eps", 10);
  while (!run.diverged() && run.step < 500) run.advance();
  assert.ok(run.diverged(), "ReLU at ε = 10 diverges");
  assert.equal(findCause(run, TABS.learn.defaults, digits).control, "eps");
  const late = train(begin({ activation: "relu", data: "digits", hidden: "8" }), 900);
  late.set("eps", 10);
  train(late, 1);
  late.set("lam", 1.5); // innocent, and moved last
  while (!late.diverged() && late.step < 2500) late.advance();
  assert.ok(late.diverged(), "and so it does late in a run");
  assert.deepEqual(findCause(late, TABS.learn.defaults, digits), { control: "eps", value: 10, safe: TABS.learn.defaults.eps });
  const natural = begin({ tab: "natural", kl: 0.1, damping: 1e-6 });
  while (!natural.diverged() && natural.step < 500) natural.advance();
  assert.equal(natural.diverged().learner.role, "natural");
  const cause = findCause(natural, TABS.natural.defaults);
  assert.ok(cause === null || ["kl", "damping"].includes(cause.control));
  const poisoned = begin();
  poisoned.learners[1].theta[3] = NaN;
  assert.match(poisoned.diverged().what, /no longer numbers/);
  assert.equal(train(begin(), 50).diverged(), null);
});

test("a run that was saved goes on as if it had not stopped", () => {
  for (const given of [{ base: "adam", eps: 0.01, n: 2 }, { tab: "remember", change: 50 }]) {
    const run = train(begin(given), 70), saved = run.save();
    train(run, 30);
    const other = begin(given);
    other.restore(saved);
    assert.deepEqual(parameters(train(other, 30)), parameters(run));
  }
});

test("tasks: balanced, reproducible, with the share of wrong labels asked for", () => {
  for (const data of ["moons", "spirals", "xor", "rings"]) {
    const [clean] = makeTasks(completeSettings({ data, noise: 0 })), [noisy] = makeTasks(completeSettings({ data, noise: 0.2 }));
    assert.deepEqual(clean.train.x, noisy.train.x);
    assert.equal(clean.train.y.filter((y) => y === 1).length, 100);
    const wrong = clean.train.y.filter((y, i) => y !== noisy.train.y[i]).length;
    assert.ok(wrong > 20 && wrong < 65, `${data}: ${wrong}`);
    assert.deepEqual(clean.test.y, noisy.test.y);
    assert.ok(clean.train.x.every((v) => Math.abs(v) < 1.6));
  }
});

test("more label noise keeps the wrong ones wrong", () => {
  const labels = (noise) => makeTasks(completeSettings({ noise }))[0].train.y;
  const [clean, some, more] = [0, 0.1, 0.3].map(labels);
  clean.forEach((y, i) => { if (some[i] !== y) assert.notEqual(more[i], y); });
});

test("task B shares no answer with A: mirrored and exchanged, or with its pixels permuted", () => {
  const [a, b] = makeTasks(completeSettings({ tab: "remember", data: "digits" }), digits);
  assert.deepEqual(a.train.y, b.train.y);
  const sum = (x) => x.subarray(0, 64).reduce((s, v) => s + v, 0);
  assert.ok(Math.abs(sum(a.train.x) - sum(b.train.x)) < 1e-9);
  assert.notDeepEqual(a.train.x, b.train.x);
  const [left, right] = makeTasks(completeSettings({ tab: "remember" }));
  const mean = (set) => set.x.filter((_, i) => i % 2 === 0).reduce((s, v) => s + v / set.n, 0);
  assert.ok(mean(left.train) < -0.3 && mean(right.train) > 0.3);
});

test("the memory holds what each learner said when task A ended", () => {
  const run = train(begin({ tab: "remember", change: 50, memory: 8 }), 50);
  assert.equal(run.learners[1].remembered, undefined);
  const before = run.learners[1].theta.slice();
  run.advance();
  const { remembered, network } = run.learners[1];
  assert.deepEqual(network.forward(before, remembered.x, remembered.n).slice(0, 2 * remembered.n), remembered.outputs);
  assert.deepEqual(run.learners[0].theta.length, before.length);
});

// --- the guided experiments claim something: it must be so, for more than one seed ---

const check = {
  leash(runs) {
    const [loose, tight, mended] = runs;
    assert.ok(loose.path[1] < 0.5 * loose.path[0], "at λ = 2 the constrained path is much shorter");
    assert.ok(tight.path[1] - loose.path[1] > loose.path[1], "tightened, it moves more than before");
    assert.ok(tight.test[1] < loose.test[1], "and loses what it knew");
    assert.ok(mended.test[1] > tight.test[1], "with λη as before it settles");
  },
  overshoot([norm, squared, longer]) {
    assert.ok(norm.overshoot > 2, "short steps are lengthened several times");
    assert.ok(norm.path[1] > 5 * norm.path[0] && norm.loss[1] > norm.loss[0]);
    assert.ok(squared.overshoot < 1 && squared.overshoot > 0.9);
    assert.ok(longer.overshoot < 0.9);
  },
  rate([plain, matched, free]) {
    assert.ok(plain.test[1] > plain.test[0] + 0.2, "HCGD looks faster");
    assert.ok(Math.abs(matched.test[1] - matched.test[0]) < 0.06, "at the same rate it is not");
    assert.ok(matched.path[0] > 5 * matched.path[1], "but its path is much shorter");
    assert.ok(Math.abs(free.path[0] / free.path[1] - 1) < 1e-9, "and with λ = 0 the two are one");
  },
  twins([twins, others]) {
    assert.ok(twins.apart.functions < 1e-12 && twins.apart.parameters > 3);
    assert.ok(others.apart.functions > 1e-3 && others.apart.parameters > 3);
  },
};

for (const guide of GUIDES.filter(({ id }) => check[id]))
  test(`guided experiment “${guide.title}” is right about itself`, () => {
    for (const seed of [1, 2, 3]) {
      const results = performGuide(guide, seed, digits);
      check[guide.id](results);
      for (const { says } of results) assert.doesNotMatch(says, /NaN|undefined|Infinity/);
    }
  });

test("each guided experiment sets only what its tab has, and offers one right choice", () => {
  assert.equal(GUIDES.length, 5);
  for (const guide of GUIDES) {
    const messages = [];
    completeSettings(guide.settings, messages);
    assert.deepEqual(messages, []);
    assert.ok(guide.choices[guide.right]);
    for (const { set = {}, restart } of guide.actions)
      for (const [control, value] of Object.entries(set)) {
        checkValue(control, value);
        assert.ok(restart || CONTROLS[control].live, `${guide.id}: ${control} begins a new run`);
      }
  }
});
