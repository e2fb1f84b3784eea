// ---- a line as a picture: its operands, the operators between them, its result ---------------------------------------

const BINDS = {"+": 1, "-": 1, neg: 2, "*": 3, "/": 3, "@": 3, "**": 4};                // how strongly; all else: 5
const PICTURE = {width: Infinity, height: 300, indices: true};
state.panel = 0;                                            // the panel that they show of arrays that have several
const MOST_FIGURES = 8;                                     // in one picture; beyond it, parts are drawn as one array each
const strength = node => BINDS[node.op] ?? 5;
const isScalar = node => !node.shape?.length;
const isView = node => ["reshape", "broadcast"].includes(node.op);      // the same numbers
const isTransposed = node => node.op === "transpose" && node.of[0].op === "array" && node.shape.length > 1 &&
  node.axes.every((axis, k, axes) => axis === (k < axes.length - 2 ? k : 2 * axes.length - 3 - k));

const signOf = node => node.op === "*" ? node.of.some(isScalar) ? "×" : "⊙" :
  {"-": "−", "@": "·", "**": "^"}[node.op] ?? node.op;

function axesOfNode(node) {                                 // the names of its axes; "" where unknown
  const unknown = (node.shape ?? []).map(() => ""), of = node.of?.map(child => ({shape: child.shape ?? [], axes: axesOfNode(child)}));
  if (node.op === "array") return axesOf(node.name, node.shape);
  if (!of?.length) return unknown;
  if (node.op === "@") return of[0].axes.length > 1 && of[1].axes.length > 1 ? [...of[0].axes.slice(0, -1), of[1].axes.at(-1)] : unknown;
  if (node.op === "transpose") return node.axes.map(axis => of[0].axes[axis]);
  if (node.op === "reshape" || node.op === "index") return node.shape.join() === of[0].shape.join() ? of[0].axes : unknown;
  if ("keepdims" in node && !node.keepdims) return of[0].axes.filter((_, axis) => !summed(node).includes(axis));
  return unknown.map((_, k) => of.map(child => child.axes.at(k - unknown.length) ?? "").find(Boolean) ?? "");
}

const summed = ({axes, of: [x]}) => (axes ?? x.shape.map((_, k) => k)).map(axis => axis < 0 ? axis + x.shape.length : axis);

function reduction(node) {                                  // "Σ over key"
  const over = axesOfNode(node.of[0]), n = over.length;
  const names = summed(node).filter(axis => node.of[0].shape[axis] > 1).map(axis => over[axis] || `axis ${axis}`);
  return `${node.op === "sum" ? "Σ" : node.op}${names.length && n > 1 ? ` over ${names.join(", ")}` : ""}`;
}

function wordsOf(node) {                                    // as text: "Σ over key of dP ⊙ P"
  const inside = (child, least) => strength(child) < least ? `(${wordsOf(child)})` : wordsOf(child);
  const binds = strength(node), [a, b] = node.of ?? [];
  if (node.op === "array") return node.name;
  if (node.op === "number") return numberText(node);
  if (isView(node)) return wordsOf(a);
  if (node.op === "neg") return `−${inside(a, binds + 1)}`;
  if (binds < 5) return `${inside(a, binds)} ${signOf(node)} ${inside(b, binds + 1)}`;
  if (node.op === "transpose") return `${inside(a, 5)}ᵀ`;
  if (node.op === "index") return node.text ?? `${inside(a, 5)}[…]`;
  if ("keepdims" in node) return `${reduction(node)} of ${inside(a, 3)}`;
  return `${node.op}(${(node.of ?? []).map(wordsOf).join(", ")})`;
}

const numberText = node => node.text ?? num(node.value);

// The picture as a list: figures {node, scale}, where the figures of one sum share an object `scale`, and signs.
function partsOf(node, scale, whole) {
  const [a, b] = node.of ?? [], binds = strength(node);
  const inside = (child, least, shared) => {
    const parts = partsOf(child, shared, whole), bare = isView(child) ? child.of[0] : child;
    return strength(bare) < least && parts.length > 1 ? ["(", ...parts, ")"] : parts;
  };
  if (node.op === "array" || node.op === "number" || isTransposed(node)) return [{node, scale}];
  if (isView(node)) return partsOf(a, scale, whole);
  if ("a" in node && (binds === 5 || !whole)) return [{node, scale}];
  if (node.op === "+" || node.op === "-") {
    const shared = scale ?? {};
    return [...inside(a, binds, shared), signOf(node), ...inside(b, binds + 1, shared)];
  }
  if (node.op === "neg") return ["−", ...inside(a, binds + 1, scale)];
  if (binds < 5) return [...inside(a, binds), signOf(node), ...inside(b, binds + 1)];
  const name = node.op === "transpose" ? "transposed" : node.op === "index" ? node.text ?? "rows of" :
    "keepdims" in node ? reduction(node) : node.op;
  return [`${name} (`, ...(node.of ?? []).flatMap((child, k) => [...k ? [","] : [], ...partsOf(child, undefined, whole)]), ")"];
}

function inPicture(tree) {                                  // its parts, unless it is no computation
  if (isView(tree)) return inPicture(tree.of[0]);
  let parts = partsOf(tree, undefined, true);
  if (parts.filter(part => part.node).length > MOST_FIGURES) parts = partsOf(tree, undefined, false);
  return parts.length > 1 ? parts : null;
}

const magnitude = a => a.shape.length ? Number(a.max) : Math.abs(Number(a.value));
const arrayOf = node => "a" in node ? array(node.a) : isTransposed(node) ? array(node.of[0].a) : null;

function picture(name, tree, position, options) {           // null where the line computes nothing: it only names an array
  const parts = inPicture(tree);
  if (!parts) return null;
  const top = isView(tree) ? tree.of[0] : tree, figures = parts.filter(part => part.node), result = array(position);
  const ofSum = ["+", "-"].includes(top.op) ? figures.find(part => part.scale)?.scale : undefined;
  const drawn = [...figures, {scale: ofSum, result}];
  for (const {node, scale, result} of drawn) {
    if (!scale) continue;
    const a = result ?? arrayOf(node);
    scale.unit = Math.max(scale.unit ?? 0, a ? magnitude(a) : 0);
    scale.figures = (scale.figures ?? 0) + (a?.shape.length ? 1 : 0);
  }
  const arrays = drawn.map(({node, result}) => result ?? arrayOf(node)).filter(a => a?.shape.length);
  PICTURE.cell = cellThatFits(arrays, 30 * (parts.length - arrays.length + 2));
  const panels = Math.max(1, ...arrays.map(a => a.panels));
  const shown = {panel: state.panel % panels, size: PICTURE};
  const show = ({node, scale}) => {
    if (node.op === "number") return el("span", {class: "sign"}, numberText(node));
    const a = arrayOf(node), base = isTransposed(node) ? node.of[0] : node;
    if (!a) return el("span", {class: "sign"}, wordsOf(node));
    const line = base.op === "array" ? base.line ?? options.lineOf(base.name) : undefined;
    return heatmap(wordsOf(node), base.a, {...shown, ...shared(scale), axes: axesOfNode(base), transpose: base !== node,
      asks: line === undefined ? undefined : {name: base.name, line}});
  };
  const shared = scale => {
    if (!(scale?.figures > 1)) return {};
    const first = !scale.seen;
    scale.seen = true;
    return {unit: scale.unit || 1, scale: first ? undefined : "same scale"};
  };
  const row = parts.map(part => part.node ? show(part) : el("span", {class: "sign"}, part));
  const last = heatmap(name, position, {...options.figure, ...shown, ...shared(ofSum)});
  return el("div", {class: "picture"}, panels > 1 && panelChooser(result, name, options.figure),
    el("div", {class: "equation"}, row, el("span", {class: "sign"}, "="), last));
}

function cellThatFits(arrays, others) {                     // the size of a cell: all of a picture in one row, or two, or three
  const width = ($("right").clientWidth || 800) - 20;
  const total = cell => others + sum(arrays, a => 20 + Math.max(110, 45 + a.columns * cell));
  const tallest = Math.max(...arrays.map(a => a.rows)), most = rows => Math.floor(Math.min(18, 300 / rows / tallest));
  for (const [rows, least] of [[1, 5], [2, 4], [3, 3]])
    for (let cell = most(rows); cell >= least; cell--) if (total(cell) <= width * rows * (rows > 1 ? .85 : 1)) return cell;
  return 3;
}

// ---- which of several panels the pictures show ---------------------------------------------------------------------

function panelChooser(a, name, {asks}) {                    // small maps of all panels: "head 2"
  const axes = axesOf(asks?.name ?? name, a.shape);
  return el("div", {class: "chooser", role: "group", "aria-label": `panel of ${name}`}, Array.from({length: a.panels}, (_, p) => {
    const words = panelName(a, axes, p), canvas = el("canvas", {"aria-hidden": true, width: a.columns, height: a.rows});
    canvas.getContext("2d").drawImage((a.images[`${p} ${Number(a.max) || 1}`] ??= image(a, p, Number(a.max) || 1)).canvas, 0, 0);
    return el("button", {"aria-pressed": String(p === state.panel % a.panels), onclick: () => choosePanel(p)}, canvas, words);
  }));
}

function choosePanel(p) {
  state.panel = p;
  draw();
}

function showPanelOf(cells) {                               // name -> indices: show the panel of the first in the pictures
  for (const [name, [at]] of cells) {
    const figure = figuresOf(name).find(f => f.closest(".picture") && f.panelOf(at) !== undefined);
    if (!figure) continue;
    const p = figure.panelOf(at);
    if (p !== state.panel) {
      state.panel = p;
      drawRight(steps[here().k], here().kind);
    }
    return;
  }
}
