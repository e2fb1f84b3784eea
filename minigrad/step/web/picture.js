// ---- a line as a picture: its operands, the operators between them, its result -------------------------------------
//
// The expression of a line is a tree, as in elements.js. Its picture is a list of parts: figures {node, scale}, where
// the figures of one sum share an object `scale`, and signs.

const STRENGTH = {"+": 1, "-": 1, neg: 2, "*": 3, "/": 3, "@": 3, "**": 4};     // how strongly it binds; all else: 5
const MOST_FIGURES = 8, FEW_FIGURES = 5;                    // of a picture; functions show few operands
const PICTURE = {width: Infinity, height: 300, indices: true};
state.panel = 0;                                            // the panel that pictures show of arrays with several

const strength = node => ["number", "call"].includes(node.op) && node.text.includes(" ") ? 0 : STRENGTH[node.op] ?? 5;
const isReduction = node => ["sum", "mean", "max"].includes(node.op);
const isLiteral = node => node.op === "number" && isFinite(node.text);

function moved({op, of, sources = [], shape}) {             // of a view that moves whole axes: where they are now
  if (op !== "view") return;
  const places = sources.map(([axis]) => axis), lengths = of[0].shape;                  // null for an axis of length 1
  return sources.every(([axis, start, step], k) => axis === null ? lengths[k] === 1 :
    start === 0 && step === 1 && lengths[k] === shape[axis]) ? places : undefined;
}

function isSame(node) {                                     // has the numbers of its operand in the same order
  const places = moved(node)?.filter(axis => axis !== null);
  return node.op === "reshape" || !!places && places.every((axis, k) => !k || places[k - 1] < axis);
}

function isTransposed(node) {                               // an array, its last two axes exchanged; a vector upright
  const places = node.of?.[0]?.op === "array" && moved(node), n = places?.length;
  return isUpright(node) ||
    n > 1 && places.every((axis, k) => axis === null || axis === (k < n - 2 ? k : 2 * n - 3 - k));
}

const isUpright = node => node.of?.[0]?.op === "array" && moved(node)?.length === 1 && node.shape.length > 1 &&
  node.shape.at(-1) === 1 && node.shape.at(-2) === node.of[0].shape[0];

const signOf = node => node.op === "*" ? node.of.some(x => !x.shape.length) ? "×" : "⊙" :
  {"-": "−", "@": "·", "**": "^"}[node.op] ?? node.op;

function axesOfNode({op, of = [], shape, name, axes, sources}) {        // the names of its axes; "" where unknown
  const known = of.map(axesOfNode), [a] = known;
  if (op === "array") return axesOf(name, shape);
  if (op === "@") return shape.map(
    (_, k) => shape.length - k === 1 ? known[1].at(-1) : a.length === shape.length ? a[k] : "");
  if (op === "view") return shape.map((_, k) => a[(sources ?? []).findIndex(([axis]) => axis === k)] ?? "");
  if (axes && shape.length < of[0].shape.length) return a.filter((_, axis) => !axes.includes(axis));
  if (!STRENGTH[op] && !axes && shape.join() !== of[0]?.shape.join()) return shape.map(() => "");
  return shape.map((_, k) => known.map(names => names.at(k - shape.length) ?? "").find(Boolean) ?? "");
}

function reduction({op, of: [x], axes, shape}) {            // "Σ over key"
  const over = axesOfNode(x), differs = k => x.shape[k] !== shape.at(k - over.length);
  const reduced = axes ?? [...over.keys()].filter(differs);
  const names = reduced.filter(axis => x.shape[axis] > 1).map(axis => over[axis] || `axis ${axis}`);
  return (op === "sum" ? "Σ" : op) + (names.length && over.length > 1 ? ` over ${names.join(", ")}` : "");
}

const nameOf = ({op, of, shape}) => op === "index" ? "elements of" : op !== "view" ? op :
  sizeOf(shape) === sizeOf(of[0].shape) ? "transposed" : "part of";

function wordsOf(node) {                                    // as text: "Σ over key of dP ⊙ P"
  const inside = (child, least) => strength(bare(child)) < least ? `(${wordsOf(child)})` : wordsOf(child);
  const binds = strength(node), [a, b] = node.of ?? [];
  if (node.op === "array") return node.name;
  if (node.op === "number" || node.op === "call") return node.text;
  if (isTransposed(node)) return isUpright(node) ? a.name : `${a.name}ᵀ`;
  if (isSame(node)) return wordsOf(a);
  if (node.op === "neg") return `−${inside(a, binds + 1)}`;
  if (binds < 5) return `${inside(a, binds)} ${signOf(node)} ${inside(b, binds + 1)}`;
  if (isReduction(node)) return `${reduction(node)} of ${inside(a, 3)}`;
  return `${nameOf(node)}(${node.of.map(wordsOf).join(", ")})`;
}

const bare = node => isSame(node) && !isTransposed(node) ? bare(node.of[0]) : node;

function partsOf(node, top, whole, scale) {                 // whole: functions with their operands, not as one array
  const [a, b] = node.of ?? [], binds = strength(node);
  const inside = (child, least, shared) => {
    const parts = partsOf(child, top, whole, shared);
    return strength(bare(child)) < least && parts.length > 1 ? ["(", ...parts, ")"] : parts;
  };
  if (!node.of?.length || isTransposed(node)) return [{node, scale}];
  if (isSame(node)) return partsOf(a, top === node ? a : top, whole, scale);
  if (node !== top && "a" in node && (isReduction(node) || !whole)) return [{node, scale}];
  if (node.op === "+" || node.op === "-") {
    const shared = scale ?? {};
    return [...inside(a, binds, shared), signOf(node), ...inside(b, binds + 1, shared)];
  }
  if (node.op === "neg") return ["−", ...inside(a, binds + 1, scale)];
  if (binds < 5) return [...inside(a, binds), signOf(node), ...inside(b, binds + 1)];
  if (node.op === "scatter") {
    const shared = scale ?? {}, at = `at ${plural(sizeOf(array(node.positions).shape), "place")}`;
    return [...a.op === "number" ? ["0"] : partsOf(a, top, whole, shared),
      node.replaces ? `replaced ${at} by` : `+ ${at}`, ...inside(b, 2, shared)];
  }
  return [`${isReduction(node) ? reduction(node) : nameOf(node)} (`,
    ...node.of.flatMap((x, k) => [...k ? [","] : [], ...partsOf(x, top, whole)]), ")"];
}

function partsOfLine(tree) {                                // null if it computes nothing: it only names an array
  const computes = node => !["array", "number", "call"].includes(node.op) && !isSame(node) && !isTransposed(node) ||
    !!node.of?.some(computes);
  if (!computes(tree)) return null;
  for (const [whole, most] of [[true, FEW_FIGURES], [false, MOST_FIGURES]]) {
    const parts = partsOf(tree, tree, whole);
    if (parts.filter(part => part.node && !isLiteral(part.node)).length <= most) return parts;
  }
  return null;
}

const sign = text => el("span", {class: "sign"}, text);
const magnitude = a => a.shape.length ? Number(a.max) : Math.abs(Number(a.value));
const arrayOf = node => node.a !== undefined ? array(node.a) :
  isTransposed(node) ? transposed(array(node.of[0].a)) : null;

function picture(name, tree, position, options, line) {     // null where there is nothing to draw
  const parts = partsOfLine(tree);
  if (!parts) return null;
  const root = bare(tree), result = array(position), figures = parts.filter(part => part.node);
  const ofSum = ["+", "-", "scatter"].includes(root.op) ? figures.find(part => part.scale)?.scale : undefined;
  const operands = figures.map(({node, scale}) => ({a: arrayOf(node), scale})).filter(({a}) => a);
  const drawn = [...operands, {a: result, scale: ofSum}];
  for (const {a, scale} of drawn) if (scale) {
    scale.unit = Math.max(scale.unit ?? 0, magnitude(a));
    scale.maps = (scale.maps ?? 0) + (a.shape.length ? 1 : 0);
  }
  const arrays = drawn.map(({a}) => a).filter(a => a.shape.length), panels = Math.max(1, ...arrays.map(a => a.panels));
  const others = 40 + sum(parts, part => !part.node ? 8 + 13 * part.length : arrayOf(part.node)?.shape.length ? 0 : 90);
  const shown = {panel: state.panel % panels, size: {...PICTURE, cell: cellThatFits(arrays, others)}};
  const shared = (scale, a) => {                            // the first figure of a sum has the legend
    if (!(scale?.maps > 1)) return {};
    const words = scale.seen ? "same scale" : undefined;
    scale.seen ||= !a.constant;
    return {unit: scale.unit || 1, scale: words};
  };
  const show = ({node, scale}) => {
    if (isLiteral(node)) return sign(node.text);
    if (!arrayOf(node)) return el("figure", {}, el("figcaption", {}, el("b", {}, wordsOf(node))),
      el("div", {class: "number"}, num(node.value, 4)));
    const base = isTransposed(node) ? node.of[0] : node, words = wordsOf(node);
    if (base.op !== "array") (line.parts ??= {})[words] = node;
    const asked = base.op !== "array" ? {name: words, line: options.asks.line} : base;
    return heatmap(words, base.a, {...shown, ...shared(scale, array(base.a)), axes: axesOfNode(base),
      transpose: base !== node, asks: asked.line === null ? undefined : {name: asked.name, line: asked.line}});
  };
  const row = parts.map(part => part.node ? show(part) : sign(part));
  return el("div", {class: "picture"}, panels > 1 && result.panels > 1 && panelChooser(result, name),
    el("div", {class: "equation", role: "group", "aria-label": `${name} = ${wordsOf(tree)}`}, row, sign("="),
      heatmap(name, position, {...options, ...shown, ...shared(ofSum, result), tag: undefined})),
    result.shape.length > 0 && whyButtons(result, options.asks, axesOf(name, result.shape), 1));
}

function cellThatFits(arrays, others) {                     // the size of a cell for a picture in one row, two or three
  const width = ($("right").clientWidth || 800) - 20;
  const total = cell => others + sum(arrays, a => 14 + Math.max(96, 37 + a.columns * cell));
  const tallest = Math.max(1, ...arrays.map(a => a.rows));
  for (const [rows, height] of [[1, 280], [2, 100], [3, 70]])
    for (let cell = Math.min(18, Math.floor(height / tallest)); cell >= 4; cell--)
      if (total(cell) <= width * rows * (rows > 1 ? .85 : 1)) return cell;
  return 3;
}

// ---- which of several panels the pictures show ---------------------------------------------------------------------

function panelChooser(a, name) {                            // small maps of all panels: "head 2"
  const axes = axesOf(name, a.shape), unit = Number(a.max) || 1;
  const buttons = [...Array(a.panels).keys()].map(p => {
    const canvas = el("canvas", {"aria-hidden": true, width: a.columns, height: a.rows});
    canvas.getContext("2d").drawImage((a.images[`${p} ${unit}`] ??= image(a, p, unit)).canvas, 0, 0);
    return el("button", {"aria-pressed": String(p === state.panel % a.panels), onclick: () => choosePanel(p)},
      canvas, panelName(a, axes, p));
  });
  return el("div", {class: "chooser", role: "group", "aria-label": `panel of ${name}`}, buttons);
}

function choosePanel(p) {
  state.panel = p;
  drawRight(steps[here().k], here().kind);
  outline();
  $("right").querySelectorAll(".chooser button")[p]?.focus();
}
