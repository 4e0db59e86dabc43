// Runs the engine on a fixture that Python made (init, batches, hyperparameters) and prints what it did, as JSON.
import { readFileSync } from "node:fs";
import { Network } from "../../hilbertlib/lab/network.js";
import { Learner } from "../../hilbertlib/lab/optimizers.js";
import { l2Distance, parameterDistance } from "../../hilbertlib/lab/geometry.js";

const fixture = JSON.parse(readFileSync(process.argv[2], "utf8"));
const network = new Network(fixture.sizes, fixture.activation);
const learner = new Learner(network, fixture.theta, fixture.base);
const flat = (rows) => Float64Array.from(rows.flat());
let { hyper } = fixture;
const probe = flat(fixture.probe), n = fixture.probe.length;
const start = network.forward(learner.theta, probe, n).slice();
const memory = fixture.memory && {
  x: flat(fixture.memory.x), outputs: flat(fixture.memory.outputs), n: fixture.memory.x.length, lam: fixture.memory.lam, norm: hyper.norm,
};
const out = { theta: [], loss: [], l2: [], parameter: [] };
for (const [step, { x, y, xv }] of fixture.steps.entries()) {
  hyper = { ...hyper, ...fixture.changes?.[step] };
  const batch = flat(x);
  out.loss.push(learner.gradient(batch, y, y.length, memory));
  if (fixture.natural) learner.naturalStep(fixture.natural, batch, y.length);
  else learner.step(hyper, (xv ?? []).map(flat), xv?.[0]?.length ?? 0);
  out.theta.push(Array.from(learner.theta));
  out.l2.push(l2Distance(network.forward(learner.theta, probe, n), start, n, network.classes));
  out.parameter.push(parameterDistance(learner.theta, fixture.theta));
}
process.stdout.write(JSON.stringify(out));
