// Draws the book's figures from the JSON that stands in each <figure>, lets range inputs move
// them, and follows the light or dark theme. Plotly is fetched once, when the first figure is near.
(() => {
  const root = document.documentElement;
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  let plotly;
  const loadPlotly = () => (plotly ??= new Promise((done, fail) => {
    const script = Object.assign(document.createElement("script"), { src: here + "vendor/plotly.min.js" });
    script.onload = () => done(window.Plotly);
    script.onerror = () => fail(new Error("vendor/plotly.min.js did not load"));
    document.head.append(script);
  }));

  // --- theme: every colour that is not data comes from the page ------------------------------
  function themed(layout) {
    const text = css("--pst-color-text-base"), line = css("--pst-color-border"), muted = css("--pst-color-text-muted");
    const out = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...layout.font, color: text, family: css("--pst-font-family-base") },
      hoverlabel: { ...layout.hoverlabel, bgcolor: css("--pst-color-surface"), bordercolor: line, font: { color: text } } };
    for (const key of Object.keys(layout))
      if (/^[xy]axis\d*$/.test(key)) out[key] = { ...layout[key], gridcolor: line, zerolinecolor: line, linecolor: muted };
    if (layout.annotations) out.annotations = layout.annotations.map((a) => ({ arrowcolor: muted, ...a }));
    return out;
  }

  // --- a frame is the base figure with some keys replaced ------------------------------------
  const isObject = (v) => v !== null && typeof v === "object" && !Array.isArray(v);
  const merge = (base, patch) => {
    const out = { ...base };
    for (const [k, v] of Object.entries(patch)) out[k] = isObject(v) && isObject(base?.[k]) ? merge(base[k], v) : v;
    return out;
  };

  // --- a phone: panels under one another, names in a legend instead of beside the curves -----
  // The name of an axis that is wider than the figure goes on two lines, parted near the middle.
  function inTwo(text, width) {
    const spaces = [...text.matchAll(/ /g)].map((m) => m.index), middle = text.length / 2;
    if (text.length < width / 11 || !spaces.length) return text;
    const at = spaces.reduce((a, b) => (Math.abs(b - middle) < Math.abs(a - middle) ? b : a));
    return `${text.slice(0, at)}<br>${text.slice(at + 1)}`;
  }

  function stacked(data, layout, width) {
    const n = layout.meta?.panels ?? 1, out = { ...layout, margin: { ...layout.margin, r: 12 } };
    const notes = (layout.annotations ?? []).filter((a) => a.name !== "direct label");
    const named = data.map((t) => ({ ...t, showlegend: Boolean(t.meta?.legend) }));
    const seen = new Set();
    named.forEach((t, i) => { if (t.showlegend) { if (seen.has(t.name)) named[i] = { ...t, showlegend: false }; seen.add(t.name); } });
    out.showlegend = seen.size > 1;
    out.legend = { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" };
    out.margin.t = out.showlegend ? 30 + 20 * Math.ceil(seen.size / 2) : out.margin.t;
    if (n > 1) {
      out.height = layout.height * (0.35 + 0.65 * n);
      // Ticks, an axis's name and the next panel's heading stand in a gap: low figures need more of it.
      const gap = Math.max(0.16 / n, 48 / (out.height - 110)), share = 1 / n;
      let title = 0;
      for (let k = 0; k < n; k++) {
        const id = k ? String(k + 1) : "", top = 1 - k * share - (k ? gap * 0.6 : 0), bottom = 1 - (k + 1) * share + (k < n - 1 ? gap : 0);
        out[`xaxis${id}`] = { ...layout[`xaxis${id}`], domain: [0, 1] };
        // Side by side, the names of rows stand at the first panel alone; below one another, at each.
        const rows = data.some((t) => (t.yaxis ?? "y") === `y${id}` && typeof t.y?.[0] === "string");
        out[`yaxis${id}`] = { ...layout[`yaxis${id}`], domain: [bottom, top], ...(rows && { showticklabels: true }) };
        while (title < notes.length && notes[title].name !== "panel title") title++;
        // Names of rows leave little width, and a long heading needs more: they end where the panel does.
        const far = rows || notes[title]?.text.length > (width - 85) / 7.5;
        if (title < notes.length) notes[title] = { ...notes[title], y: top, ...(far ? { x: 1, xanchor: "right" } : { x: 0.5 }) };
        title++;
      }
      out.margin.t += 16;
      out.legend.y = 1 + 22 / (out.height - 110); // above the first panel's heading
    }
    for (const key of Object.keys(out)) {
      const title = /^xaxis\d*$/.test(key) && out[key].title;
      if (title?.text) out[key] = { ...out[key], title: { ...title, text: inTwo(title.text, width) } };
    }
    out.annotations = notes;
    return [named, out];
  }

  // --- a projector: one figure fills the screen, in large type; Escape leaves it --------------
  const projected = (layout, figure) => {
    if (!figure.matches(":target")) return layout;
    const rest = figure.clientHeight - figure.querySelector(".book-plot").clientHeight;
    const annotations = layout.annotations?.map((a) => ({ ...a, font: { ...a.font, size: 18 } }));
    return { ...layout, annotations, height: Math.max(layout.height ?? 400, window.innerHeight - rest - 24), font: { ...layout.font, size: 18 } };
  };

  // Typed arrays written as base64 by Plotly's Python library are decoded by Plotly itself, so a
  // frame's arrays are passed through untouched.
  function frameOf(spec, index) {
    const patch = spec.frames?.[index] ?? {};
    return {
      data: spec.figure.data.map((trace, i) => merge(trace, patch.data?.[i] ?? {})),
      layout: merge(spec.figure.layout, patch.layout ?? {}),
      text: patch.text ?? "",
      alt: patch.alt ?? spec.alt,
    };
  }

  let serial = 0;
  function controls(spec, host, changed) {
    return (spec.controls ?? []).map((control) => {
      const id = `book-control-${++serial}`;
      const row = Object.assign(document.createElement("div"), { className: "book-control" });
      const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: control.label });
      const input = Object.assign(document.createElement("input"), { type: "range", id, min: 0, max: control.texts.length - 1, step: 1 });
      input.value = control.start; // after max, or the browser clamps it
      const output = Object.assign(document.createElement("output"), { htmlFor: id });
      const say = () => {
        output.textContent = control.texts[input.value];
        input.setAttribute("aria-valuetext", control.texts[input.value]);
      };
      input.addEventListener("input", () => { say(); changed(); });
      say();
      row.append(label);
      const ends = [control.texts[0], control.texts.at(-1)].map((text) => Object.assign(document.createElement("span"), { className: "book-end", textContent: text, ariaHidden: "true" }));
      ends.every((e) => e.textContent.length < 8) ? row.append(ends[0], input, ends[1]) : row.append(input);
      row.append(output);
      host.append(row);
      return input;
    });
  }

  function prepare(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".book-plot");
    const readout = figure.querySelector(".book-readout");
    delete spec.figure.layout.title; // the page shows it as text, which wraps
    let drawn = false, wanted = false;
    const inputs = controls(spec, figure.querySelector(".book-controls"), () => draw());
    const index = () => inputs.reduce((at, input) => at * (Number(input.max) + 1) + Number(input.value), 0);

    function paint() {
      let { data, layout, text, alt } = frameOf(spec, index());
      readout.textContent = text;
      plot.setAttribute("aria-label", alt);
      const narrow = figure.clientWidth < 560;
      if (narrow) [data, layout] = stacked(data, layout, figure.clientWidth);
      plot.style.minHeight = `${layout.height ?? 400}px`;
      if (root.classList.contains("book-project")) layout = projected(layout, figure);
      drawn = true;
      return window.Plotly.react(plot, data, themed({ ...layout, autosize: true, dragmode: false }),
        { responsive: true, displayModeBar: false, doubleClick: false });
    }
    async function draw() {
      if (wanted) return; // one drawing a frame, however fast the slider moves
      wanted = true;
      await loadPlotly();
      await new Promise(requestAnimationFrame);
      wanted = false;
      await paint();
      figure.dataset.drawn = String(Number(figure.dataset.drawn ?? 0) + 1);
    }
    figure.paint = paint;
    figure.redraw = () => drawn && draw();
    figure.draw = draw;
  }

  // --- on paper: light colours, every figure drawn, and each at the width of the page -----------
  function onPaper(figures) {
    let theme = null, opened = [];
    window.addEventListener("beforeprint", () => {
      theme ??= root.dataset.theme;
      root.dataset.theme = "light";
      opened = [...opened, ...document.querySelectorAll("details.sd-dropdown:not([open])")];
      opened.forEach((fold) => { fold.open = true; });
      if (window.Plotly) figures.forEach((f) => f.paint()); // at once: a browser does not wait here
      for (const svg of document.querySelectorAll(".book-plot .main-svg")) {
        const [w, h] = [svg.getAttribute("width"), svg.getAttribute("height")];
        svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
        svg.parentElement.style.setProperty("--book-ratio", `${w} / ${h}`);
      }
    });
    window.addEventListener("afterprint", () => {
      root.dataset.theme = theme;
      opened.forEach((fold) => { fold.open = false; });
      [theme, opened] = [null, []];
      for (const svg of document.querySelectorAll(".book-plot .main-svg")) svg.removeAttribute("viewBox");
    });
  }

  // --- the cover: the same training, step by step --------------------------------------------
  function cover(svg) {
    const paths = [...svg.querySelectorAll(".book-path")].map((g) => ({
      points: g.dataset.points.split(" "), line: g.querySelector("polyline:last-of-type"), disc: g.querySelector("circle:last-of-type") }));
    const last = paths[0].points.length - 1;
    const host = document.createElement("div");
    svg.after(host);
    let running = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const draw = (at) => paths.forEach(({ points, line, disc }) => {
      const [x, y] = points[at].split(",");
      line.setAttribute("points", points.slice(0, at + 1).join(" "));
      disc.setAttribute("cx", x);
      disc.setAttribute("cy", y);
    });
    const spec = { controls: [{ label: "training step", texts: svg.dataset.steps.split(" "), start: last }] };
    let playing = false;
    const [input] = controls(spec, host, () => { running &&= playing; draw(Number(input.value)); });
    const began = performance.now();
    const play = (now) => { // once, in four seconds, unless the reader takes over
      if (!running) return;
      const at = Math.min(last, Math.max(0, Math.floor((last * (now - began)) / 4000)));
      playing = true;
      input.value = at;
      input.dispatchEvent(new Event("input"));
      playing = false;
      if (at < last) requestAnimationFrame(play);
    };
    if (running) requestAnimationFrame(play);
  }

  function start() {
    document.querySelectorAll("svg.book-cover").forEach(cover);
    const figures = [...document.querySelectorAll("figure.book-figure")];
    figures.forEach(prepare);
    const near = new IntersectionObserver((entries) => entries.forEach((e) => {
      if (e.isIntersecting) { near.unobserve(e.target); e.target.draw(); }
    }), { rootMargin: "600px" });
    figures.forEach((f) => near.observe(f));
    new MutationObserver(() => figures.forEach((f) => f.redraw())).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    if (new URLSearchParams(location.search).has("project")) {
      root.classList.add("book-project");
      document.addEventListener("keydown", (e) => {
        if (e.key !== "Escape" || !root.classList.contains("book-project")) return;
        root.classList.remove("book-project");
        figures.forEach((f) => f.redraw());
        document.querySelector(":target")?.scrollIntoView();
      });
    }
    onPaper(figures);

    // A comma stays on the line of the formula before it.
    for (const formula of document.querySelectorAll(".bd-article span.math")) {
      const rest = formula.nextSibling, mark = rest?.nodeType === Node.TEXT_NODE && /^[,.;:!?)]+/.exec(rest.data);
      if (!mark) continue;
      rest.splitText(mark[0].length);
      const kept = Object.assign(document.createElement("span"), { className: "book-kept" });
      formula.before(kept);
      kept.append(formula, rest);
    }

    // Three faults of the stock theme that a screen reader meets.
    document.querySelectorAll(".search-button-field[aria-label], .theme-switch-button[aria-label]").forEach((b) => b.removeAttribute("aria-label"));
    const side = document.querySelector(".bd-sidebar-primary");
    if (side) { side.setAttribute("role", "navigation"); side.setAttribute("aria-label", "Book"); }
    document.querySelectorAll("div.highlight pre, .bd-content table, .book-scroll").forEach((e) => { if (e.scrollWidth > e.clientWidth) e.tabIndex = 0; });
  }
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
})();
