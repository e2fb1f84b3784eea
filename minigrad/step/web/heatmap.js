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

function lightCells() {}
function clearLight() {}
