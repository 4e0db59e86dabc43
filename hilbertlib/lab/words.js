// What the page says about a run, and how it names and draws its learners. No DOM.

export const percentText = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)}%` : "–");
export function numberText(v) {
  if (!Number.isFinite(v)) return "–";
  if (v === 0) return "0";
  if (Math.abs(v) < 1e-12) return "≈ 0"; // rounding
  return Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5 ? v.toExponential(1) : Number(v.toPrecision(3)).toString();
}

/** How each learner is called and drawn; the colours are the book's. */
export function stylesOf(settings, palette) {
  const adam = settings.base === "adam";
  const plain = { colour: palette[adam ? "adam" : "sgd"], swatch: adam ? "adam" : "sgd", dash: [8, 4], broad: true };
  const held = { colour: palette[adam ? "adamhc" : "hcgd"], swatch: adam ? "adamhc" : "hcgd", dash: [] };
  const base = adam ? "Adam" : "SGD";
  const constrained = adam ? "Adam + HC" : "HCGD";
  if (settings.tab === "remember")
    return [{ ...plain, name: "Without memory", brief: "without" }, { ...held, name: "With memory", brief: "with" }];
  const apart = settings.tab === "learn" && settings.start !== "same"; // two networks, not one and its ghost
  const names = apart ? [["First network", "first"], ["Second network", "second"]] : [[base, base], [constrained, constrained]];
  const styles = [plain, held].map((style, k) => ({ ...style, name: names[k][0], brief: names[k][1] }));
  if (settings.tab === "natural") styles.push({ colour: palette.natural, swatch: "natural", dash: [1.5, 3.5], name: "Natural gradient", brief: "natural" });
  return styles;
}

/** The curves of a tab: {title, note, pick (of a row of the history), options}. */
export function chartsOf({ tab, data }) {
  const right = `test ${data === "digits" ? "digits" : "points"} right`;
  const each = (pick) => (row) => row.learners.map(pick);
  const path = { title: "Path in function space", note: "sum of L₂² step by step", pick: each((l) => l.path), options: {} };
  const ratio = { title: "L₂ per ℓ₂", note: "function moved by a unit of parameters", pick: each((l) => l.ratio), options: { smooth: true } };
  if (tab === "remember") return [
    { title: "Task A", note: right, pick: each((l) => l.A), options: { percent: true, high: 1, low: 1 } },
    { title: "Task B", note: right, pick: each((l) => l.B), options: { percent: true, high: 1, low: 1 } },
    path, ratio,
  ];
  const accuracy = { title: "Accuracy", note: "strong: test, faint: training", double: true,
    pick: (row) => [...row.learners.map((l) => l.train), ...row.learners.map((l) => l.test)], options: { percent: true, high: 1, low: 1 } };
  const correction = { title: "What a correction does", note: "L₂ after it over before", only: 1,
    pick: (row) => [row.learners[1].overshoot], options: { log: true, line: 1, smooth: true } };
  return [accuracy, path, ratio, correction];
}

/** The rows of the table: {text, value(learner, accuracies)}. */
export function numbersOf({ tab }) {
  const rows = tab === "remember"
    ? [["Right on A", (l, now) => percentText(now.A)], ["Right on B", (l, now) => percentText(now.B)]]
    : [["Right in training", (l, now) => percentText(now.train)], ["Right in test", (l, now) => percentText(now.test)]];
  return [...rows,
    ["Loss, last batch", (l) => numberText(l.loss)],
    ["Path Σ L₂²", (l) => numberText(l.path)],
    ["L₂ per ℓ₂", (l) => numberText(l.ratio)],
  ].map(([text, value]) => ({ text, value }));
}

/** What a reader who does not see the drawings is told. */
export function summarize(run, playing, movesLambda) {
  const styles = stylesOf(run.settings, {});
  if (!run.step && !playing) return invitation(run.settings, movesLambda);
  const state = playing ? "Training" : "Paused";
  const parts = run.learners.map((learner, k) => {
    const a = run.accuracies(learner);
    const right = run.tasks.length > 1 ? `${percentText(a.A)} of A and ${percentText(a.B)} of B right` : `${percentText(a.test)} of the test ${run.settings.data === "digits" ? "digits" : "points"} right`;
    return `${styles[k].name}: ${right}, path ${numberText(learner.path)}`;
  });
  const apart = run.apart();
  const task = run.tasks.length > 1 ? `, task ${run.task === run.tasks[0] ? "A" : "B"}` : "";
  return `${state} at step ${run.step.toLocaleString("en")}${task}, λ = ${run.settings.lam}. ${parts.join(". ")}. Between the ${run.learners.length > 2 ? "first " : ""}two: L₂ ${numberText(apart.functions)}, ℓ₂ ${numberText(apart.parameters)}.`;
}

function invitation({ tab, start, change }, movesLambda) {
  const what = {
    learn: start === "same" ? "Both networks start as one and see the same batches; the second pays λ for moving its function."
      : start === "permuted" ? "Both networks compute one function from different weights, and see the same batches." : "Two networks from different seeds see the same batches.",
    remember: `Both networks learn task A, then from step ${change} task B. The second remembers some of A.`,
    natural: "Three networks start as one and see the same batches.",
  }[tab];
  return `${what} Press Play${movesLambda ? " and move λ" : ""}.`;
}
