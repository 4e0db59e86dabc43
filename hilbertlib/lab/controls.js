// The page's building blocks: elements, sliders and choices, each with its label, by keyboard like any form.
import { CONTROLS, controlsOf } from "./settings.js";

/** An element: h("p", {class: "x", onclick: f}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A value as a reader sees it. */
export function showValue(id, value) {
  const control = CONTROLS[id];
  if (control.options) return control.options[value];
  if (control.percent) return `${Math.round(100 * value)}%`;
  return control.unit ? `${value} ${control.unit}` : String(value);
}

/** Every setting that a run depends on, as a sentence: "λ strength 1, ε step size 0.1, …". */
export const settingsText = (settings) => controlsOf(settings.tab).filter((id) => id !== "speed")
  .map((id) => `${[CONTROLS[id].symbol, CONTROLS[id].label].filter(Boolean).join(" ")} ${showValue(id, settings[id])}`).join(", ");

/** Position of the slider for a value that may lie between two of its values. */
function nearest(grid, value) {
  let best = 0;
  grid.forEach((v, i) => { if (Math.abs(v - value) < Math.abs(grid[best] - value)) best = i; });
  return best;
}

/**
 * One control: {element, show(value)}. change(value) is called as it moves; a slider that begins a new run waits for
 * the end of the movement.
 */
export function makeControl(id, prefix, change) {
  const control = CONTROLS[id];
  const key = `${prefix}-${id}`;
  const name = [control.symbol ? h("b", {}, control.symbol) : null, control.symbol && control.label ? " " : null, control.label || null];
  const label = h("label", { for: key }, ...name);
  const attributes = { class: "hl-control", "data-control": id };
  const hint = control.hint ? h("small", { id: `${key}-hint` }, control.hint) : null;
  const describe = hint ? { "aria-describedby": `${key}-hint` } : {};
  if (control.options) {
    const select = h("select", { id: key, onchange: () => change(select.value) },
      ...Object.entries(control.options).map(([value, text]) => h("option", { value }, text)));
    return { element: h("div", attributes, label, select, hint), show: (value) => { select.value = value; } };
  }
  if (!control.grid) {
    const input = h("input", { id: key, type: "number", min: control.range[0], max: control.range[1], step: 1,
      onchange: () => change(input.value) });
    const dice = h("button", { type: "button", class: "hl-button", onclick: () => change((Number(input.value) + 1) % (control.range[1] + 1)) }, "Next");
    dice.setAttribute("aria-label", `Next ${control.label.toLowerCase()}`);
    return { element: h("div", attributes, label, h("span", { class: "hl-pair" }, input, dice), hint), show: (value) => { input.value = value; } };
  }
  const { grid } = control;
  const output = h("output", { for: key });
  const input = h("input", { id: key, type: "range", min: 0, max: grid.length - 1, step: 1, ...describe });
  const say = (value) => {
    output.textContent = showValue(id, value);
    input.setAttribute("aria-valuetext", showValue(id, value));
    input.style.setProperty("--hl-fill", `${(100 * Number(input.value)) / (grid.length - 1)}%`);
  };
  input.addEventListener("input", () => {
    say(grid[input.value]);
    if (control.live) change(grid[input.value]);
  });
  if (!control.live) input.addEventListener("change", () => change(grid[input.value]));
  return { element: h("div", attributes, label, output, input, hint),
    show: (value) => { input.value = nearest(grid, value); say(value); } };
}

/** Tabs that move with the arrow keys: {element, show(id)}. */
export function makeTabs(tabs, prefix, panel, choose) {
  const buttons = Object.entries(tabs).map(([id, text]) =>
    h("button", { type: "button", role: "tab", id: `${prefix}-tab-${id}`, "aria-controls": panel, "data-tab": id, onclick: () => choose(id) }, text));
  const element = h("div", { class: "hl-tabs", role: "tablist", "aria-label": "What the laboratory shows" }, ...buttons);
  element.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!move) return;
    event.preventDefault();
    const at = buttons.indexOf(document.activeElement) < 0 ? 0 : buttons.indexOf(document.activeElement);
    const to = Number.isFinite(move) ? (at + move + buttons.length) % buttons.length : move < 0 ? 0 : buttons.length - 1;
    buttons[to].focus();
    choose(buttons[to].dataset.tab);
  });
  const show = (id) => buttons.forEach((button) => {
    const chosen = button.dataset.tab === id;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  });
  return { element, show };
}
