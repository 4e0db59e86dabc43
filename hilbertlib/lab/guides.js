// Guided experiments: each sets the laboratory up, asks for a prediction, and keeps its answer behind a fold.
// What a run shows is read from the run (evidence); no number of it is written here.

import { numberText, percentText } from "./words.js";

/** Median over the run of the distance after the corrections over that before them: single steps are noisy. */
function overshoot(run) {
  const values = run.history.rows.map((row) => row.learners[1].overshoot).filter(Number.isFinite).sort((a, b) => a - b);
  return values.length ? values[values.length >> 1] : NaN;
}

/**
 * actions: what the buttons do: set controls (in the middle of the run, or after beginning again) and train for some
 * steps. right: the index of the choice that comes true.
 */
export const GUIDES = [
  {
    id: "leash",
    title: "Make the leash too tight",
    settings: { tab: "learn", data: "moons", lam: 2 },
    intro: "Two networks start as one and see the same batches. HCGD pays λ for moving its function. At λ = 2 that works well: train, and compare the lengths of the two paths.",
    question: "Now λ goes from 2 to 20, with nothing else touched. What will the constrained function do?",
    choices: ["Stand almost still.", "Go on learning, only more slowly.", "Move more than before, and lose part of what it knew."],
    right: 2,
    actions: [
      { label: "Train 300 steps at λ = 2", run: 300 },
      { label: "Tighten to λ = 20, train 300 more", set: { lam: 20 }, run: 300 },
      { label: "Now η = 0.002, train 300 more", set: { eta: 0.002 }, run: 300 },
    ],
    answer: [
      "The penalty is a distance, not its square. The gradient of a distance keeps its size however short the step was: the correction has length λη whatever there is to correct. Once it is longer than the step itself, it throws the function past its starting point, step after step.",
      "With one correction only the product λη counts. At η = 0.002 and λ = 20 it is what it was at the beginning, and the network settles again.",
    ],
    evidence: (run) => `Path of HCGD so far: ${numberText(run.learners[1].path)}; of SGD: ${numberText(run.learners[0].path)}. HCGD has ${percentText(run.accuracies(run.learners[1]).test)} of the test points right.`,
  },
  {
    id: "overshoot",
    title: "The overshoot",
    settings: { tab: "learn", data: "moons", eps: 0.003, beta: 0, lam: 0.5, norm: "rms" },
    intro: "A correction exists to shorten the way that the function moves in a step. Here the steps are small to begin with: ε = 0.003, no momentum.",
    question: "After the correction, a step moves the function …",
    choices: ["less far than before it.", "about as far.", "several times as far."],
    right: 2,
    actions: [
      { label: "Train 60 steps", run: 60 },
      { label: "Begin again with the square ‖Δf‖²", restart: true, set: { norm: "squared" }, run: 60 },
      { label: "Begin again with the norm and ε = 0.1", restart: true, set: { norm: "rms", eps: 0.1 }, run: 60 },
    ],
    answer: [
      "The chart “What a correction does” shows the distance after it over the distance before it: above the line at 1 the correction lengthens the step. It does so when λη is large against the step that was proposed, since the norm pulls back with the same force however little there is to pull back. The constrained path is the longer one, and its loss goes up.",
      "The square pulls in proportion to the distance, so it can't overshoot here; for so short a step it hardly pulls at all. With ε = 0.1 the proposals are long enough, and the norm does what it is for.",
    ],
    evidence: (run) => `Distance after a correction over before it, median of the run: ${numberText(overshoot(run))}. Paths: SGD ${numberText(run.learners[0].path)}, HCGD ${numberText(run.learners[1].path)}; losses ${numberText(run.learners[0].loss)} and ${numberText(run.learners[1].loss)}.`,
  },
  {
    id: "rate",
    title: "The larger-learning-rate control",
    settings: { tab: "learn", data: "xor", eps: 0.01, beta: 0, eta: 0.02, n: 10, lam: 0.5, ghost: "plain" },
    intro: "With ten corrections HCGD learns XOR in a few hundred steps while SGD at the same ε has hardly begun. But from its second correction on, each one also takes a step −ηJ down the loss.",
    question: "Give plain SGD that rate as well, ε + (n−1)η. Then it …",
    choices: ["stays behind HCGD.", "learns as fast, by a much longer path.", "learns as fast, along the same path."],
    right: 1,
    actions: [
      { label: "Train 300 steps", run: 300 },
      { label: "Begin again, the ghost at ε + (n−1)η", restart: true, set: { ghost: "matched" }, run: 300 },
      { label: "… and λ = 0", restart: true, set: { ghost: "matched", lam: 0 }, run: 300 },
    ],
    answer: [
      "Most of the speed was the larger rate. A fair comparison sets HCGD against the base optimizer at ε + (n−1)η; what is left is what the constraint does: the same accuracy, with a function that wandered far less.",
      "With λ = 0 nothing of the constraint is left and the two are one: HCGD with n corrections is SGD at that rate, exactly.",
    ],
    evidence: (run) => `Test points right: SGD ${percentText(run.accuracies(run.learners[0]).test)}, HCGD ${percentText(run.accuracies(run.learners[1]).test)}. Paths: ${numberText(run.learners[0].path)} and ${numberText(run.learners[1].path)}.`,
  },
  {
    id: "forget",
    title: "Forget and remember",
    settings: { tab: "remember", data: "digits", hidden: "32", lam: 1.5, memory: 16, change: 200 },
    intro: "Task A: read digits. From step 200 on, task B: the same digits with their pixels permuted. One network keeps nothing of A; the other keeps 16 images of A with the answers it gave, and pays λ/2 for the distance from those answers.",
    question: "After 300 steps on B, how much of A will the one with 16 images still read?",
    choices: ["As little as the one without.", "Clearly more than that, clearly less than before.", "As much as before."],
    right: 1,
    actions: [
      { label: "Learn A, then 300 steps of B", run: 500 },
      { label: "Begin again with M = 128", restart: true, set: { memory: 128 }, run: 500 },
      { label: "Begin again with M = 4", restart: true, set: { memory: 4 }, run: 500 },
    ],
    answer: [
      "The function is held at 16 points and is free elsewhere, so a good part of A survives, and B costs hardly anything. More images hold it at more points. The memory has no labels: it keeps what the network said.",
      "Chapter 2's question returns: how many examples does it take to know how far two functions are apart?",
    ],
    evidence: (run) => {
      const [without, held] = run.learners.map((learner) => run.accuracies(learner).A);
      return `Digits of A read now: ${percentText(without)} without a memory, ${percentText(held)} with it.`;
    },
  },
  {
    id: "twins",
    title: "Same function, different weights",
    settings: { tab: "learn", data: "moons", lam: 0, n: 1, start: "permuted" },
    intro: "The second network is the first with its hidden units in another order, and some with all their signs turned. It computes the same function from weights that lie far away. λ is 0, so both learn by plain SGD.",
    question: "They train on the same batches. Their paths will …",
    choices: ["part in both maps.", "coincide in function space, and lie apart in parameter space.", "coincide in both maps."],
    right: 1,
    actions: [
      { label: "Train 300 steps", run: 300 },
      { label: "Begin again from two different seeds", restart: true, set: { start: "other" }, run: 300 },
    ],
    answer: [
      "Gradient descent doesn't care what a unit is called. The two take mirror-image steps, and their functions stay one and the same to rounding, while ℓ₂ says that they are far apart. So a distance between weights can't tell you whether two networks differ.",
      "Two different seeds are apart in both spaces; in function space they begin close together, since no fresh network has much of an opinion.",
    ],
    evidence: (run) => `Between the two now: L₂ ${numberText(run.apart().functions)} in function space, ℓ₂ ${numberText(run.apart().parameters)} in parameter space.`,
  },
];
