// ---- why: an element by the line that computed it, followed from line to line up to the loss -----------------------
//
// A cell is {kind, k, line, name, at}: line is the number of the line that computed the array, 0 for what the op was
// given, the number of lines also for outputs and gradients of inputs.

// terms of an answer; elements of a factor that become links
const SHOWN_TERMS = 8, FEW = 4;

function arraysOf({kind, k, line}) {                        // name -> position of the arrays that a line computed
  const step = steps[k], {lines} = listingOf({kind, k}), found = {};
  if (line) {
    const {2: computed, parts} = lines[line - 1];
    Object.assign(found, computed);
    for (const [words, node] of Object.entries(parts ?? {})) found[words] = node.a;     // "Σ over key of dP ⊙ P"
  }
  else if (kind === "f") for (const x of step.inputs) found[x.name] = x.value;
  else Object.assign(found, step.dys, step.saved);
  if (line === lines.length && kind === "f") Object.assign(found, step.outputs);
  if (line === lines.length && kind === "b") for (const x of step.inputs) if ("gradient" in x) {
    found[`d${x.name}`] = x.gradient;
    if ("earlier" in x) [found[`earlier d${x.name}`], found[`sum d${x.name}`]] = [x.earlier, x.sum];
  }
  return found;
}

function treeOf({kind, k, line, name}) {                    // the expression that computed an array, if one is known
  const {lines} = listingOf({kind, k}), gradient = kind === "b" && steps[k].inputs.find(x => `d${x.name}` === name);
  for (let n = line; n > 0; n--) {
    const tree = lines[n - 1][3][name] ?? lines[n - 1].parts?.[name];
    if (!tree && name in lines[n - 1][2]) return;           // computed by a line that cannot be read
    if (!tree || tree.op === "array" && tree.name === name) continue;
    const sums = line === lines.length && gradient && tree.op !== "call";
    return sums ? unbroadcast(tree, gradient.shape) : tree;
  }
}

// the gradient of an input that was broadcast: a sum over its copies
function unbroadcast(tree, shape) {
  if (tree.shape.join() === shape.join()) return tree;
  const extra = tree.shape.length - shape.length;
  const axes = [...tree.shape.keys()].filter(axis => axis < extra || shape[axis - extra] !== tree.shape[axis]);
  const total = {op: "sum", axes, of: [tree], shape: tree.shape.filter((_, axis) => !axes.includes(axis))};
  return {op: "reshape", of: [total], shape};
}

// {value, equation, terms, note}; cells of the terms are whole cells
function whyCell(cell) {
  const {kind, k, line, name, at} = cell, position = arraysOf(cell)[name];
  const stored = line === listingOf(cell).lines.length && data.stored[`${k}:${name}:${at.join()}`];
  if (stored) return {...stored, terms: stored.terms.map(factors => ({minus: false, factors: factors.map(f => ({...f,
    cells: f.cells.map(([line, name, at]) => ({kind, k, line, name, at}))}))}))};
  try {
    const tree = treeOf(cell), answer = {value: numberAt(position, at), terms: [], note: ""};
    if (tree && tree.op !== "call") {
      const place = ({line, name, at}) => line === null ? [] : [{kind, k, line, name, at}];
      return {...answer, equation: equation(name, tree, at), terms: terms(tree, at).map(({minus, factors}) => ({minus,
        factors: factors.map(f => ({...f, cells: f.cells.flatMap(place)}))}))};
    }
    const [phrase, cells] = tree ? [`is computed by ${tree.text}, which is not split into terms`, []] :
      line && listingOf(cell).lines.length && !/^(earlier|sum) /.test(name) ? ["is not explained: its line cannot be read", []] : origin(cell);
    return {...answer, equation: `${name}${index(at)} ${phrase}`, terms: cells.map(c => ({minus: false, factors: [
      {text: c.name + index(c.at), value: numberAt(arraysOf(c)[c.name], c.at), cells: [c]}]}))};
  } catch (error) {
    if (!(error instanceof NotStored)) throw error;
    const tree = treeOf(cell), words = tree && ifStored(() => equation(name, tree, at));
    return {value: ifStored(() => numberAt(position, at)), equation: words ?? `${name}${index(at)}`, terms: [],
      note: `This page stores only a sample of an array of ${error.message} that this element is computed from. ` +
        `The terminal explains it: why ${name} ${at.join(" ")}.`};
  }
}

// of what an op was given: a phrase, and the cells that it is the sum of
function origin({kind, k, line, name, at}) {
  const step = steps[k], given = Object.keys(step.dys).indexOf(name);
  if (kind === "f") {
    const x = step.inputs.find(x => x.name === name);
    if (x?.source == null) return [x ? `is an element of ${x.label}` : "was given to this op", []];
    const {lines} = steps[x.source].forward, output = Object.keys(steps[x.source].outputs)[x.out];
    return [`is the output of step ${x.source}, ${steps[x.source].name}`,
      [{kind, k: x.source, line: lines.length, name: output, at}]];
  }
  if (line || given >= 0) {
    const input = step.inputs.find(x => name.endsWith(` d${x.name}`)), earlier = name.startsWith("earlier");
    const isUse = (x, n) => "gradient" in x && (given >= 0 ? x.source === k && x.out === given :
      (input.leaf ? x.leaf === input.leaf : x.source === input.source && x.out === input.out) &&
      (n < k || n === k && !earlier));
    const uses = [...steps.entries()].flatMap(([n, s]) => s.inputs.filter(x => isUse(x, n)).map(
      x => ({kind, k: n, line: s.backward.lines.length, name: `d${x.name}`, at})));
    const first = data.alone ? "was given to this op" : "is the gradient of the loss itself: the backward begins here";
    return [!uses.length ? first :
      given < 0 ? `is the sum of the gradients from ${plural(uses.length, "step")} so far` :
        uses.length === 1 ? "is the gradient from the only use of the output" :
          `is the sum of the gradients from the ${uses.length} uses of the output`, uses];
  }
  const place = step.origins[name];
  return ["was saved by the forward", place ? [{kind: "f", k, line: place[0], name: place[1], at}] : []];
}

// show the answer for a cell; trail: the cells asked before it
function askWhy(cell, trail = []) {
  state.trail = [...trail, cell];
  const {kind, k} = here();
  if (kind !== cell.kind || k !== cell.k || state.line && state.line !== cell.line) {
    goTo(cell.kind, cell.k, cell.line, 0, state.trail);
  } else drawWhy();
}

function closeWhy() { state.trail = []; drawWhy(); }

const cellName = ({name, at}) => name + index(at);
const placeOf = ({kind, k, line}) =>
  `${kind === "f" ? "forward of " : ""}step ${k}, ${title({kind, k})}${line ? `, line ${line}` : ""}`;

function whyLink(words, cell, trail) {
  return el("a", {href: `#${cell.kind}${cell.k}.${cell.line}`, title: placeOf(cell),
    onclick: event => { event.preventDefault(); askWhy(cell, trail); }}, words);
}

function factorOf({text, value, cells}, trail) {            // its text, with each of its elements a link, and its value
  const links = cells.length > FEW ? [] : [...cells].sort((a, b) => cellName(b).length - cellName(a).length);
  let pieces = [text];
  for (const cell of links) pieces = pieces.flatMap(piece => typeof piece !== "string" ? [piece] :
    piece.split(cellName(cell)).flatMap((part, n) => n ? [whyLink(cellName(cell), cell, trail), part] : [part]));
  const exact = cells.length === 1 && cellName(cells[0]) === text;
  if (!exact && links.length && pieces.every(piece => typeof piece === "string"))
    pieces.push(" (", links.map(cell => [whyLink(cellName(cell), cell, trail), " "]), ")");
  return [el("code", {}, pieces), el("span", {class: "n"}, ` ${num(value, 4)}`)];
}

function drawWhy() {
  const panel = $("why"), cell = state.trail.at(-1);
  panel.hidden = !cell;
  clearLight();
  if (!cell) return;
  const answer = whyCell(cell), products = answer.terms.map(product);
  const size = n => isNaN(products[n]) ? Infinity : Math.abs(products[n]);           // what makes a sum NaN comes first
  const all = [...products.keys()], order = (all.some(size) ? all.filter(size) : all).sort(
    (a, b) => size(b) > size(a) ? 1 : size(b) < size(a) ? -1 : 0);
  const shown = order.slice(0, SHOWN_TERMS), largest = size(shown[0]);
  const crumbs = state.trail.flatMap((c, n) => [n ? " › " : "",
    n === state.trail.length - 1 ? el("b", {}, cellName(c)) : whyLink(cellName(c), c, state.trail.slice(0, n))]);
  panel.replaceChildren(el("button", {class: "close", onclick: closeWhy}, "close"),
    el("div", {class: "crumbs"}, crumbs),
    el("p", {class: "say"}, "Why is ",
      el("b", {}, cellName(cell) + (answer.value === undefined ? "" : ` = ${num(answer.value, 4)}`)),
      "? ", el("span", {class: "where"}, placeOf(cell))),
    el("p", {class: "say"}, el("code", {}, answer.equation)), answer.note && el("p", {class: "note"}, answer.note));
  if (shown.length) panel.append(
    el("div", {class: "scroll"}, el("table", {}, shown.map(n => el("tr", {}, el("td", {}, answer.terms[n].minus ? "−" : ""),
      el("td", {}, answer.terms[n].factors.map((f, i) => [i ? " × " : "", factorOf(f, state.trail)])),
      el("td", {class: "n"}, answer.terms[n].factors.length > 1 || answer.terms[n].minus ? `= ${num(products[n], 4)}` : ""),
      el("td", {}, bars([[size(n) === largest ? 1 : size(n) / largest, "actual"]])))))),
    el("p", {class: "note"}, `Sum of ${order.length === shown.length ? plural(order.length, "term") :
      `all ${order.length} terms, the largest ${shown.length} of which are shown`}: ${num(sum(products, x => x), 6)}. Recorded: ${num(answer.value, 6)}.`));
  lightCells([cell, ...answer.terms.flatMap(t => t.factors).flatMap(f => f.cells)]);
}
