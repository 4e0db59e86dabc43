// Drawing on canvases: decision surfaces, sheets of digits, maps of trajectories and curves. No state of a run is changed.

const GRID = 44; // a decision surface is computed on GRID x GRID points and smoothed by the canvas
export const EXTENT = 1.2; // the square [-EXTENT, EXTENT]² is shown

/** Colours and font that the style sheet gives the element now. */
export function readPalette(element) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(`--hl-${name}`).trim();
  const names = ["ink", "muted", "line", "panel", "class0", "class1", "sgd", "hcgd", "adam", "adamhc", "natural", "neutral"];
  return { ...Object.fromEntries(names.map((name) => [name, colour(name)])), font: style.fontFamily };
}

/** The canvas's context in CSS pixels, cleared; null while it has no size. Its size is kept by the caller's observer. */
export function prepare(canvas) {
  const scale = Math.min(globalThis.devicePixelRatio || 1, 2);
  const w = canvas.shownWidth ?? canvas.clientWidth, h = canvas.shownHeight ?? canvas.clientHeight;
  if (!w || !h) return null;
  const [pw, ph] = [Math.round(w * scale), Math.round(h * scale)];
  if (canvas.width !== pw || canvas.height !== ph) Object.assign(canvas, { width: pw, height: ph });
  const ctx = canvas.getContext("2d");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, w, h);
  return { ctx, w, h };
}

function rgb(colour) {
  const n = parseInt(colour.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}

const grid = (() => {
  const x = new Float64Array(2 * GRID * GRID);
  for (let i = 0; i < GRID * GRID; i++) {
    x[2 * i] = EXTENT * ((2 * ((i % GRID) + 0.5)) / GRID - 1);
    x[2 * i + 1] = EXTENT * (1 - (2 * (Math.floor(i / GRID) + 0.5)) / GRID);
  }
  return x;
})();

/** Probability of class 1 on the grid, row by row from the top. */
export function surfaceValues(network, theta, out = new Float64Array(GRID * GRID)) {
  const p = network.forward(theta, grid, GRID * GRID);
  for (let i = 0; i < out.length; i++) out[i] = p[2 * i + 1];
  return out;
}

let tile = null; // one small canvas for the colours of all surfaces

/**
 * A network's answer over the plane. values: surfaceValues; contours: [{values, colour, dash, width, pale}], the lines where both
 * classes are equally likely; sets: [{x, y, n, opacity, ringed}], the points.
 */
export function drawSurface(canvas, { values, contours, sets }, palette) {
  const to = prepare(canvas);
  if (!to) return;
  const { ctx, w, h } = to;
  tile ??= Object.assign(document.createElement("canvas"), { width: GRID, height: GRID });
  const small = tile.getContext("2d");
  const image = small.createImageData(GRID, GRID);
  const ends = [rgb(palette.class0), rgb(palette.class1)];
  for (let i = 0; i < values.length; i++) {
    const side = values[i] > 0.5 ? 1 : 0;
    const sure = Math.abs(2 * values[i] - 1);
    image.data.set(ends[side], 4 * i);
    image.data[4 * i + 3] = 130 * sure;
  }
  small.putImageData(image, 0, 0);
  ctx.imageSmoothingEnabled = true;
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(tile, 0, 0, w, h);
  for (const { values: v, colour, dash, width, pale } of contours) {
    ctx.globalAlpha = pale ? 0.6 : 1;
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    contour(ctx, v, w / GRID, h / GRID);
  }
  ctx.globalAlpha = 1;
  ctx.setLineDash([]);
  const r = Math.max(1.8, Math.min(3.2, w / 95));
  for (const { x, y, n, opacity = 1, ringed } of sets) {
    ctx.globalAlpha = opacity;
    for (let i = 0; i < n; i++) {
      const px = ((x[2 * i] / EXTENT + 1) / 2) * w, py = ((1 - x[2 * i + 1] / EXTENT) / 2) * h;
      ctx.beginPath();
      // Two shapes, so that the classes don't hang on colour alone.
      if (y[i]) ctx.rect(px - 0.9 * r, py - 0.9 * r, 1.8 * r, 1.8 * r);
      else ctx.arc(px, py, r, 0, 7);
      ctx.fillStyle = y[i] ? palette.class1 : palette.class0;
      ctx.fill();
      ctx.lineWidth = 0.8;
      ctx.strokeStyle = palette.panel;
      ctx.stroke();
      if (ringed?.has(i)) {
        ctx.beginPath();
        ctx.arc(px, py, r + 3, 0, 7);
        ctx.lineWidth = 1.6;
        ctx.strokeStyle = palette.ink;
        ctx.stroke();
      }
    }
  }
  ctx.globalAlpha = 1;
}

/** The lines on which v (GRID, GRID) is ½, by marching squares between the centres of the cells, each drawn in one go. */
function contour(ctx, v, dx, dy) {
  const ends = new Map(); // an edge of the grid -> the edges that its crossing is joined to
  const join = (a, b) => { for (const [from, to] of [[a, b], [b, a]]) ends.set(from, [...(ends.get(from) ?? []), to]); };
  for (let r = 0; r + 1 < GRID; r++)
    for (let c = 0; c + 1 < GRID; c++) {
      const i = r * GRID + c;
      // the cell's edges: top, right, bottom, left; 2i lies to the right of point i, 2i + 1 below it
      const edges = [[2 * i, i, i + 1], [2 * i + 3, i + 1, i + GRID + 1], [2 * (i + GRID), i + GRID, i + GRID + 1], [2 * i + 1, i, i + GRID]];
      const cut = edges.filter(([, a, b]) => v[a] > 0.5 !== v[b] > 0.5);
      for (let k = 0; k + 1 < cut.length; k += 2) join(cut[k][0], cut[k + 1][0]);
    }
  const point = (edge) => {
    const i = edge >> 1, down = edge & 1, j = down ? i + GRID : i + 1;
    const t = (v[i] - 0.5) / (v[i] - v[j]);
    return [((i % GRID) + 0.5 + (down ? 0 : t)) * dx, (Math.floor(i / GRID) + 0.5 + (down ? t : 0)) * dy];
  };
  ctx.beginPath();
  // open lines from their ends first, then closed ones
  for (const start of [...[...ends.keys()].filter((edge) => ends.get(edge).length === 1), ...ends.keys()]) {
    if (!ends.get(start)?.length) continue;
    ctx.moveTo(...point(start));
    for (let at = start, next; (next = ends.get(at).pop()) !== undefined; at = next) {
      const back = ends.get(next);
      back.splice(back.indexOf(at), 1);
      ctx.lineTo(...point(next));
    }
  }
  ctx.stroke();
}

/** A sheet of test images; the wrongly read ones are framed and carry the answer given. */
export function drawDigits(canvas, { sets, columns }, palette, frame) {
  const to = prepare(canvas);
  if (!to) return;
  const { ctx, w } = to;
  const cell = w / columns, pixel = (0.8 * cell) / 8;
  const ink = rgb(palette.ink).join(" ");
  let index = 0;
  for (const { x, y, p, n, opacity = 1 } of sets) {
    for (let i = 0; i < n; i++, index++) {
      const left = (index % columns) * cell, top = Math.floor(index / columns) * cell;
      let said = 0;
      for (let k = 1; k < 10; k++) if (p[10 * i + k] > p[10 * i + said]) said = k;
      const wrong = said !== y[i];
      for (let k = 0; k < 64; k++) {
        const v = x[64 * i + k];
        if (!v) continue;
        ctx.fillStyle = `rgb(${ink} / ${opacity * v * (wrong ? 0.95 : 0.45)})`;
        ctx.fillRect(left + 0.1 * cell + (k % 8) * pixel, top + 0.1 * cell + Math.floor(k / 8) * pixel, pixel + 0.4, pixel + 0.4);
      }
      if (!wrong) continue;
      ctx.strokeStyle = frame;
      ctx.lineWidth = 2;
      ctx.strokeRect(left + 2, top + 2, cell - 4, cell - 4);
      const size = Math.max(9, cell * 0.3);
      ctx.fillStyle = palette.panel;
      ctx.fillRect(left + cell - size - 2, top + cell - size - 3, size, size + 1);
      ctx.font = `600 ${size}px ${palette.font}`;
      ctx.fillStyle = palette.ink;
      ctx.textAlign = "center";
      ctx.textBaseline = "alphabetic";
      ctx.fillText(String(said), left + cell - size / 2 - 2, top + cell - 4);
    }
  }
}

/** 1, 2 or 5 times a power of ten, the largest that is not above v. */
export function roundDown(v) {
  const power = 10 ** Math.floor(Math.log10(v));
  return (v / power >= 5 ? 5 : v / power >= 2 ? 2 : 1) * power;
}

/** The least 1, 1.5, 2, 3, 5 or 7.5 times a power of ten that is not below v. */
function roundUp(v) {
  const power = 10 ** Math.floor(Math.log10(v));
  return power * [1, 1.5, 2, 3, 5, 7.5, 10].find((m) => v / power <= m * (1 + 1e-9));
}

/**
 * A map of trajectories: map from Trajectory.map, styles one {colour, dash} a learner. view (kept by the caller)
 * holds the window shown; it widens at once and narrows slowly, so that the map does not jump.
 */
export function drawMap(canvas, map, styles, palette, view, calm) {
  const to = prepare(canvas);
  if (!to) return;
  const { ctx, w, h } = to;
  const { points, items } = map;
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < items.length; i++) {
    [x0, x1] = [Math.min(x0, points[2 * i]), Math.max(x1, points[2 * i])];
    [y0, y1] = [Math.min(y0, points[2 * i + 1]), Math.max(y1, points[2 * i + 1])];
  }
  const margin = 20, high = h - 14; // the bar has the rest
  const goal = [(x0 + x1) / 2, (y0 + y1) / 2];
  view.x = calm || view.x === undefined ? goal[0] : view.x + 0.35 * (goal[0] - view.x);
  view.y = calm || view.y === undefined ? goal[1] : view.y + 0.35 * (goal[1] - view.y);
  let need = Math.max((2 * Math.max(x1 - view.x, view.x - x0)) / (w - 2 * margin), (2 * Math.max(y1 - view.y, view.y - y0)) / (high - 2 * margin));
  if (need < 1e-12) need = 1e-3; // what differs by rounding alone lies on one point
  view.span = calm || view.span === undefined ? need : Math.max(need, view.span + 0.2 * (need - view.span));
  const place = (i) => [w / 2 + (points[2 * i] - view.x) / view.span, high / 2 - (points[2 * i + 1] - view.y) / view.span];
  styles.forEach(({ colour, dash }, learner) => {
    const path = items.flatMap((item, i) => (item.learner === learner ? [place(i)] : []));
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineJoin = "round";
    ctx.lineCap = learner ? "round" : "butt";
    // The first is broad and pale below the others, so that it still shows where they coincide.
    ctx.lineWidth = learner ? 1.8 : 3.4;
    ctx.globalAlpha = learner ? 1 : 0.6;
    ctx.setLineDash(dash);
    ctx.beginPath();
    path.forEach(([x, y], k) => ctx[k ? "lineTo" : "moveTo"](x, y));
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.setLineDash([]);
    const [sx, sy] = path[0], [ex, ey] = path[path.length - 1];
    ctx.beginPath();
    ctx.arc(sx, sy, 3.5, 0, 7);
    ctx.fillStyle = palette.panel;
    ctx.fill();
    ctx.lineWidth = 1.5;
    ctx.strokeStyle = palette.muted;
    ctx.stroke();
    ctx.beginPath();
    ctx.arc(ex, ey, learner ? 4.5 : 7, 0, 7);
    ctx.fillStyle = colour;
    ctx.fill();
    ctx.strokeStyle = palette.panel;
    ctx.stroke();
  });
  // a bar instead of axes: only distances mean something in such a map
  const length = roundDown(0.3 * w * view.span);
  const bar = length / view.span;
  ctx.strokeStyle = ctx.fillStyle = palette.muted;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.moveTo(10, h - 14);
  ctx.lineTo(10, h - 10);
  ctx.lineTo(10 + bar, h - 10);
  ctx.lineTo(10 + bar, h - 14);
  ctx.stroke();
  ctx.font = `11px ${palette.font}`;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillText(Number(length.toPrecision(1)).toString(), 16 + bar, h - 7);
  if (w < 220) return;
  ctx.textAlign = "right";
  ctx.fillText("○ start  ● now", w - 9, h - 7);
}

/**
 * Curves over steps. rows: [{step, values: one a curve}]; styles: one {colour, dash, faint, broad} a curve;
 * options: {low, high, log, percent, smooth, line: a level to mark, marks: [{step}], until}.
 */
export function drawChart(canvas, rows, styles, options, palette) {
  const to = prepare(canvas);
  if (!to) return;
  const { ctx, w, h } = to;
  const box = { left: 36, right: w - 10, top: 8, bottom: h - 18 };
  const ok = (v) => Number.isFinite(v) && (!options.log || v > 0);
  const values = rows.flatMap((row) => row.values.filter(ok));
  let low = options.low ?? (options.log ? Infinity : 0), high = options.high ?? -Infinity;
  for (const v of values) [low, high] = [Math.min(low, v), Math.max(high, v)];
  if (options.log) {
    low = 10 ** Math.floor(Math.log10(Math.min(low, 0.99) * 1.0001));
    high = 10 ** Math.ceil(Math.log10(Math.max(high, 1.01) * 0.9999));
  } else if (options.percent) low = Math.max(0, Math.floor(low * 10 - 1e-9) / 10);
  else high = high > 0 ? roundUp(high) : 1;
  const until = Math.max(options.until ?? 0, rows.length ? rows[rows.length - 1].step : 0, 20);
  const x = (step) => box.left + ((box.right - box.left) * step) / until;
  const scale = options.log ? Math.log : (v) => v;
  const y = (v) => box.bottom - ((box.bottom - box.top) * (scale(v) - scale(low))) / (scale(high) - scale(low));
  const label = (v) => (options.percent ? `${Math.round(100 * v)}%` : Number(v.toPrecision(2)).toString());

  ctx.font = `11px ${palette.font}`;
  ctx.lineWidth = 1;
  ctx.strokeStyle = palette.line;
  ctx.fillStyle = palette.muted;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  const ticks = options.log ? [low, 1, high].filter((v, i, all) => all.indexOf(v) === i) : [low, (low + high) / 2, high];
  for (const v of ticks) {
    ctx.beginPath();
    ctx.moveTo(box.left, y(v));
    ctx.lineTo(box.right, y(v));
    ctx.stroke();
    ctx.fillText(label(v), box.left - 5, y(v));
  }
  ctx.textBaseline = "alphabetic";
  ctx.fillText(until.toLocaleString("en"), box.right, h - 4);
  ctx.textAlign = "left";
  ctx.fillText("0", box.left, h - 4);
  for (const { step } of options.marks ?? []) { // where a control was moved
    ctx.setLineDash([2, 3]);
    ctx.strokeStyle = palette.muted;
    ctx.beginPath();
    ctx.moveTo(x(step), box.top);
    ctx.lineTo(x(step), box.bottom);
    ctx.stroke();
  }
  if (options.line !== undefined) {
    ctx.setLineDash([]);
    ctx.strokeStyle = palette.ink;
    ctx.beginPath();
    ctx.moveTo(box.left, y(options.line));
    ctx.lineTo(box.right, y(options.line));
    ctx.stroke();
  }
  ctx.lineJoin = "round";
  const curve = (values, { colour, dash, faint }, alpha, width) => {
    Object.assign(ctx, { strokeStyle: colour, globalAlpha: faint ? 0.55 : alpha, lineWidth: faint ? 1.2 : width });
    ctx.setLineDash(dash);
    ctx.beginPath();
    let pen = false;
    values.forEach((v, i) => {
      if (ok(v)) ctx[pen ? "lineTo" : "moveTo"](x(rows[i].step), y(Math.min(v, high)));
      pen = ok(v);
    });
    ctx.stroke();
  };
  styles.forEach((style, k) => {
    const own = rows.map((row) => row.values[k]);
    const [alpha, width] = style.broad ? [0.65, 3.2] : [1, 1.8]; // as in the maps
    if (options.smooth) curve(own, { ...style, dash: [] }, 0.22, 1);
    curve(options.smooth ? runningMean(own, ok, options.log) : own, style, alpha, width);
  });
  ctx.globalAlpha = 1;
  ctx.setLineDash([]);
}

/** Means over up to 15 neighbours, geometric for a logarithmic axis: single steps are noisy. */
function runningMean(values, ok, log) {
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - 7), i + 8).filter(ok);
    if (!near.length) return NaN;
    const mean = near.reduce((sum, v) => sum + (log ? Math.log(v) : v), 0) / near.length;
    return log ? Math.exp(mean) : mean;
  });
}
