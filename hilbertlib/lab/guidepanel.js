// A guided experiment on the page: its question, the prediction, its buttons and its answer behind a fold.
import { h } from "./controls.js";

/** {parts, heading, evidence}; act(action) and close() are called by the buttons. */
export function makeGuidePanel(guide, prefix, act, close) {
  const button = (text, onclick, look = "hl-button") => h("button", { type: "button", class: look, onclick }, text);
  const heading = h("p", { class: "hl-title", id: `${prefix}-guide`, tabindex: -1 }, guide.title);
  const evidence = h("p", { class: "hl-evidence", "aria-live": "polite" });
  const verdict = h("p", { class: "hl-verdict" });
  const right = `It is: “${guide.choices[guide.right]}”`;
  const tell = (guess) => {
    verdict.textContent = guess === null ? right : `You expected “${guide.choices[guess]}” ${guess === guide.right ? "So it is." : right}`;
  };
  tell(null);
  const choices = guide.choices.map((text, i) =>
    h("label", {}, h("input", { type: "radio", name: `${prefix}-guess`, value: i, onchange: () => tell(i) }), h("span", {}, text)));
  const parts = [
    h("div", { class: "hl-guide-head" }, heading, button("Close", close, "hl-button hl-quiet")),
    h("p", {}, guide.intro),
    h("fieldset", { class: "hl-guess" }, h("legend", {}, guide.question), ...choices),
    h("ol", { class: "hl-actions" }, ...guide.actions.map((action) => h("li", {}, button(action.label, () => act(action))))),
    evidence,
    h("details", {}, h("summary", {}, "What happens, and why"), verdict, ...guide.answer.map((text) => h("p", {}, text))),
  ];
  return { parts, heading, evidence };
}
