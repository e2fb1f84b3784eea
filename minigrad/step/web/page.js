"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const {steps, optimizer, nudges, tokens} = data;
const $ = id => document.getElementById(id);

// ---- small helpers -------------------------------------------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter(child => child != null && child !== false));
  return element;
}

function num(x, digits = 3) {                               // short: −0.0123, 1.2e−7, 4
  x = Number(x);
  if (!isFinite(x)) return isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text = Number.isInteger(x) && size < 1e6 ? `${x}` :
    size >= 1e6 || size < 1e-3 ? x.toExponential(digits - 1) : x.toPrecision(digits);
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replaceAll("-", "−").replace("e+", "e");
}

const index = at => `[${at.join(", ")}]`;
const dims = shape => shape.length ? shape.join(" × ") : "a scalar";
const visible = token => token.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const sum = (xs, f) => xs.reduce((total, x) => total + f(x), 0);

const store = {                                             // a browser may refuse it to a page from disk
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* then it is forgotten with the page */ } },
};

// ---- arrays --------------------------------------------------------------------------------------------------------

function half(bits) {                                       // IEEE 754 binary16
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function array(position) {                                  // of data.arrays; decoded when it is first shown
  const a = data.arrays[position];
  if (a.panels !== undefined || !a.shape.length) return a;
  const [R, C] = [a.shape.at(-2) ?? 1, a.shape.at(-1)];
  const stride = a.stride ?? [1, 1, 1], kept = (n, s) => Math.ceil(n / s);
  a.full = [sizeOf(a.shape.slice(0, -2)), R, C];
  [a.panels, a.rows, a.columns] = a.full.map((n, k) => kept(n, stride[k]));
  a.steps = stride;
  if (a.ints) a.numbers = Float64Array.from(a.ints);
  else {
    const bytes = atob(a.half), unit = Number(a.max) || 1;
    a.numbers = new Float64Array(bytes.length / 2);
    for (let k = 0; k < a.numbers.length; k++)
      a.numbers[k] = half(bytes.charCodeAt(2 * k) | bytes.charCodeAt(2 * k + 1) << 8) * unit;
  }
  return a;
}

const sizeOf = shape => shape.reduce((n, k) => n * k, 1);

function trueIndex(a, panel, row, column) {                 // of a cell of a heat map, in the whole array
  let rest = panel * a.steps[0];
  const leading = [];
  for (const n of a.shape.slice(0, -2).reverse()) {
    leading.unshift(rest % n);
    rest = Math.floor(rest / n);
  }
  return [...leading, ...a.shape.length > 1 ? [row * a.steps[1]] : [], column * a.steps[2]];
}

function cellOf(a, at) {                                    // the cell that shows this index, or of a sample the one nearest before it
  const flat = a.shape.slice(0, -2).reduce((k, n, axis) => k * n + at[axis], 0);
  const row = a.shape.length > 1 ? at.at(-2) : 0;
  return [flat, row, at.at(-1)].map((k, axis) => Math.floor(k / a.steps[axis]));
}

// ---- heat maps -----------------------------------------------------------------------------------------------------

let palette;                                                // 511 colours from the most negative to the most positive

function makePalette() {
  const style = getComputedStyle(document.documentElement);
  const rgb = name => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map(h => parseInt(h, 16));
  const [low, zero, high] = ["--negative", "--zero", "--positive"].map(rgb);
  const [soft, ink, mono] = ["--soft", "--ink", "--mono"].map(name => style.getPropertyValue(name));
  const pixel = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;                // as ImageData keeps it
  palette = {mask: pixel(rgb("--mask")), bad: pixel([255, 230, 0]), soft, ink, mono, ramp: new Uint32Array(511)};
  for (let k = -255; k <= 255; k++) {
    const end = k < 0 ? low : high, t = Math.abs(k) / 255;
    palette.ramp[255 + k] = pixel(zero.map((z, c) => Math.round(z + (end[c] - z) * t)));
  }
  for (const a of data.arrays) a.images = {};
}

// space for a heat map in pixels: for one panel and for several side by side; the largest height / width of a cell
const LARGE = {width: 440, height: 260, panel: 150, panels: 900, tall: 4};
const SMALL = {width: 200, height: 104, panel: 50, panels: 330, tall: 2};
const THIRD = {width: 205, height: 200, panel: 50, panels: 220, tall: 4};

function heatmap(name, position, options = {}) {
  // options: to (the input whose gradient it is; with from, the input whose value it is), tag, isNew, size; explained:
  // the indices that this page can explain; explain: called with an index
  const a = array(position), {to, from, tag, isNew, size = LARGE, explained = [], explain} = options;
  const caption = el("figcaption", {}, el("b", {}, name), el("span", {class: "shape"}, dims(a.shape)),
    tag && el("span", {class: "shape"}, tag), to && el("div", {class: "to"}, from ? "from " : "→ ", to));
  const figure = el("figure", {class: isNew ? "new" : ""}, caption);
  if (!a.shape.length) { figure.append(el("div", {class: "number"}, num(a.value, 4))); return figure; }
  if (!sizeOf(a.shape)) { figure.append(el("div", {class: "reading"}, "empty")); return figure; }

  const summary = `max ${num(a.max)} · norm ${num(a.norm)}`;
  const reading = el("output", {class: "reading"}, summary);
  const labelled = `${name}${to ? `, ${from ? "from" : "gradient of"} ${to}` : ""}: heat map of ${dims(a.shape)}, ` +
    `largest magnitude ${num(a.max)}, norm ${num(a.norm)}, mean ${num(a.mean)}`;
  const panels = el("div", {class: "panels" + (explained.length ? " explained" : ""), tabindex: 0, role: "group",
    "aria-label": labelled + ". Arrow keys read its values" + (explained.length ? ", Enter explains one" : "")});
  const layout = arrange(a, size), marks = explained.map(at => cellOf(a, at).join());
  for (let p = 0; p < a.panels; p++) {
    const head = a.panels > 1 || a.full[0] > 1 ? index(trueIndex(a, p, 0, 0).slice(0, -2)) : "";
    panels.append(el("div", {class: "panel"}, head, paint(a, p, layout, marks, labelled)));
  }
  figure.append(panels, reading);
  if (a.stride) {
    const axes = a.full[0] > 1 ? [0, 1, 2] : [1, 2], kept = [a.panels, a.rows, a.columns];
    reading.after(el("div", {class: "note"},
      `sampled ${axes.map(k => kept[k]).join(" × ")} of ${axes.map(k => a.full[k]).join(" × ")}`));
  }
  hoverAndKeys(a, panels, reading, summary, layout, explained, explain);
  return figure;
}

function arrange(a, size) {                                 // the size of a cell, and space for the tokens
  const available = ($("right").clientWidth || 800) - 20, T = tokens?.length;
  const perPanel = a.panels === 1 ? Math.min(available, size.width) :
    Math.max(size.panel, Math.min(available, size.panels) / Math.min(a.panels, 4) - 12);
  const byRow = a.shape.length > 1 && a.full[1] === T, byColumn = a.full[2] === T;
  const room = tokens ? Math.min(56, 7 + 6 * Math.max(...tokens.map(t => visible(t).length))) : 0;
  const left = byRow ? room : 0;
  const whole = x => x >= 2 ? Math.floor(x) : x;
  let w = whole(Math.min(18, (perPanel - left) / a.columns));
  let h = a.rows === 1 ? 20 : whole(Math.min(18, size.height / a.rows));
  if (a.rows > 1) [w, h] = [Math.min(w, 3 * h), Math.min(h, size.tall * w)];
  return {w, h, left: h >= 8 ? left : 0, top: byColumn && w >= 8 ? (room <= w + 6 ? 13 : room) : 0};
}

function image(a, panel) {                                  // a pixel for each number, and the numbers that are NaN or infinity
  const {rows, columns, numbers} = a, size = rows * columns, unit = Number(a.max) || 1, bad = [];
  const canvas = document.createElement("canvas"), colors = new Uint32Array(size);
  [canvas.width, canvas.height] = [columns, rows];
  for (let k = 0; k < size; k++) {
    const x = numbers[panel * size + k];
    if (isFinite(x)) {
      const share = Math.min(Math.sqrt(Math.abs(x) / unit), 1);
      colors[k] = palette.ramp[255 + Math.round(x < 0 ? -255 * share : 255 * share)];
    } else if (a.mask !== undefined && !isNaN(x)) colors[k] = palette.mask;
    else { colors[k] = palette.bad; bad.push(k); }
  }
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(colors.buffer), columns, rows), 0, 0);
  return {canvas, bad};
}

function paint(a, panel, {w, h, left, top}, marks, label) {
  const {rows, columns} = a, {canvas: small, bad} = a.images[panel] ??= image(a, panel);
  const dense = window.devicePixelRatio || 1, wide = left + columns * w, high = top + rows * h;
  const canvas = el("canvas", {role: "img", "aria-label": label,
    width: Math.ceil(wide * dense), height: Math.ceil(high * dense), style: `width:${wide}px;height:${high}px`});
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, columns * w, rows * h);
  pen.strokeStyle = palette.soft;
  pen.globalAlpha = .35;
  pen.strokeRect(left + .5, top + .5, columns * w - 1, rows * h - 1);
  pen.globalAlpha = 1;
  pen.strokeStyle = "#000";                                 // NaN and infinity: a black cross on yellow
  for (const k of bad.slice(0, 4000)) {
    const x = left + k % columns * w, y = top + Math.floor(k / columns) * h;
    pen.beginPath();
    pen.moveTo(x, y); pen.lineTo(x + w, y + h); pen.moveTo(x + w, y); pen.lineTo(x, y + h);
    pen.stroke();
  }
  pen.strokeStyle = palette.ink;
  for (const mark of marks) {
    const [p, row, column] = mark.split(",").map(Number), r = Math.max(2, Math.min(w, h) / 4);
    if (p !== panel) continue;
    pen.beginPath();
    pen.arc(left + (column + .5) * w, top + (row + .5) * h, r, 0, 7);
    pen.stroke();
  }
  pen.font = `10px ${palette.mono}`;
  pen.fillStyle = palette.soft;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  const token = k => visible(tokens[k]).slice(0, 8);
  if (left) for (let r = 0; r < rows; r++) pen.fillText(token(r * a.steps[1]), left - 4, top + (r + .5) * h);
  if (top) for (let c = 0; c < columns; c++) {
    pen.save();
    pen.translate(left + (c + .5) * w, top > 13 ? top - 3 : top - 7);
    pen.textAlign = top > 13 ? "left" : "center";
    if (top > 13) pen.rotate(-Math.PI / 2);
    pen.fillText(token(c * a.steps[2]), 0, 0);
    pen.restore();
  }
  return canvas;
}

function hoverAndKeys(a, panels, reading, summary, {w, h, left, top}, explained, explain) {
  const cursor = el("i");
  let cell = null;
  const clear = () => { cell = null; cursor.remove(); reading.textContent = summary; };
  const show = (p, row, column) => {
    cell = [p, row, column];
    const below = panels.children[p].querySelector("canvas").offsetTop;
    cursor.style.cssText = `left:${left + column * w - 1.5}px;top:${below + top + row * h - 1.5}px;` +
      `width:${w + 3}px;height:${h + 3}px`;
    panels.children[p].append(cursor);
    const at = trueIndex(a, p, row, column), x = a.numbers[(p * a.rows + row) * a.columns + column];
    const names = [...a.shape.length > 1 && a.full[1] === tokens?.length ? [tokens[at.at(-2)]] : [],
      ...a.full[2] === tokens?.length ? [tokens[at.at(-1)]] : []].map(t => `“${visible(t)}”`);
    const known = explained.find(other => cellOf(a, other).join() === cell.join());
    reading.textContent = `${index(at)} = ${a.mask !== undefined && !isFinite(x) ? num(a.mask) + ", masked" : num(x)}` +
      (names.length ? `  ${names.join(" ")}` : "") + (known ? `  · why ${index(known)}?` : "");
  };
  const under = event => {
    const p = [...panels.children].findIndex(panel => panel.contains(event.target));
    if (p < 0 || event.target.tagName !== "CANVAS") return;
    const box = event.target.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - top) / h);
    const column = Math.floor((event.clientX - box.left - left) / w);
    if (row >= 0 && column >= 0 && row < a.rows && column < a.columns) return [p, row, column];
  };
  panels.onmousemove = event => { const over = under(event); if (over) show(...over); };
  panels.onmouseleave = panels.onblur = clear;
  panels.onclick = event => { const over = under(event); if (over && explain) explain(trueIndex(a, ...over)); };
  panels.onkeydown = event => {
    const move = {ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
      PageUp: [-1, 0, 0], PageDown: [1, 0, 0]}[event.key];
    if (event.key === "Enter" && cell && explain) explain(trueIndex(a, ...cell));
    if (event.key === "Escape") panels.blur();
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const limits = [a.panels, a.rows, a.columns];
    show(...(cell ?? [0, 0, 0]).map((k, axis) => Math.max(0, Math.min(limits[axis] - 1, k + (cell ? move[axis] : 0)))));
  };
}

// ---- positions: forward f0, f1, ...; backward b0, b1, ...; the nudges n; the optimizer's updates u0, u1, ... -------

const KINDS = {f: "Forward", b: "Backward", n: "Nudge", u: "Update"};
const positions = [
  ...steps.map((_, k) => ({kind: "f", k: steps.length - 1 - k})), ...steps.map((_, k) => ({kind: "b", k})),
  ...nudges.length ? [{kind: "n", k: 0}] : [], ...(optimizer?.updates ?? []).map((_, k) => ({kind: "u", k})),
];
const find = (kind, k = 0) => positions.findIndex(s => s.kind === kind && s.k === k);
const state = {at: find("b"), line: 0, pick: 0, trail: [], quiz: false, unfolded: new Set()};
const here = () => positions[state.at];
const listingOf = ({kind, k}) => kind === "n" ? {lines: []} : kind === "u" ? optimizer.updates[k] :
  steps[k][kind === "f" ? "forward" : "backward"];
const title = ({kind, k}) => kind === "n" ? "nudges" : kind === "u" ? `${optimizer.op} → ${optimizer.updates[k].leaf}` :
  steps[k].name === steps[k].op ? steps[k].op : `${steps[k].op} → ${steps[k].name}`;

function called(s) {                                        // steps are counted from 0, as in Python
  const n = steps.length - 1;
  if (s.kind === "n") return "nudges";
  return {f: `forward ${n - s.k} of ${n}`, b: `step ${s.k} of ${n}`,
    u: `update ${s.k} of ${optimizer?.updates.length - 1}`}[s.kind] + `: ${title(s)}`;
}

function address() {
  const {kind, k} = here();
  return `#${kind}${k}${state.line || state.pick ? `.${state.line}` : ""}${state.pick ? `.${state.pick}` : ""}`;
}

function go(at, line = 0, pick = 0, trail = []) {           // line 0: the op as a whole; n: after its n-th line
  at = Math.max(0, Math.min(positions.length - 1, at));
  if (at !== state.at) state.unfolded = new Set();
  Object.assign(state, {at, line: Math.min(line, listingOf(positions[at]).lines.length), pick, trail});
  draw();
  if (!data.embedded && location.hash !== address()) location.hash = address();
}

function goTo(kind, k, line, pick, trail) { go(find(kind, k), line, pick, trail); }

function fromHash() {
  const found = /^#([fbnu])(\d+)(?:\.(\d+))?(?:\.(\d+))?$/.exec(location.hash);
  if (!found || location.hash === address()) return;
  const at = find(found[1], Number(found[2]));
  if (at >= 0) go(at, Number(found[3] ?? 0), Number(found[4] ?? 0));
}

function nextLine() {
  if (state.line < listingOf(here()).lines.length) go(state.at, state.line + 1, state.pick);
  else if (state.at + 1 < positions.length) go(state.at + 1, 1);
}

function previousLine() {
  if (state.line > 1) go(state.at, state.line - 1, state.pick);
  else if (state.at > 0) go(state.at - 1, Infinity);
}

const sameKind = () => positions.flatMap((s, at) => s.kind === here().kind ? [at] : []);

// ---- breakpoints: the same words as loss.backward_steps(until=...) -------------------------------------------------

function namesOf(step) {
  const parts = step.name === step.op ? [] : step.name.split(".");
  const modules = parts.map((_, k) => parts.slice(0, k + 1).join("."));
  return new Set([step.op, ...modules, ...step.inputs.map(x => x.leaf).filter(Boolean)]);
}

const allNames = [...new Set(steps.flatMap(s => [...namesOf(s)]))].sort();

function stops(text) {
  const bound = /^norm\s*>\s*(\S+)$/.exec(text);
  if (text === "bad") return s => !s.checks.length || s.checks.some(row => !row.ok);
  if (text === "nan") return s => s.bad_origin !== "";
  if (bound && isFinite(bound[1])) {
    return s => s.inputs.some(x => "gradient" in x && norm(x.gradient) > Number(bound[1]));
  }
  if (allNames.includes(text)) return s => namesOf(s).has(text);
}

const norm = position => { const a = data.arrays[position]; return Math.abs(Number(a.norm ?? a.value)); };

function distance(a, b) {                                   // Levenshtein's
  let row = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      row.push(Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] !== b[j - 1])));
    }
  }
  return row[b.length];
}

function runTo(text) {
  const stop = stops(text);
  if (!stop) {
    const nearest = [...allNames].sort((a, b) => distance(a, text) - distance(b, text)).slice(0, 3);
    return say(`nothing here is called “${text}”; nearest: ${nearest.join(", ")}`);
  }
  const kind = here().kind === "f" ? "f" : "b", start = here().kind === kind ? state.at + 1 : find("b");
  const at = positions.findIndex((s, k) => k >= start && s.kind === kind && stop(steps[s.k]));
  if (at < 0) return say(`no later step stops at “${text}”`);
  go(at);
}

const say = text => { $("message").textContent = text; };

// ---- the graph -----------------------------------------------------------------------------------------------------

const FOLD_FROM = 60, WIDE = 86, GAP = 16, HIGH = 36;

function moduleOf(step) {                                   // the module that a node is folded into: "h.0"
  return step.name === step.op ? "" : /^(.*?\.?\d+)(?:\.|$)/.exec(step.name)?.[1] ?? "";
}

function columnsOfGraph(current) {                          // a column for each node or folded module, in the order of the forward
  const columns = [];
  for (const k of [...steps.keys()].reverse()) {
    const module = moduleOf(steps[k]), before = columns.at(-1);
    const fold = steps.length > FOLD_FROM && module && !state.unfolded.has(module) &&
      !(current != null && moduleOf(steps[current]) === module);
    if (fold && before?.fold && before.module === module) before.nodes.push(k);
    else columns.push({module, nodes: [k], fold});
  }
  return columns;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const clip = (text, n) => text.length > n ? "…" + text.slice(1 - n) : text;

let graph = {};                                             // the drawing, until a module folds or unfolds

function drawGraph() {
  const {kind, k} = here(), current = kind === "f" || kind === "b" ? k : null;
  const columns = columnsOfGraph(current), folds = columns.map(c => c.nodes.length).join();
  if (graph.folds !== folds) graph = {folds, ...builtGraph(columns)};

  const leafNow = kind === "u" ? optimizer.updates[k].leaf : "";
  const inputs = new Set(current == null ? [] : steps[current].inputs.map(i => i.source));
  const done = n => kind === "f" ? n > k : kind === "b" ? n < k : true;
  for (const {path, users} of graph.edges) {
    path.setAttribute("class", users.has(current) ? "edge lit" : "edge");
    if (users.has(current)) graph.boxes[0].link.before(path);       // in front of the others
  }
  graph.boxes.forEach(({link, nodes, fold, title, name}) => {
    const status = [nodes.includes(current) ? "now" : nodes.every(done) ? "done" : "to do",
      nodes.some(n => inputs.has(n)) && "input", fold && "folded",
      nodes.some(n => steps[n].checks.some(row => !row.ok)) && "failed"].filter(Boolean);
    link.setAttribute("class", status.join(" "));
    title.textContent = `${name}, ${status.join(", ")}`;
  });
  for (const {box, leaf, node} of graph.leaves)
    box.setAttribute("class", node === current || leaf === leafNow ? "leaf lit" : "leaf");
  const lit = columns.findIndex(({nodes}) => nodes.includes(current) ||
    nodes.length === 1 && steps[nodes[0]].inputs.some(x => x.leaf && x.leaf === leafNow));
  if (lit >= 0) $("graph").scrollLeft = GAP + lit * (WIDE + GAP) + WIDE / 2 - $("graph").clientWidth / 2;
}

function builtGraph(columns) {
  const where = new Map(columns.flatMap((c, x) => c.nodes.map(n => [n, x])));
  const left = x => GAP + x * (WIDE + GAP), middle = x => left(x) + WIDE / 2, top = 62;
  const leavesOf = columns.map(c => c.fold ? [] : steps[c.nodes[0]].inputs.filter(x => x.leaf).slice(0, 4));
  const width = left(columns.length), height = top + HIGH + 10 + Math.max(0, ...leavesOf.map(l => l.length)) * 19;
  const root = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group"});

  const users = new Map();                                  // "from to", two columns -> the nodes of the second that use one of the first
  for (const [n, step] of steps.entries()) for (const x of step.inputs) {
    if (x.source == null || where.get(x.source) === where.get(n)) continue;
    const key = `${where.get(x.source)} ${where.get(n)}`;
    users.set(key, (users.get(key) ?? new Set()).add(n));
  }
  const edges = [...users].map(([key, users]) => {
    const [from, to] = key.split(" ").map(Number), far = to - from, y = top - Math.min(30, 7 + 3 * far);
    const path = svg("path", {d: far === 1 ? `M${left(from) + WIDE} ${top + HIGH / 2}H${left(to)}` :
      `M${middle(from) + 12} ${top}C${middle(from) + 40} ${y - 10} ${middle(to) - 40} ${y - 10} ${middle(to) - 12} ${top}`});
    root.append(path);
    return {path, users};
  });
  let x = 0;
  while (x < columns.length) {                              // a line over the nodes of a module
    let end = x;
    while (end + 1 < columns.length && columns[end + 1].module === columns[x].module) end++;
    if (columns[x].module && !columns[x].fold) root.append(
      svg("path", {class: "edge module", d: `M${left(x)} 17H${left(end) + WIDE}`}),
      ...Array.from({length: Math.ceil((end - x + 1) / 8)}, (_, part) =>
        svg("text", {class: "small", x: left(x + part * 8) + 12, y: 12}, columns[x].module)));
    x = end + 1;
  }
  const leaves = [], boxes = columns.map(({module, nodes, fold}, c) => {
    const n = nodes[0], step = steps[n], title = svg("title", {});
    const [first, second] = fold ? [module, plural(nodes.length, "op")] :
      [step.op, step.name === step.op ? dims(Object.values(step.outputs).map(o => data.arrays[o].shape)[0]) : step.name];
    const link = svg("a", {tabindex: -1, href: `#b${n}`}, title,
      svg("rect", {x: left(c), y: top, width: WIDE, height: HIGH, rx: 6}),
      svg("text", {x: middle(c), y: top + 15}, first.length > 13 ? first.slice(0, 12) + "…" : first),
      svg("text", {class: "small", x: middle(c), y: top + 29}, clip(second, 13)));
    link.onclick = event => {
      event.preventDefault();
      if (fold) { state.unfolded.add(module); drawGraph(); } else goTo(here().kind === "f" ? "f" : "b", n);
    };
    root.append(link);
    leavesOf[c].forEach(({leaf, shape}, row) => {
      const y = top + HIGH + 6 + row * 19, box = svg("g", {}, svg("title", {}, `${leaf}, ${dims(shape)}`),
        svg("rect", {x: left(c), y, width: WIDE, height: 16, rx: 8}),
        svg("text", {class: "small", x: middle(c), y: y + 11.5}, clip(leaf.split(".").slice(-2).join("."), 15)));
      root.append(box);
      leaves.push({box, leaf, node: n});
    });
    return {link, nodes, fold, title, name: fold ? module : called({kind: "b", k: n})};
  });
  $("graph").replaceChildren(root);
  return {edges, boxes, leaves};
}

// ---- the left column: checks, formula, source ----------------------------------------------------------------------

function mathml(text) { const box = el("div", {class: "formula", tabindex: 0}); box.innerHTML = text; return box; }

function sourceOf(listing, line, onLine, remark = () => "") {
  const ran = listing.lines.slice(0, line), [first, last] = ran.at(-1) ?? [-1, -1];
  const rows = listing.source.split("\n").map((text, n) => {
    const stop = listing.lines.findIndex(([a, b]) => a <= n && n <= b) + 1, split = /^(.*?)(\s*#.*)?$/.exec(text);
    const isNow = n >= first && n <= last, status = isNow ? "now" : ran.some(([a, b]) => a <= n && n <= b) ? "ran" : "";
    return el("div", {class: status + (stop ? " stop" : ""), "aria-current": isNow && "step",
      onclick: stop && (() => onLine(stop))}, split[1] || " ", el("i", {}, split[2]?.replace(/^\s+/, "  ") ?? ""), remark(n));
  });
  return el("pre", {tabindex: 0, "aria-label": "source"}, rows);
}

function verdicts(step) {
  const names = [...new Set(step.checks.map(row => row.of))];
  return el("div", {class: "verdicts"}, names.length > 0 && el("span", {class: "note"}, "gradient check"), names.map(name => {
    const rows = step.checks.filter(row => row.of === name), ok = rows.every(row => row.ok);
    const detail = rows.map(row => `${row.check}: ${row.detail || `relative error ${num(row.error, 2)}`}`).join("\n");
    return el("span", {class: `verdict ${ok ? "good" : "bad"}`, title: detail},
      `${ok ? "✓" : "✗"} ${name} ${ok ? `passed, relative error ${num(rows[0].error, 2)}` : "failed"}`);
  }));
}

function drawLeft(step, kind) {
  const formula = data.formulas[step.op], listing = listingOf(here()), backward = kind === "b";
  const failures = step.checks.filter(row => !row.ok).map(row => el("p", {class: "alert"}, row.detail));
  const identity = step.identity && el("p", {class: "say"}, el("span", {class: step.identity.ok ? "good" : "bad"},
    step.identity.ok ? "✓ identity verified: " : "✗ identity violated: "), step.identity.words,
    el("div", {class: "where"}, `${step.identity.expression}  (residual ${num(step.identity.residual, 2)})`));
  $("left").replaceChildren(
    el("h2", {}, step.op, step.name !== step.op && el("span", {}, " → ", step.name)),
    el("p", {class: "where"}, `called at ${step.at}`),
    ...backward ? [verdicts(step), ...failures] : [],
    ...step.bad_origin ? [el("p", {class: "alert"}, `NaN or infinity: ${step.bad_origin}`)] : [],
    mathml(formula[kind === "f" ? "forward" : "backward"]),
    el("h3", {}, `source of the ${KINDS[kind].toLowerCase()}`, el("span", {class: "where"}, listing.place)),
    sourceOf(listing, state.line, n => go(state.at, n)),
    ...listing.note ? [el("p", {class: "note"}, listing.note)] : [],
    ...formula.why ? [el("p", {class: "say"}, formula.why)] : [],
    ...backward && identity ? [identity] : [],
    ...step.kernel ? [el("p", {class: "note"}, step.kernel)] : []);
}

// ---- the right column: arrays --------------------------------------------------------------------------------------

function section(name, figures, legend) {
  return [el("h3", {}, name, legend && el("span", {class: "legend"}, "−max", el("i"), "+max, signed square root")),
    el("div", {class: "figures"}, figures)];
}

const GRADIENTS = "gradients with respect to the inputs", UPSTREAM = "upstream gradient and saved arrays";

function upstreamAndSaved(step) {
  return [...Object.entries(step.dys).map(([name, a]) => heatmap(name, a, {size: SMALL})),
    ...Object.entries(step.saved).map(([name, a]) => heatmap(name, a, {size: SMALL, tag: "saved"}))];
}

function drawRight(step, kind) {                            // the newest arrays on top
  const {lines} = listingOf(here()), n = lines.length, forward = kind === "f";
  const whole = state.line === 0 || state.line === n, isNew = state.line > 0;
  const given = !forward ? upstreamAndSaved(step) :
    step.inputs.map(x => heatmap(x.name, x.value, {to: x.label, from: true, size: SMALL}));
  const results = !whole ? [] : forward ? Object.entries(step.outputs).map(([name, a]) => heatmap(name, a, {isNew})) :
    step.inputs.flatMap((x, i) => "gradient" in x ? [gradientOf(x, i)] : []);
  const finals = !whole ? [] : forward ? Object.values(step.outputs) : step.inputs.map(x => x.gradient);
  const computed = (k, size) => Object.entries(lines[k - 1][2]).filter(([, a]) => !finals.includes(a)).map(
    ([name, a]) => heatmap(name, a, {tag: `line ${k}`, isNew: size === LARGE, size}));
  const last = state.line || n, newest = state.line ? computed(last, LARGE) : [];
  const before = Array.from({length: state.line ? last - 1 : last}, (_, k) => computed(k + 1, SMALL)).flat();
  const parts = [
    [`line ${last} of ${n} computed`, newest], [forward ? "outputs" : GRADIENTS, results],
    ["intermediate values", before], [forward ? "inputs" : UPSTREAM, given]].filter(([, figures]) => figures.length);
  if (!newest.length && !results.length) parts.unshift([`line ${last} of ${n} computed no array`, []]);
  $("right").replaceChildren(...parts.flatMap(([name, figures], k) => section(name, figures, k === 0)));
}

const whyOf = (step, input, at) => data.whys[`${step}:${input}:${at.join()}`];
const explainable = {};                                     // "step:input" -> indices that have an answer
for (const key of Object.keys(data.whys)) {
  const [step, input, at] = key.split(":");
  (explainable[`${step}:${input}`] ??= []).push(at ? at.split(",").map(Number) : []);
}

function gradientOf(x, i) {
  const k = here().k, a = array(x.gradient), explained = explainable[`${k}:${i}`] ?? [], name = `d${x.name}`;
  const explain = at => {
    const found = explained.find(other => other.join() === at.join()) ??
      explained.find(other => cellOf(a, other).join() === cellOf(a, at).join());
    openWhy([{step: k, input: i, at: found ?? at}]);
  };
  const size = "earlier" in x ? THIRD : LARGE;
  const figure = heatmap(name, x.gradient, {to: x.label, explained, explain, isNew: state.line > 0, size});
  if (explained.length) figure.append(el("div", {class: "chips"}, "why?", explained.slice(0, 4).map(at =>
    el("button", {onclick: () => openWhy([{step: k, input: i, at}])}, index(at)))));
  if (!("earlier" in x)) return figure;
  return el("div", {class: "sum"}, heatmap("earlier", x.earlier, {to: x.label, size: THIRD}), el("span", {}, "+"), figure,
    el("span", {}, "="), heatmap("sum", x.sum, {to: x.label, size: THIRD}));
}

// ---- why: one number by the chain rule, followed from term to term up to the loss ----------------------------------

function openWhy(trail) {
  const {step} = trail.at(-1);
  if (here().kind === "b" && here().k === step) { state.trail = trail; drawWhy(); } else goTo("b", step, 0, 0, trail);
}

function gradientName({step, input, at}) { return `d${steps[step].inputs[input].name}${at.length ? index(at) : ""}`; }

function whyLink(words, trail) {                            // pale where this page has no answer
  const {step, input, at} = trail.at(-1);
  return el("a", {href: `#b${step}`, class: whyOf(step, input, at) ? "" : "pale",
    onclick: event => { event.preventDefault(); openWhy(trail); }}, words);
}

function closeWhy() { state.trail = []; drawWhy(); }

function drawWhy() {
  const panel = $("why"), element = state.trail.at(-1);
  panel.hidden = !element;
  if (!element) return;
  const {step, input, at} = element, answer = whyOf(step, input, at);
  const crumbs = state.trail.flatMap((t, n) => [n ? " › " : "",
    n === state.trail.length - 1 ? el("b", {}, gradientName(t)) :
      whyLink(gradientName(t), state.trail.slice(0, n + 1)),
    el("span", {}, ` ${steps[t.step].inputs[t.input].leaf || steps[t.step].name}`)]);
  const atLoss = answer && !data.embedded && !answer.terms.some(t => t.uses.length);
  panel.replaceChildren(el("button", {class: "close", onclick: closeWhy}, "close"),
    el("div", {class: "crumbs"}, crumbs, atLoss ? " › the loss" : ""));
  if (!answer) {
    panel.append(el("p", {}, `Why ${gradientName(element)}? This page explains only the largest entries: `,
      (explainable[`${step}:${input}`] ?? []).slice(0, 6).flatMap(other =>
        [whyLink(index(other), [...state.trail.slice(0, -1), {step, input, at: other}]), " "]),
      "The terminal and step.why() explain any entry."));
    return;
  }
  const largest = Math.max(...answer.terms.map(t => Math.abs(t.product))), outputs = Object.keys(steps[step].outputs);
  const name = steps[step].inputs[input].name;
  panel.append(
    el("p", {class: "say"}, "Why is ", el("b", {}, `${gradientName(element)} = ${num(answer.value, 4)}`),
      "? By the chain rule it is the sum of ", el("code", {}, `∂y/∂${name}`), " × ", el("code", {}, "dy"), ` over the ` +
      `${plural(answer.count, "element")} y of the output that depend on this element of ${name}:`),
    el("div", {class: "scroll"}, el("table", {},
      header(["y", "local derivative", "", "upstream gradient", "", "product", "", data.embedded ? "" :
        "upstream gradient from"], [1, 3, 5]),
      answer.terms.map(t => el("tr", {}, el("td", {class: "n"}, `${outputs[t.out]}${t.at.length ? index(t.at) : ""}`),
        el("td", {class: "n"}, num(t.derivative, 4)), el("td", {}, "×"), el("td", {class: "n"}, num(t.dy, 4)),
        el("td", {}, "="), el("td", {class: "n"}, num(t.product, 4)),
        el("td", {}, bars([[Math.abs(t.product) / largest, "actual"]])),
        el("td", {}, t.uses.length ? t.uses.map(([s, i], n) => [n ? " + " : "",
          whyLink(`${steps[s].op} (step ${s})`, [...state.trail, {step: s, input: i, at: t.at}])]) :
          data.embedded ? "" : "the loss itself: 1"))))),
    el("p", {class: "note"}, `Sum of the terms shown: ${num(sum(answer.terms, t => t.product), 5)}. ` +
      `Sum of all ${plural(answer.count, "term")}: ${num(answer.total, 5)}. Recorded: ${num(answer.value, 5)}.`));
}

const header = (names, numeric) => el("tr", {}, names.map(
  (name, c) => el("th", {class: numeric.includes(c) ? "n" : ""}, name)));
const bars = widths => el("div", {class: "bars"}, widths.map(([share, name]) =>
  el("i", {class: name, style: `width:${Math.max(1, 100 * share)}%`})));

const beside = ({predicted, actual}, largest) =>
  bars([[Math.abs(predicted) / largest, "predicted"], [Math.abs(actual) / largest, "actual"]]);

// ---- nudge: the predicted change of the loss, beside the actual one ------------------------------------------------

function drawNudges() {
  const largest = Math.max(...nudges.flatMap(n => [Math.abs(n.predicted), Math.abs(n.actual)])) || 1;
  $("left").replaceChildren(el("h2", {}, "Nudge"),
    el("p", {class: "say"}, "A gradient predicts how much the loss changes when one number changes a little. Here a ",
      "number is changed and the forward runs again. These are the largest entries of each gradient; each number is ",
      "changed by a thousandth of the root mean square of its tensor."));
  $("right").replaceChildren(el("p", {class: "note"}, el("span", {class: "key predicted"}), "predicted change of the loss: gradient × nudge ",
    el("span", {class: "key actual"}), "actual change"),
    el("div", {class: "scroll"}, el("table", {},
      header(["number", "gradient", "nudge", "predicted", "actual", "actual / predicted", ""], [1, 2, 3, 4, 5]),
      nudges.map((n, row) => el("tr", {class: nudges[row - 1]?.leaf !== n.leaf ? "group" : ""},
        el("td", {}, n.leaf, el("span", {class: "shape"}, index(n.at))),
        [n.gradient, n.delta, n.predicted, n.actual].map(x => el("td", {class: "n"}, num(x))),
        el("td", {class: "n"}, (n.actual / n.predicted).toFixed(4)),
        el("td", {}, beside(n, largest)))))));
}

// ---- the optimizer's step ------------------------------------------------------------------------------------------

function drawUpdate(k) {
  const update = optimizer.updates[k], pick = Math.min(state.pick, Math.max(update.picks.length - 1, 0));
  const at = update.picks[pick];
  const formula = data.formulas[optimizer.op], after = state.line || update.lines.length;
  const values = n => update.lines.slice(0, after).filter(([, last]) => last === n).flatMap(([, , computed]) =>
    Object.entries(computed).map(([name, xs]) => el("span", {class: "value"}, `    ${name} = ${num(xs[pick], 5)}`)));
  const largest = Math.max(...optimizer.updates.flatMap(u => [Math.abs(u.predicted), Math.abs(u.actual)])) || 1;
  const row = (name, u, status) => el("tr", {class: status}, el("td", {}, name), [u.predicted, u.actual].map(x =>
    el("td", {class: "n"}, num(x))), el("td", {}, status === "total" ? null :
    beside(u, largest)));
  $("left").replaceChildren(el("h2", {}, optimizer.op, el("span", {}, " → ", update.leaf)),
    el("p", {class: "note"}, "one step of the optimizer, computed in float64; no parameter has changed"),
    ...optimizer.clip ? [el("p", {class: "say"}, "Clipping: ", optimizer.clip)] : [],
    el("h3", {}, "change of the loss"),
    el("p", {class: "note"}, el("span", {class: "key predicted"}), "predicted: sum of gradient × change ",
      el("span", {class: "key actual"}), "actual, if only that tensor is updated"),
    el("div", {class: "scroll"}, el("table", {}, header(["tensor", "predicted", "actual", ""], [1, 2]),
      row("all tensors at once", optimizer, "total"),
      optimizer.updates.map((u, n) => row(el("a", {href: `#u${n}`}, u.leaf), u, n === k ? "now" : "")))));
  $("right").replaceChildren(...!at ? [el("p", {class: "note"}, "The gradient of this tensor is zero.")] : [
      el("h3", {}, "the arithmetic of one weight", el("span", {class: "where"}, update.place)),
      el("div", {class: "chips"}, update.leaf, update.picks.map((p, n) => el("button",
        {"aria-pressed": String(n === pick), onclick: () => go(state.at, state.line, n)}, index(p)))),
      el("p", {class: "given"}, Object.entries(update.given).map(
        ([name, xs]) => el("span", {}, `${name} = ${num(xs[pick], 5)}`))),
      sourceOf(update, state.line, n => go(state.at, n, pick), values)],
    mathml(formula.forward), ...formula.why ? [el("p", {class: "say"}, formula.why)] : [],
    ...section("update of each weight", [heatmap("p_new − p", update.change, {to: update.leaf})], true));
}

// ---- quiz: predict a gradient before it is shown -------------------------------------------------------------------

const QUIZ = `quiz: ${data.title}, ${steps.length} steps`;
const answers = JSON.parse(store.get(QUIZ) ?? "{}");        // "step:question" -> the given answer and the right one

function shuffled(xs, seed) {                               // in the same order for the same seed
  return xs.map((x, n) => [(n * 7 + seed * 5 + 3) % 11, x]).sort((a, b) => a[0] - b[0]).map(pair => pair[1]);
}

function questionsOf(k) {                                   // about one of the gradients that a step makes
  const step = steps[k], wanted = step.inputs.flatMap((x, i) => "gradient" in x ? [i] : []);
  if (!wanted.length) return [];
  const i = wanted[k % wanted.length], x = step.inputs[i], name = `d${x.name}`;
  const four = (right, others, seed) => shuffled([...new Set([right, ...others])].slice(0, 4), seed);

  const arrays = Object.values({...step.dys, ...step.saved}).map(a => data.arrays[a].shape);
  const shapes = [[...x.shape].reverse(), ...step.inputs.map(y => y.shape), ...arrays, x.shape.slice(1), [...x.shape, 2]];
  const found = [{key: `${k}:shape`, text: `What is the shape of ${name}?`, right: dims(x.shape),
    options: four(dims(x.shape), shapes.map(dims), k)}];

  const at = explainable[`${k}:${i}`]?.[0], why = at && whyOf(k, i, at);
  if (why?.terms.length) found.push({key: `${k}:sign`, right: why.value > 0 ? "+" : "−", options: ["+", "−"],
    text: `What is the sign of ${name}${at.length ? index(at) : ""}? The largest of its ${plural(why.count, "term")} is a ` +
      `local derivative of ${num(why.terms[0].derivative)} times an upstream gradient of ${num(why.terms[0].dy)}.`});

  const isSame = y => "gradient" in y && (x.leaf ? y.leaf === x.leaf : x.source != null && y.source === x.source);
  const others = [...steps.keys()].filter(n => n !== k && steps[n].inputs.some(isSame));
  const stepName = n => `${title({kind: "b", k: n})} (step ${n})`, none = "none: this is the whole gradient";
  const right = others.length ? stepName(others[0]) : none;
  const wrong = [1, 2, 5].map(d => (k + d) % steps.length).filter(n => n !== k && !others.includes(n));
  found.push({key: `${k}:other`, right, options: four(right, [none, ...wrong.map(stepName)], k + 1),
    text: `Which other step ${others[0] < k ? "has added" : "adds"} to the gradient of ${x.label}?`});
  return found;
}

const hiddenByQuiz = () => state.quiz && here().kind === "b" && questionsOf(here().k).some(q => !answers[q.key]);

function drawQuiz() {
  const questions = questionsOf(here().k), open = questions.findIndex(q => !answers[q.key]);
  const rows = questions.slice(0, open < 0 ? undefined : open + 1).map(q => {
    const given = answers[q.key];
    return el("div", {class: "question"}, el("p", {class: "say"}, q.text), given ?
      given.given === q.right ? el("p", {class: "good"}, `✓ ${q.right}`) :
        el("p", {class: "bad"}, `✗ not ${given.given}, but ${q.right}`) :
      el("div", {class: "answers"}, q.options.map(option => el("button", {onclick: () => {
        answers[q.key] = {given: option, right: q.right};
        store.set(QUIZ, JSON.stringify(answers));
        draw();
        $("right").querySelector(".answers button")?.focus();
      }}, option))));
  });
  const n = questions.length;
  return [el("h3", {}, `quiz: ${open < 0 ? n : open} of ${n} answered`), ...rows,
    el("p", {class: "note"}, `${rightly().length} right of ${Object.keys(answers).length} so far. `,
      el("button", {onclick: showScore}, "Show the score as JSON"))];
}

const rightly = () => Object.values(answers).filter(a => a.given === a.right);

function showScore() {
  const score = {page: data.title, steps: steps.length, asked: Object.keys(answers).length,
    right: rightly().length, answers};
  overlay(el("h2", {}, "Score"), el("textarea", {readonly: true, "aria-label": "score"}, JSON.stringify(score, null, 1)));
}

// ---- drawing -------------------------------------------------------------------------------------------------------

function draw() {
  const {kind, k} = here(), n = listingOf(here()).lines.length;
  say("");
  for (const tab of $("tabs").children) tab.setAttribute("aria-current", tab.dataset.kind === kind);
  $("jump").value = state.at;
  $("quiz").setAttribute("aria-pressed", state.quiz);
  drawGraph();
  if (kind === "n") drawNudges();
  else if (kind === "u") drawUpdate(k);
  else if (hiddenByQuiz()) {
    state.line = 0;
    drawLeft({...steps[k], checks: [], identity: null}, kind);
    $("right").replaceChildren(...drawQuiz(), ...section(UPSTREAM, upstreamAndSaved(steps[k]), true));
  } else {
    drawLeft(steps[k], kind);
    drawRight(steps[k], kind);
    if (state.quiz && kind === "b") $("right").append(...drawQuiz());
  }
  drawWhy();
  const computed = state.line ? Object.keys(listingOf(here()).lines[state.line - 1][2]).join(", ") : "";
  $("live").textContent = called(here()) +
    (state.line ? `, line ${state.line} of ${n}${computed ? `, computed ${computed}` : ""}` : "");
}

function overlay(...children) {
  $("overlay").replaceChildren(...children, el("p", {}, el("button", {onclick: () => $("overlay").close()}, "Close")));
  $("overlay").showModal();
}

function showHelp() {
  const does = [["← →", "previous, next op"], ["↑ ↓", "previous, next line"], ["Home End", "first, last"],
    ["f d n u", "forward, backward, nudge, update"], ["b", "run to a breakpoint"],
    ["w", "why: explain the largest entry of a gradient"], ["q", "quiz on and off"], ["Esc", "close"], ["?", "this"]];
  overlay(el("h2", {}, "Keys"), el("table", {}, does.map(([names, what]) => el("tr", {},
    el("td", {}, names.split(" ").map(name => [el("kbd", {}, name), " "])), el("td", {}, what)))),
    el("p", {class: "note"}, "Tab goes to the next heat map; arrow keys then read its values. Circles mark the ",
      "entries that “why” explains. A breakpoint is an op, a module, a parameter, “bad” (a check failed), “nan”, or ",
      "“norm > 3”. The address of the page contains the step and the line."));
}

function toggleQuiz() { state.quiz = !state.quiz; state.trail = []; draw(); }

function useTheme(name) {
  document.documentElement.dataset.theme = name;
  makePalette();
}

function otherTheme() {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  store.set("theme", name);
  useTheme(name);
  draw();
}

// ---- keys and buttons ----------------------------------------------------------------------------------------------

const actions = {
  first: () => go(sameKind()[0]), last: () => go(sameKind().at(-1)),
  previous: () => go(state.at - 1), next: () => go(state.at + 1), up: previousLine, down: nextLine, quiz: toggleQuiz, help: showHelp,
  theme: otherTheme,
};
for (const [id, action] of Object.entries(actions)) $(id).onclick = action;
$("jump").onchange = () => go(Number($("jump").value));
$("until").onsubmit = event => { event.preventDefault(); runTo($("breakpoint").value.trim()); };

const keys = {
  ArrowLeft: actions.previous, ArrowRight: actions.next, ArrowUp: previousLine, ArrowDown: nextLine,
  Home: actions.first, End: actions.last, b: () => $("breakpoint").focus(), q: toggleQuiz, "?": showHelp, Escape: closeWhy,
  w: () => document.querySelector("#right .chips button")?.click(),
  f: () => tab("f"), d: () => tab("b"), n: () => tab("n"), u: () => tab("u"),
};
document.onkeydown = event => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || $("overlay").open;
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
};

function tab(kind) {                                        // forward and backward of the same op
  const {kind: old, k} = here(), same = "fb".includes(kind) && "fb".includes(old) ? find(kind, k) : -1;
  const at = same >= 0 ? same : positions.findIndex(s => s.kind === kind);
  if (at >= 0) go(at);
}

function start() {
  document.title = data.title || "stepper";
  $("title").append(el("b", {}, data.title || "one backward, step by step"),
    data.loss == null ? "" : `  ·  loss ${num(data.loss, 4)}`);
  $("tabs").append(...[...new Set(positions.map(s => s.kind))].map(
    kind => el("button", {"data-kind": kind, onclick: () => tab(kind)}, KINDS[kind])));
  $("jump").append(...positions.map((s, at) => el("option", {value: at}, called(s))));
  $("names").append(...["bad", "nan", ...allNames].map(value => el("option", {value})));
  $("notes").append(...[...data.notes, ...data.omitted].map(text => el("li", {}, text)));
  useTheme(store.get("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  window.onhashchange = fromHash;
  window.onresize = () => draw();
  let before;                                               // print on white
  window.onbeforeprint = () => { before = document.documentElement.dataset.theme; useTheme("light"); draw(); };
  window.onafterprint = () => { useTheme(before); draw(); };
  if (!data.embedded && location.hash) fromHash();
  draw();
}

start();
