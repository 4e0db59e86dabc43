// Runs the laboratory's Run on settings (JSON) for some steps and prints what both learners saw and where they ended.
import { Run } from "../../hilbertlib/lab/run.js";
import { completeSettings } from "../../hilbertlib/lab/settings.js";

const run = new Run(completeSettings(JSON.parse(process.argv[2])));
const list = (array) => Array.from(array);
const out = { sizes: run.learners[0].network.sizes, theta: list(run.learners[0].theta), steps: [] };
const draw = run.draw.bind(run);
run.draw = () => {
  const { batch, xv } = draw();
  out.steps.push({ x: list(batch.x), y: list(batch.y), xv: xv.map(list) });
  return { batch, xv };
};
for (let i = 0; i < Number(process.argv[3]); i++) run.advance();
out.end = run.learners.map((learner) => list(learner.theta));
out.path = run.learners.map((learner) => learner.path);
out.accuracies = run.learners.map((learner) => run.accuracies(learner));
process.stdout.write(JSON.stringify(out));
