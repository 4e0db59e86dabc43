// Where a laboratory is put: on a page, or in a notebook as an anywidget.
import { completeSettings } from "./settings.js";
import { Laboratory } from "./lab.js";

/** Makes a laboratory of an element once it comes near the window; until then nothing is computed. */
export function mount(element, settings = {}, onchange = null) {
  if (element.hilbertLab) return element.hilbertLab;
  const handle = { laboratory: null, ready: null, destroy: () => handle.laboratory?.destroy() };
  element.hilbertLab = handle;
  element.classList.add("hl-place");
  handle.ready = new Promise((resolve) => {
    const start = () => {
      element.classList.remove("hl-place");
      handle.laboratory = new Laboratory(element, settings, onchange);
      resolve(handle.laboratory);
    };
    const near = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      start();
    }, { rootMargin: "300px" });
    near.observe(element);
  });
  return handle;
}

/** On a page: one global, and every div.hilbert-lab becomes a laboratory. */
export function publish() {
  globalThis.HilbertLab = { mount };
  const all = () => {
    for (const element of document.querySelectorAll(".hilbert-lab")) {
      let settings = {}, broken = false;
      try {
        settings = JSON.parse(element.dataset.settings || "{}");
      } catch {
        broken = true;
      }
      const handle = mount(element, settings);
      if (broken) handle.ready.then((laboratory) => laboratory.complain(["The settings in this page could not be read; these are the usual ones."]));
    }
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", all);
  else all();
}

/** In Jupyter and Colab: the anywidget's front end. What the run does reaches Python, what Python sets reaches the run. */
export function render({ model, el }) {
  let quiet = false;
  const tell = (laboratory) => {
    const { run } = laboratory;
    const styles = run.learners.map((learner) => learner.role);
    const keyed = (value) => Object.fromEntries(run.learners.map((learner, k) => [styles[k], value(learner)]));
    quiet = true;
    model.set("settings", { ...run.settings });
    model.set("playing", laboratory.playing);
    model.set("step", run.step);
    model.set("accuracies", keyed((learner) => run.accuracies(learner)));
    model.set("distances", { ...run.apart(), path: keyed((learner) => learner.path), ratio: keyed((learner) => (Number.isFinite(learner.ratio) ? learner.ratio : null)) });
    model.set("changes", run.changes.map((change) => ({ ...change })));
    model.set("address", laboratory.address());
    model.save_changes();
    quiet = false;
  };
  const handle = mount(el, { ...model.get("options"), ...model.get("settings") }, tell);
  const withLab = (act) => () => { if (!quiet && handle.laboratory) act(handle.laboratory); };
  const follow = withLab((laboratory) => {
    const wanted = model.get("settings");
    if (wanted.tab && wanted.tab !== laboratory.run.settings.tab) return laboratory.load(completeSettings(wanted));
    for (const [control, value] of Object.entries(wanted)) if (control !== "tab" && value !== laboratory.run.settings[control]) laboratory.set(control, value);
  });
  const playing = withLab((laboratory) => {
    if (model.get("playing") !== laboratory.playing) laboratory.toggle();
  });

  const command = (content) => {
    handle.ready.then((laboratory) => {
      if (content.do === "train") laboratory.play(laboratory.run.step + content.steps);
      else if (content.do === "reset") laboratory.reset();
    });
  };
  model.on("change:settings", follow);
  model.on("change:playing", playing);
  model.on("msg:custom", command);
  return () => {
    model.off("change:settings", follow);
    model.off("change:playing", playing);
    model.off("msg:custom", command);
    handle.destroy();
  };
}
