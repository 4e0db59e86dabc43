// The laboratory on a page: it shows a Run, moves its controls, and lets it train. One object an element.
import { TABS, CONTROLS, checkValue, completeSettings, controlsOf, readAddress, writeAddress } from "./settings.js";
import { Run, findCause } from "./run.js";
import { decodeDigits } from "./tasks.js";
import { GUIDES } from "./guides.js";
import { makeGuidePanel } from "./guidepanel.js";
import { h, makeControl, makeTabs, settingsText, showValue } from "./controls.js";
import { chartsOf, numberText, numbersOf, stylesOf, summarize } from "./words.js";
import { drawChart, drawDigits, drawMap, drawSurface, readPalette, surfaceValues } from "./draw.js";

const BUDGET = 8; // ms of training a frame: the rest of a 60th of a second is for drawing
const SLOW = 6; // maps, curves and numbers are drawn anew every SLOW frames
const SHEET = 30; // test digits on a sheet
const PANELS = ["views", "maps", "charts", "numbers"];
const OPTIONS = ["controls", "panels", "compact", "address", "link", "guides", "tabs", "steps", "changes", "guide"];

let mounted = 0;
let digitsOnce = null;
const loadDigits = () => (digitsOnce ??= typeof DIGITS === "string" ? decodeDigits(DIGITS) : null);

export class Laboratory {
  /** given: settings of a run and OPTIONS of the page; onchange(laboratory) is called when there is news. */
  constructor(element, given = {}, onchange = null) {
    this.root = element;
    this.prefix = `hl${++mounted}`;
    this.onchange = onchange;
    this.options = Object.fromEntries(OPTIONS.filter((key) => key in given).map((key) => [key, given[key]]));
    this.given = Object.fromEntries(Object.entries(given).filter(([key]) => !OPTIONS.includes(key)));
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.runs = {}; // one a tab: leaving a tab keeps its run
    this.views = [];
    this.target = this.replay = null;
    this.playing = false;
    this.changesShown = this.owed = this.frames = this.said = this.wrote = this.told = 0;
    this.cleanups = [];
    const { compact } = this.options;
    this.panels = this.options.panels ?? (compact ? ["views", "maps"] : PANELS);
    this.tabs = this.options.tabs ?? (compact ? [] : Object.keys(TABS));
    this.build();
    const asked = this.options.address ? readAddress(location.hash) : null;
    const messages = asked?.messages ?? [];
    const settings = asked?.settings ?? completeSettings(this.given, messages);
    this.load(settings, { changes: asked?.changes ?? this.options.changes, step: asked?.step ?? this.options.steps ?? 0 });
    this.complain(messages);
    if (this.options.guide && !asked) this.openGuide(this.options.guide);
    this.observe();
  }

  // --- the page -------------------------------------------------------------------------------------------------

  build() {
    const { prefix, options } = this;
    const button = (text, onclick, extra = {}) => h("button", { type: "button", class: "hl-button", onclick, ...extra }, text);
    this.tabList = makeTabs(Object.fromEntries(this.tabs.map((id) => [id, TABS[id].label])), prefix, `${prefix}-panel`, (id) => this.openTab(id));
    const share = options.address ? button("Copy link", () => this.share(), { class: "hl-button hl-quiet", title: "The address holds every setting, the seed and each change" })
      : options.link ? (this.linkOut = h("a", { class: "hl-link", href: options.link }, "Open in the laboratory")) : null;
    this.shared = h("input", { class: "hl-address", readonly: true, hidden: true, "aria-label": "Link to this run" });
    this.status = h("p", { class: "hl-status", role: "status", "aria-live": "polite" });
    this.paper = h("p", { class: "hl-paper" }); // shown in print alone
    this.notes = h("div", { class: "hl-notes" });
    this.guideBox = h("section", { class: "hl-guide", hidden: true, "aria-labelledby": `${prefix}-guide` });
    this.viewBox = h("div", { class: "hl-views" });
    this.mapBox = h("div", { class: "hl-maps" });
    this.chartBox = h("div", { class: "hl-charts" });
    this.numberBox = h("div", { class: "hl-numbers" });
    this.playButton = button("", () => this.toggle(), { class: "hl-button hl-play" });
    this.stepButton = button("Step", () => this.train(1));
    this.resetButton = button("Reset", () => this.reset());
    this.counter = h("span", { class: "hl-counter" });
    this.hero = h("div", { class: "hl-hero" });
    this.dock = h("div", { class: "hl-dock" }, h("div", { class: "hl-buttons" }, this.playButton, this.stepButton, this.resetButton, this.counter), this.hero);
    this.controlBox = h("div", { class: "hl-controls" });
    this.guideList = h("section", { class: "hl-guides", "aria-labelledby": `${prefix}-guides` });
    this.panel = h("div", { class: "hl-panel", id: `${prefix}-panel` },
      h("div", { class: "hl-main" }, this.viewBox, this.mapBox, this.chartBox),
      h("div", { class: "hl-side" }, this.controlBox, this.numberBox), this.dock);
    if (this.tabs.length > 1) this.panel.setAttribute("role", "tabpanel");
    this.shell = h("div", { class: `hlab${options.compact ? " hl-compact" : ""}`, role: "group", "aria-label": "Laboratory: a network that trains in this page" },
      this.tabs.length > 1 || share ? h("div", { class: "hl-head" }, this.tabs.length > 1 ? this.tabList.element : h("span"),
        h("span", { class: "hl-more" }, options.compact || options.guides === false ? null
          : button("Experiments", () => this.guideList.scrollIntoView({ block: "end", behavior: this.calm.matches ? "auto" : "smooth" }), { class: "hl-button hl-quiet hl-wide" }), share)) : null,
      this.shared, this.notes, this.status, this.paper, this.guideBox, this.panel, options.compact || options.guides === false ? null : this.guideList);
    // JupyterLab would take the arrow keys from the sliders.
    this.shell.addEventListener("keydown", (event) => event.stopPropagation());
    this.root.style.overflow = "visible"; // a scrolling output would hold the dock where it is
    this.root.replaceChildren(this.shell);
    this.listGuides();
  }

  canvas(label, shape) {
    const canvas = h("canvas", { role: "img", class: `hl-canvas hl-${shape}`, "aria-label": label });
    this.resizes?.observe(canvas);
    return canvas;
  }

  observe() {
    this.resizes = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) Object.assign(target, { shownWidth: contentRect.width, shownHeight: contentRect.height });
      this.redraw();
    });
    for (const canvas of this.shell.querySelectorAll("canvas")) this.resizes.observe(canvas);
    const seen = new IntersectionObserver((entries) => {
      this.hidden = !entries[entries.length - 1].isIntersecting;
      if (!this.hidden) this.wake();
    });
    seen.observe(this.shell);
    const themed = () => { this.palette = null; this.redraw(); };
    const theme = new MutationObserver(themed);
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "theme", "class"] });
    theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    const onPaper = () => {
      this.paper.textContent = `Printed at step ${this.run.step.toLocaleString("en")}: ${settingsText(this.run.settings)}.`;
      this.palette = null;
      this.dirty = true;
      this.paint(performance.now()); // at once: a browser does not wait here
    };
    addEventListener("beforeprint", onPaper);
    this.cleanups.push(() => removeEventListener("beforeprint", onPaper));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", themed);
    this.cleanups.push(() => this.resizes.disconnect(), () => seen.disconnect(), () => theme.disconnect(), () => dark.removeEventListener("change", themed));
    if (this.options.address) {
      const follow = () => this.follow();
      addEventListener("hashchange", follow);
      this.cleanups.push(() => removeEventListener("hashchange", follow));
    }
    this.redraw();
  }

  destroy() {
    this.playing = false;
    cancelAnimationFrame(this.pending);
    this.cleanups.forEach((undo) => undo());
    this.root.replaceChildren();
  }

  /** Lays the page out for the tab and the data of the run. */
  lay() {
    const { settings } = this.run;
    this.palette = null;
    const styles = stylesOf(settings, this.colours());
    this.tabList.show(settings.tab);
    if (this.tabs.length > 1) this.panel.setAttribute("aria-labelledby", `${this.prefix}-tab-${settings.tab}`);
    this.shell.dataset.tab = settings.tab;
    const chip = (style, text) => h("span", { class: "hl-name" }, h("i", { class: `hl-swatch hl-${style.swatch}`, "aria-hidden": "true" }), text ?? style.name);
    const figure = (caption, canvas, ...more) => h("figure", { class: "hl-figure" }, h("figcaption", {}, ...caption), canvas, ...more);

    const digits = settings.data === "digits";
    this.views = this.panels.includes("views") ? this.run.learners.map((_, k) => ({
      learner: k, canvas: this.canvas("", digits ? "sheet" : "square"), says: h("span", { class: "hl-says" }) })) : [];
    if (this.legend) this.legend.remove();
    this.legend = this.views.length ? null : h("p", { class: "hl-legend" }, ...styles.map((style) => chip(style)));
    if (this.legend) this.viewBox.before(this.legend);
    this.viewBox.replaceChildren(...this.views.map((view) => figure([chip(styles[view.learner]), view.says], view.canvas)));
    this.viewBox.dataset.count = this.views.length;

    this.maps = this.panels.includes("maps") ? [
      { space: "functions", title: "Function space", unit: "L₂" }, { space: "parameters", title: "Parameter space", unit: "ℓ₂" },
    ].map((map) => ({ ...map, canvas: this.canvas("", "map"), says: h("span", { class: "hl-says" }), view: {} })) : [];
    this.mapBox.replaceChildren(...this.maps.map((map) => figure([h("span", { class: "hl-name" }, map.title), map.says], map.canvas)));

    this.charts = this.panels.includes("charts") ? chartsOf(settings) : [];
    for (const chart of this.charts) chart.canvas = this.canvas("", "chart");
    this.chartBox.replaceChildren(...this.charts.map((chart) => figure([h("span", { class: "hl-name" }, chart.title), h("span", { class: "hl-says" }, chart.note)], chart.canvas)));

    this.rows = this.panels.includes("numbers") ? numbersOf(settings) : [];
    this.layNumbers(styles, chip);
    this.layControls();
    this.showControls();
  }

  layNumbers(styles, chip) {
    if (!this.rows.length) return this.numberBox.replaceChildren();
    const head = h("tr", {}, h("td"), ...styles.map((style) => h("th", { scope: "col" }, chip(style, style.brief))));
    const body = this.rows.map((row) => {
      row.cells = styles.map(() => h("td"));
      return h("tr", {}, h("th", { scope: "row" }, row.text), ...row.cells);
    });
    this.apartSays = h("p", { class: "hl-apart" });
    this.changeSays = h("p", { class: "hl-apart" });
    this.numberBox.replaceChildren(h("table", {}, h("caption", { class: "hl-title" }, "Now"), h("thead", {}, head), h("tbody", {}, ...body)), this.apartSays, this.changeSays);
  }

  layControls() {
    const { tab, base } = this.run.settings;
    const wanted = this.options.controls ?? (this.options.compact ? ["lam"] : controlsOf(tab));
    const ids = controlsOf(tab).filter((id) => wanted.includes(id) && !(id === "ghost" && base === "adam"));
    this.controls = Object.fromEntries(ids.map((id) => [id, makeControl(id, this.prefix, (value) => this.set(id, value))]));
    const group = (title, chosen, note) => (chosen.length
      ? h("fieldset", {}, h("legend", {}, title, note ? h("small", {}, note) : null), ...chosen.map((id) => this.controls[id].element)) : null);
    const first = this.controls.lam?.element;
    this.hero.replaceChildren(...(first ? [first] : []));
    const rest = ids.filter((id) => id !== "lam");
    const live = rest.filter((id) => CONTROLS[id].live), anew = rest.filter((id) => !CONTROLS[id].live);
    this.controlBox.replaceChildren(...(this.options.compact ? [group("Controls", rest)]
      : [group("While it trains", live, "applies at once"), group("The run", anew, "begins anew")]).filter(Boolean));
    this.controlBox.hidden = !rest.length;
  }

  showControls() {
    this.changesShown = this.run.changes.length;
    for (const [id, control] of Object.entries(this.controls)) control.show(this.run.settings[id]);
  }

  // --- runs -----------------------------------------------------------------------------------------------------

  load(settings, { changes = [], step = 0 } = {}) {
    this.stop();
    this.run = this.runs[settings.tab] = new Run(settings, { digits: loadDigits(), changes });
    this.alarm(null);
    this.lay();
    if (step > 0) {
      this.replay = step;
      this.say(`Replaying to step ${step.toLocaleString("en")} …`);
      this.wake();
    } else this.news();
    this.redraw();
  }

  openTab(tab) {
    if (tab === this.run.settings.tab) return;
    this.stop();
    this.alarm(null);
    this.closeGuide();
    if (this.runs[tab]) {
      this.run = this.runs[tab];
      this.lay();
      this.news();
      this.redraw();
    } else this.load(completeSettings({ tab }));
  }

  /** Moves a control: in the middle of the run where that is possible, otherwise from the beginning. */
  set(control, value) {
    try {
      value = checkValue(control, value);
      this.complain([]);
    } catch (error) {
      this.complain([`${error.message}; it stays at ${showValue(control, this.run.settings[control])}.`]);
      this.showControls();
      return;
    }
    if (value === this.run.settings[control]) return;
    if (CONTROLS[control].live) {
      this.run.set(control, value);
      this.controls[control]?.show(value);
      if (!this.playing) this.news();
      else this.wrote = 0;
      this.redraw();
    } else this.load({ ...this.run.settings, [control]: value });
  }

  reset() {
    this.load({ ...this.run.settings });
  }

  toggle() {
    if (this.playing) this.stop(true);
    else this.play();
  }

  /** Trains on, to the step named or until it is paused. */
  play(target = Infinity) {
    if (this.run.diverged()) return;
    this.target = target;
    this.playing = true;
    this.owed = 1;
    this.showPlay();
    this.clock = null;
    this.wake();
  }

  stop(tell = false) {
    this.playing = false;
    this.replay = null;
    this.target = Infinity;
    this.showPlay();
    if (tell) {
      this.news();
      this.redraw();
    }
  }

  /** Trains for some steps at once, without the clock. */
  train(steps) {
    this.stop();
    for (let i = 0; i < steps && !this.check(); i++) this.run.advance();
    this.check();
    this.news();
    this.redraw();
  }

  /** True if the run has diverged: it is stopped, and told why. */
  check() {
    const found = this.run.diverged();
    if (!found) return false;
    this.stop();
    const { settings } = this.run;
    const name = stylesOf(settings, this.colours())[this.run.learners.indexOf(found.learner)].name;
    const cause = findCause(this.run, TABS[settings.tab].defaults, loadDigits());
    const label = (id) => CONTROLS[id].symbol ?? CONTROLS[id].label;
    const text = `Stopped at step ${this.run.step}: ${name} has diverged, ${found.what}. ` + (cause
      ? `${label(cause.control)} = ${showValue(cause.control, cause.value)} did it: with ${label(cause.control)} = ${showValue(cause.control, cause.safe)} and all else as it was, the same steps stay finite.`
      : "No single control explains it: begin with a smaller step size ε.");
    this.alarm(text, cause && { label: `Put ${label(cause.control)} back to ${showValue(cause.control, cause.safe)} and begin again`,
      act: () => this.load({ ...settings, [cause.control]: cause.safe }) });
    return true;
  }

  // --- time -----------------------------------------------------------------------------------------------------

  wake() {
    this.pending ??= requestAnimationFrame((now) => this.frame(now));
  }

  redraw() {
    this.dirty = true;
    this.wake();
  }

  frame(now) {
    this.pending = null;
    const { run } = this;
    if (this.replay !== null || (this.playing && !this.hidden)) {
      const since = this.clock === null || this.clock === undefined ? 1 / 60 : Math.min((now - this.clock) / 1000, 0.1);
      this.clock = now;
      const goal = this.replay ?? this.target;
      this.owed = this.replay !== null ? Infinity : Math.min(this.owed + since * run.settings.speed, run.settings.speed / 8 + 1);
      const started = performance.now();
      let bad = false;
      while (this.owed >= 1 && run.step < goal && !(bad = run.diverged()) && performance.now() - started < BUDGET) {
        run.advance();
        this.owed--;
      }
      if (run.changes.length !== this.changesShown) this.showControls(); // a link's changes move the controls as they come
      if (bad || run.diverged()) this.check();
      if (run.step >= goal) {
        this.stop();
        this.dirty = true;
        this.news();
      }
      if (this.playing || this.replay !== null) this.wake();
    }
    this.paint(now);
  }

  /** Draws what is due: everything when something was moved, else the views one by one and the rest now and then. */
  paint(now) {
    const all = this.dirty;
    this.dirty = false;
    this.frames++;
    const moving = this.playing || this.replay !== null;
    if (!all && !moving) return;
    if (!all && this.calm.matches && now - (this.painted ?? 0) < 500) return;
    const rest = all || this.calm.matches;
    this.painted = now;
    this.counter.textContent = `step ${this.run.step.toLocaleString("en")}`;
    this.views.forEach((view, k) => { if (rest || this.frames % this.views.length === k) this.paintView(view); });
    const turn = this.frames % SLOW;
    if (rest || turn === 0) this.paintMaps(rest);
    if (rest || turn === 2) this.paintCharts();
    if (rest || turn === 4) this.paintNumbers();
    if (moving && now - this.said > 4000) this.say(summarize(this.run, this.playing, Boolean(this.controls.lam)));
    if (moving && now - this.wrote > 1000) { this.wrote = now; this.write(); }
    if (this.onchange && now - this.told > 200) { this.told = now; this.onchange(this); }
  }

  colours() {
    return (this.palette ??= readPalette(this.shell));
  }

  paintView({ learner: k, canvas, says }) {
    const { run } = this, { settings, tasks } = run, palette = this.colours();
    const styles = stylesOf(settings, palette);
    const learner = run.learners[k];
    const two = tasks.length > 1;
    says.textContent = this.viewSays(k);
    if (settings.data === "digits") {
      const count = two ? SHEET / 2 : SHEET;
      const sets = tasks.map((task) => {
        const p = learner.network.forward(learner.theta, task.test.x, count).slice(0, 10 * count);
        return { x: task.test.x, y: task.test.y, p, n: count, opacity: two && task !== run.task ? 0.6 : 1 };
      });
      drawDigits(canvas, { sets, columns: 6 }, palette, styles[k].colour);
      return;
    }
    const values = (learner.surface = surfaceValues(learner.network, learner.theta, learner.surface));
    const contours = [];
    if (k > 0 && run.learners[0].surface) contours.push({ values: run.learners[0].surface, colour: styles[0].colour, dash: styles[0].dash, width: 3.6, pale: true });
    contours.push({ values, colour: styles[k].colour, dash: k ? [] : styles[0].dash, width: 2.4 });
    const ringed = k > 0 && learner.remembered ? new Set(learner.remembered.order.slice(0, settings.memory)) : null;
    const sets = tasks.map((task, i) => ({ ...task.train, opacity: task === run.task ? 1 : 0.3, ringed: i === 0 ? ringed : null }));
    drawSurface(canvas, { values, contours, sets }, palette);
  }

  viewSays(k) {
    const s = this.run.settings;
    if (s.tab === "remember") return k ? `λ = ${s.lam}, M = ${s.memory}` : "";
    if (k === 2) return `δ = ${s.damping}`;
    if (k === 1) return `λ = ${s.lam}`;
    return s.ghost === "matched" && s.base === "sgd" ? `at ε + (n−1)η = ${numberText(s.eps + (s.n - 1) * s.eta)}` : `${s.start === "same" || s.tab !== "learn" ? "" : `${s.base === "adam" ? "Adam" : "SGD"}, `}λ = 0`;
  }

  paintMaps(fit) {
    const { run } = this, palette = this.colours();
    for (const map of this.maps) {
      const drawn = run.trajectory.map(map.space, run.step, run.learners);
      map.stress = drawn.stress;
      map.says.textContent = `${map.unit}, stress ${drawn.stress.toFixed(2)}`;
      drawMap(map.canvas, drawn, stylesOf(run.settings, palette), palette, map.view, fit);
    }
  }

  paintCharts() {
    const { run } = this, palette = this.colours(), styles = stylesOf(run.settings, palette);
    const marks = run.changes.map(({ step }) => ({ step }));
    if (run.settings.tab === "remember" && run.step >= run.settings.change) marks.push({ step: run.settings.change });
    for (const chart of this.charts) {
      const rows = run.history.rows.map((row) => ({ step: row.step, values: chart.pick(row) }));
      const curves = chart.only ? [styles[chart.only]] : chart.double ? [...styles.map((style) => ({ ...style, faint: true })), ...styles] : styles;
      drawChart(chart.canvas, rows, curves, { ...chart.options, marks, until: run.step }, palette);
    }
  }

  paintNumbers() {
    const { run } = this;
    if (!this.rows.length) return;
    const now = run.learners.map((learner) => run.accuracies(learner));
    for (const row of this.rows) row.cells.forEach((cell, k) => { cell.textContent = row.value(run.learners[k], now[k]); });
    const apart = run.apart();
    this.apartSays.textContent = `Between the two: L₂ ${numberText(apart.functions)}, ℓ₂ ${numberText(apart.parameters)}.`;
    this.changeSays.textContent = run.changes.length ? `Changed on the way: ${this.changesText()}.` : "";
  }

  changesText() {
    return this.run.changes.slice(-6).map(({ step, control, value }) => `${CONTROLS[control].symbol ?? CONTROLS[control].label} → ${showValue(control, value)} at step ${step}`).join("; ");
  }

  // --- words ----------------------------------------------------------------------------------------------------

  say(text) {
    this.said = performance.now();
    this.status.textContent = text;
    this.views.forEach(({ learner, canvas }) => {
      const name = stylesOf(this.run.settings, this.colours())[learner].name;
      canvas.setAttribute("aria-label", this.run.settings.data === "digits" ? `Test digits as ${name} reads them; wrong ones are framed` : `Decision surface of ${name}`);
    });
    for (const { canvas, title, stress } of this.maps) canvas.setAttribute("aria-label", `Map of the trajectories in ${title.toLowerCase()}${stress === undefined ? "" : `, stress ${stress.toFixed(2)}`}`);
    for (const { canvas, title, note } of this.charts) canvas.setAttribute("aria-label", `Curves over steps: ${title}, ${note}`);
  }

  /** Something happened: say it, write it into the address, tell whoever listens. */
  news() {
    this.say(summarize(this.run, this.playing, Boolean(this.controls.lam)));
    this.write();
    this.onchange?.(this);
  }

  showPlay() {
    this.playButton.textContent = this.playing ? "Pause" : "Play";
    this.playButton.setAttribute("aria-pressed", String(this.playing));
  }

  complain(messages) {
    this.notes.replaceChildren(...messages.map((text) => h("p", { class: "hl-note", role: "status" }, text)));
  }

  alarm(text, action = null) {
    if (!text) return this.notes.querySelector(".hl-alarm")?.remove();
    const box = h("div", { class: "hl-note hl-alarm", role: "alert" }, h("p", {}, text));
    if (action) box.append(h("button", { type: "button", class: "hl-button", onclick: action.act }, action.label));
    this.notes.replaceChildren(box);
    this.news();
  }

  // --- the address ----------------------------------------------------------------------------------------------

  /** The run as text: the same settings, seed, changes and step make the same numbers. */
  address() {
    const { initial, settings, changes, step } = this.run;
    return writeAddress({ settings: { ...initial, speed: settings.speed }, changes, step });
  }

  write() {
    if (this.linkOut) this.linkOut.href = `${this.options.link.split("#")[0]}#${this.address()}`;
    if (!this.options.address || this.replay !== null) return;
    try {
      history.replaceState(null, "", `#${this.address()}`);
    } catch { /* some embeddings forbid it; the button still gives the link */ }
  }

  follow() {
    const asked = readAddress(location.hash);
    if (!asked) return;
    this.closeGuide();
    this.load(asked.settings, asked);
    this.complain(asked.messages);
  }

  share() {
    this.write();
    this.shared.value = `${location.href.split("#")[0]}#${this.address()}`;
    this.shared.hidden = false;
    this.shared.select();
    const done = () => this.say("The link to this run is on the clipboard.");
    navigator.clipboard?.writeText(this.shared.value).then(done, () => this.say("The link to this run is selected: copy it."));
  }

  // --- guided experiments ---------------------------------------------------------------------------------------

  listGuides() {
    if (this.options.compact || this.options.guides === false) return;
    const cards = GUIDES.map((guide, i) => h("li", {}, h("button", { type: "button", class: "hl-card", "data-guide": guide.id, onclick: () => this.openGuide(guide.id) },
      h("b", {}, `${i + 1}`), h("span", {}, guide.title))));
    this.guideList.replaceChildren(h("p", { class: "hl-title", id: `${this.prefix}-guides` }, "Five experiments"), h("p", {}, "Each sets the controls, asks what you expect, and lets you see."), h("ol", {}, ...cards));
  }

  openGuide(id) {
    const guide = GUIDES.find((item) => item.id === id);
    if (!guide) return;
    this.load(completeSettings({ ...guide.settings, speed: this.run.settings.speed }));
    const { parts, heading, evidence } = makeGuidePanel(guide, this.prefix, (action) => this.act(guide, action, evidence), () => this.closeGuide());
    this.guideBox.replaceChildren(...parts);
    this.guideBox.hidden = false;
    heading.focus({ preventScroll: true });
    this.guideBox.scrollIntoView({ block: "nearest" });
  }

  closeGuide() {
    this.guideBox.hidden = true;
    this.guideBox.replaceChildren();
  }

  act(guide, action, evidence) {
    if (action.restart) this.load({ ...this.run.settings, ...action.set });
    else for (const [control, value] of Object.entries(action.set ?? {})) this.set(control, value);
    const { run } = this, goal = run.step + action.run;
    evidence.textContent = "";
    (this.views.length ? this.viewBox : this.mapBox).scrollIntoView({ block: "nearest" }); // on a phone the guide fills the window
    const then = () => {
      if (this.run !== run || evidence.isConnected === false) return;
      if (run.step >= goal) evidence.textContent = guide.evidence(run);
      else if (this.playing) setTimeout(then, 100);
    };
    this.play(goal);
    setTimeout(then, 100);
  }
}
