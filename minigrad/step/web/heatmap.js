// ---- heat maps -----------------------------------------------------------------------------------------------------

let palette;                                                // 511 colours from the most negative to the most positive

function makePalette() {
  const style = getComputedStyle(document.documentElement);
  const rgb = name => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map(h => parseInt(h, 16));
  const [low, zero, high, mask] = ["--negative", "--zero", "--positive", "--mask"].map(rgb);
  const [soft, mono] = ["--soft", "--mono"].map(name => style.getPropertyValue(name));
  const pixel = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;                // as ImageData keeps it
  palette = {mask: pixel(mask), bad: pixel([255, 230, 0]), zero: pixel(zero), soft, mono, ramp: new Uint32Array(511)};
  for (let k = -255; k <= 255; k++) {
    const end = k < 0 ? low : high, t = Math.abs(k) / 255;
    palette.ramp[255 + k] = pixel(zero.map((z, c) => Math.round(z + (end[c] - z) * t)));
  }
  for (const a of data.arrays) Object.assign(a, {images: {}, transpose: undefined});
}

// space for a heat map in pixels: for one panel and for several side by side; whether its indices are shown
const LARGE = {width: 440, height: 280, panel: 150, panels: 900, indices: true};
const SMALL = {width: 200, height: 110, panel: 50, panels: 330};
const THIRD = {width: 205, height: 200, panel: 50, panels: 220};

const ROUND = [1, 2, 5].flatMap(n => [...Array(9).keys()].map(k => n * 10 ** k)).sort((a, b) => a - b);

const type = () => parseFloat(getComputedStyle(document.body).fontSize) / 15;           // larger for a projector
const room = () => ($("right").clientWidth || 800) - 20;     // the width of the column
const lettersWide = n => 7.3 * type() * n;

function heatmap(name, position, options = {}) {
  // options: to (the input whose gradient it is; with from, the input whose value it is), tag, isNew, size; axes: their
  // names; unit: the largest magnitude of the colour scale; scale: words for its legend; panel: the only one that is
  // shown; transpose: show the last two axes exchanged, a vector upright; asks: {name, line} of the array that a click
  // asks about; largest: how many of its largest entries get a button that asks about them
  const whole = array(position), a = options.transpose && whole.shape.length ? transposed(whole) : whole;
  const {to, from, tag, isNew, size = LARGE, asks, panel} = options;
  let axes = options.axes ?? axesOf(asks?.name ?? name, whole.shape);
  if (options.transpose) axes = swapped(axes, "");
  const shape = panel === undefined ? dims(a.shape) : a.shape.slice(-2).join(" × ");
  const caption = el("figcaption", {}, el("b", {}, name), shape && el("span", {class: "shape"}, shape),
    tag && el("span", {class: "shape"}, tag), to && el("div", {class: "to"}, from ? "from " : "→ ", to));
  const figure = el("figure", {class: isNew ? "new" : null, "data-name": asks?.name ?? name, "data-line": asks?.line,
    "data-whole": panel === undefined || a.panels === 1}, caption);
  if (!a.shape.length) { figure.append(scalar(a, figure, asks)); return figure; }
  if (!sizeOf(a.shape)) { figure.append(el("div", {class: "reading"}, "empty")); return figure; }

  const shown = panel === undefined ? [...Array(a.panels).keys()] : [panel % a.panels];
  const written = texts(a, shown.length), layout = arrange(a, size, axes, shown.length, written);
  if (layout.written && written.factor) caption.append(el("span", {class: "shape"}, `numbers × ${written.factor}`));
  const unit = options.unit ?? (Number(a.max) || 1), reading = el("output", {class: "reading"});
  const lengths = a.shape.map((n, k) => axes[k] ? `${n} (${axes[k]})` : n).join(" × ");
  const labelled = `${name}${to ? `, ${from ? "from" : "gradient of"} ${to}` : ""}: ` +
    `${a.ints ? "numbers" : "heat map"} of ${lengths}, ` + (a.constant ? `all ${num(a.numbers[0])}` :
    `largest magnitude ${num(a.max)}, norm ${num(a.norm)}, mean ${num(a.mean)}`);
  const panels = el("div", {class: "panels" + (asks ? " asks" : ""), tabindex: 0, role: "group",
    "aria-label": labelled + ". Arrow keys read its values" + (asks ? ", Enter asks why" : "")});
  shown.forEach((p, n) => panels.append(el("div", {class: "panel"}, panel === undefined && panelName(a, axes, p),
    paint(a, p, unit, axes, n && !size.indices ? {...layout, ...layout.bare} : layout, written, labelled))));
  if (a.ints || a.constant || a.mask !== undefined) figure.classList.add("neutral");
  if (a.numbers.some(a.mask === undefined ? x => !isFinite(x) : isNaN)) figure.classList.add("cross");
  figure.append(panels, reading, legendOf(a, unit, options.scale, !size.cell));
  if (a.stride) {
    const all = a.full[0] > 1 ? [0, 1, 2] : [1, 2], kept = [a.panels, a.rows, a.columns];
    figure.append(el("div", {class: "note"},
      `sampled ${all.map(k => kept[k]).join(" × ")} of ${all.map(k => a.full[k]).join(" × ")}`));
  }
  if (options.largest) figure.append(whyButtons(a, asks, axes, options.largest));
  readsAndAsks(figure, {a, axes, shown, name, panels, reading, asks, whole});
  return figure;
}

function scalar(a, figure, asks) {                          // one number instead of a heat map
  const {kind, k} = here(), text = num(a.value, 4);
  const number = !asks ? el("div", {class: "number"}, text) : el("button", {class: "number", title: `why ${asks.name}?`,
    onclick: () => askWhy({kind, k, ...asks, at: []})}, text);
  figure.panelOf = () => undefined;
  figure.light = () => number.classList.add("lit");
  return number;
}

function panelName(a, axes, p) {                            // "head 2"; "" for the only panel
  if (a.full[0] === 1) return "";
  const at = trueIndex(a, p, 0, 0).slice(0, -2), long = at.map((_, k) => k).filter(k => a.shape[k] > 1);
  return long.every(k => axes[k]) ? long.map(k => inWords(axes[k], at[k])).join(", ") : index(at);
}

function legendOf(a, unit, words, norm) {                   // of the colour scale of a heat map; perhaps with the norm
  if (a.constant) return el("div", {class: "scale"}, `all ${num(a.numbers[0])}`);
  if (!a.numbers.some(isFinite)) return el("div", {class: "scale"}, "all NaN or infinite");
  return a.ints ? "" : el("div", {class: "scale"}, words ?? [el("i"), `±${num(unit)}`],
    norm && el("span", {}, `norm ${num(a.norm)}`));
}

// ---- the numbers in the cells --------------------------------------------------------------------------------------

function texts(a, panels) {
  // the text of each number, if they are few enough to be read: wide enough for the longest; factor: "1e−4" where the
  // numbers are written in units of it. Floats have the same number of decimals, so that magnitudes can be compared.
  const few = a.columns <= 8 && a.rows <= 8 || a.rows === 1 && a.columns <= 32;
  if (panels > 4 || !(few || a.ints && a.rows <= 32 && a.columns <= 32)) return;
  const exponent = Math.floor(Math.log10(Number(a.max) || 1));
  const apart = !a.ints && !a.constant && (exponent < -2 || exponent > 4);
  const decimals = a.ints || a.numbers.every(Number.isInteger) ? 0 : apart ? 2 : Math.max(0, 2 - exponent);
  const factor = apart ? 10 ** exponent : 1;
  const text = x => !isFinite(x) ? num(a.mask === undefined || isNaN(x) ? x : a.mask) : x === 0 ? "0" :
    a.constant ? num(x, 4) : (x / factor).toFixed(decimals).replace("-", "−");
  const words = Array.from(a.numbers, text);
  return {words, few, longest: Math.max(...words.map(word => word.length)),
    factor: apart && `1e${exponent}`.replace("-", "−")};
}

function inkOn(pixel) {                                     // black or white: the one of higher contrast (WCAG 2.2)
  const linear = [0, 8, 16].map(shift => (pixel >> shift & 255) / 255).map(
    c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2] > .179 ? "#000" : "#fff";
}

// ---- sizes ---------------------------------------------------------------------------------------------------------

function arrange(a, size, axes, panels, written) {          // the size of a cell, and space for names and labels
  const available = room(), line = 15 * type();
  const perPanel = panels === 1 ? Math.min(available, size.width) :
    Math.max(size.panel, Math.min(available, size.panels) / Math.min(panels, 4) - 12);
  const long = (axis, n) => a.shape.length + axis >= 0 && n > 1;        // this axis exists and has several indices
  const side = (axis, full, n) => !long(axis, full) ? null : {name: axes.at(axis) || `axis ${a.shape.length + axis}`,
    words: labelsOf(axes.at(axis)).length > 0, labels: labelsAt(axes.at(axis), n, a.steps[3 + axis], size)};
  const rows = side(-2, a.full[1], a.rows), columns = side(-1, a.full[2], a.columns);
  const widest = labels => Math.max(0, ...labels.map(columnsOf));
  let left = !rows ? 0 : line + (rows.labels.length ? lettersWide(widest(rows.labels)) + 5 : 0);

  const wide = written && lettersWide(written.longest) * 1.08 + 8;
  const fits = Math.max(wide, 24) * a.columns + left <= Math.max(available, perPanel);
  let w, h, writes = written?.few && fits;
  if (writes) [w, h] = [Math.max(wide, 24), 24 * type()];
  else {
    const whole = x => x >= 2 ? Math.floor(x) : x, most = 18 * type();
    w = h = Math.min(size.cell ?? most, whole(Math.min(most, (perPanel - left) / a.columns, size.height / a.rows)));
    if (a.rows === 1) [w, h] = [whole(Math.min(most, (perPanel - left) / a.columns)), 20];
    if (w * a.columns < 24) w = whole(Math.min(most, 24 / a.columns, (perPanel - left) / a.columns));
    if (h * a.rows < 16) h = whole(16 / a.rows);
    writes = written && wide - 6 <= w && h >= line - 1;
  }
  // every how many rows and columns a label fits; more than five are too far apart for words, but not for indices
  const thin = (side, cell, needed) => {
    const every = Math.ceil(needed / cell);
    return side.words ? every > 5 ? 0 : every : ROUND.find(n => n >= every);
  };
  let everyRow = 0, everyColumn = 0, turned = false, above = 0, over = 0;
  if (rows?.labels.length) everyRow = thin(rows, h, line - 1);
  if (!everyRow) left = rows ? line : 0;
  if (columns?.labels.length) {
    const letters = widest(columns.labels);
    turned = columns.words && letters > 2 && lettersWide(letters) + 4 > w;
    everyColumn = thin(columns, w, turned ? line - 1 : lettersWide(letters) + (letters > 1 ? 5 : 1));
    if (!turned) over = Math.max(0, (lettersWide(letters) - w) / 2);
    if (everyColumn && !turned) left = Math.max(left, (lettersWide(columnsOf(columns.labels[0])) - w) / 2);
    if (everyColumn) above = turned ? lettersWide(letters) + 4 : line;
  }
  const top = (columns ? line : 0) + above || (everyRow ? Math.max(0, (line - h) / 2) : 0);
  return {w, h, left, top, rows, columns, everyRow, everyColumn, turned, over, written: writes,
    bare: {left: 0, rows: null, columns: null, everyRow: 0, everyColumn: 0}};
}

function labelsAt(axis, n, step, size) {                    // the labels of an axis at the shown indices, or these
  const known = labelsOf(axis);
  if (!known.length && !size.indices) return [];
  return Array.from({length: n}, (_, k) => known.length ? [...visible(known[k * step] ?? "")].slice(0, 8).join("") : `${k * step}`);
}

const columnsOf = text => sum([...text], c => /[\u1100-\uffdc]|\p{Extended_Pictographic}/u.test(c) ? 2 : 1);    // in letters

// ---- painting ------------------------------------------------------------------------------------------------------

function image(a, panel, unit) {                            // a pixel for each number; which ones are NaN or infinity
  const {rows, columns, numbers} = a, size = rows * columns, bad = [];
  const canvas = document.createElement("canvas"), colors = new Uint32Array(size);
  [canvas.width, canvas.height] = [columns, rows];
  for (let k = 0; k < size; k++) {
    const x = numbers[panel * size + k];
    if (isFinite(x)) {
      const share = Math.min(Math.sqrt(Math.abs(x) / unit), 1);
      colors[k] = a.ints ? x ? palette.mask : palette.zero : a.constant ? palette.mask :
        palette.ramp[255 + Math.round(x < 0 ? -255 * share : 255 * share)];
    } else if (a.mask !== undefined && !isNaN(x)) colors[k] = palette.mask;
    else { colors[k] = palette.bad; bad.push(k); }
  }
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(colors.buffer), columns, rows), 0, 0);
  return {canvas, bad, colors};
}

function paint(a, panel, unit, axes, layout, written, label) {
  const {w, h, left, top} = layout, {rows, columns} = a;
  const {canvas: small, bad, colors} = a.images[`${panel} ${unit}`] ??= image(a, panel, unit);
  const dense = window.devicePixelRatio || 1;
  const below = layout.everyRow ? Math.max(0, 7 * type() - h / 2) : 0;                  // of the last row's label
  const nameWide = name => name ? lettersWide(name.length + 2) : 0;
  const wide = Math.max(left + columns * w + layout.over, left + nameWide(layout.columns?.name));
  const high = Math.max(top + rows * h + below, top + nameWide(layout.rows?.name));
  const canvas = el("canvas", {role: "img", "aria-label": label,
    width: Math.ceil(wide * dense), height: Math.ceil(high * dense), style: `width:${wide}px;height:${high}px`});
  Object.assign(canvas, {cell: {w, h, left, top}});
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, columns * w, rows * h);
  pen.strokeStyle = palette.soft;
  pen.globalAlpha = .35;
  pen.strokeRect(left + .5, top + .5, columns * w - 1, rows * h - 1);
  pen.globalAlpha = 1;
  if (layout.written) {
    pen.font = `${13 * type()}px ${palette.mono}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let k = 0; k < rows * columns; k++) {
      pen.fillStyle = inkOn(colors[k]);
      pen.fillText(written.words[panel * rows * columns + k], left + (k % columns + .5) * w,
        top + (Math.floor(k / columns) + .5) * h + 1);
    }
  } else paintCrosses(pen, bad, layout, columns);
  paintSides(pen, layout, rows, columns);
  return canvas;
}

function paintCrosses(pen, bad, {w, h, left, top}, columns) {           // NaN and infinity: black on yellow
  pen.strokeStyle = "#000";
  for (const k of bad.slice(0, 4000)) {
    const x = left + k % columns * w, y = top + Math.floor(k / columns) * h;
    pen.beginPath();
    pen.moveTo(x, y); pen.lineTo(x + w, y + h); pen.moveTo(x + w, y); pen.lineTo(x, y + h);
    pen.stroke();
  }
}

function paintSides(pen, {w, h, left, top, rows, columns, everyRow, everyColumn, turned}, nRows, nColumns) {
  const line = 15 * type();                                 // names of the axes, and labels of their indices
  const put = (text, x, y, angle, align) => {
    pen.save();
    pen.translate(x, y);
    pen.rotate(angle);
    pen.textAlign = align;
    pen.fillText(text, 0, 0);
    pen.restore();
  };
  pen.font = `${12 * type()}px ${palette.mono}`;
  pen.fillStyle = palette.soft;
  pen.textBaseline = "middle";
  if (columns) put(`${columns.name} →`, left, line / 2, 0, "left");
  if (rows) put(rows.name, line / 2, top, -Math.PI / 2, "right");
  if (everyRow) for (let r = 0; r < nRows; r += everyRow) put(rows.labels[r], left - 5, top + (r + .5) * h, 0, "right");
  if (everyColumn) for (let c = 0; c < nColumns; c += everyColumn) {
    const x = left + (c + .5) * w;
    if (turned) put(columns.labels[c], x, top - 4, -Math.PI / 2, "left");
    else put(columns.labels[c], x, top - line / 2, 0, "center");
  }
}
