// Performs a guided experiment's actions and reports what came out; as a program, the one named, on the digits in a file.
import { readFileSync } from "node:fs";
import { Run } from "../../hilbertlib/lab/run.js";
import { completeSettings } from "../../hilbertlib/lab/settings.js";
import { decodeDigits } from "../../hilbertlib/lab/tasks.js";
import { GUIDES } from "../../hilbertlib/lab/guides.js";

function median(values) {
  const finite = values.filter(Number.isFinite).sort((a, b) => a - b);
  return finite[finite.length >> 1];
}

export function performGuide(guide, seed, digits) {
  let run = new Run(completeSettings({ ...guide.settings, seed }), { digits });
  return guide.actions.map((action) => {
    if (action.restart) run = new Run({ ...run.settings, ...action.set }, { digits });
    else for (const [control, value] of Object.entries(action.set ?? {})) run.set(control, value);
    for (let i = 0; i < action.run; i++) run.advance();
    const now = run.learners.map((learner) => run.accuracies(learner));
    return {
      path: run.learners.map((l) => l.path), loss: run.learners.map((l) => l.loss),
      test: now.map((a) => a.test), A: now.map((a) => a.A), B: now.map((a) => a.B), apart: run.apart(),
      overshoot: median(run.history.rows.map((row) => row.learners[1].overshoot)), says: guide.evidence(run),
    };
  });
}

if (process.argv[1]?.endsWith("perform.mjs")) {
  const [, , id, file] = process.argv;
  const guide = GUIDES.find((item) => item.id === id);
  const digits = decodeDigits(readFileSync(file, "utf8"));
  process.stdout.write(JSON.stringify([1, 2, 3].map((seed) => performGuide(guide, seed, digits))));
}
