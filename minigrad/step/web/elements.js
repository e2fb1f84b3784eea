// ---- elements: the expression of a line, one element at a time, as in minigrad/step/elements.py --------------------
//
// A tree is an array operation: op, shape, its operands `of`, and what the operation needs. An element is a tree and an
// index. A term is {minus, factors}, a factor {text, value, cells}, a cell {name, line, at}.

const LETTERS = "jkmnuv";                                   // of the axes that are summed over
const BINDING = {sum: 1, mean: 1, max: 1, "@": 1, scatter: 1, "+": 2, "-": 2, "*": 3, "/": 3, neg: 4, "**": 5};
const MOST_WRITTEN = 4;

for (const step of steps) for (const {lines} of [step.forward, step.backward])
  for (const line of lines) for (const tree of Object.values(line[3])) giveShapes(tree);

function giveShapes(tree) {                                 // a tree whose values are stored has no shape of its own
  tree.shape ??= tree.a === undefined ? [] : data.arrays[tree.a].shape;
  tree.of?.forEach(giveShapes);
}

class NotStored extends Error {}                            // the page holds only a sample of an array

const ifStored = compute => { try { return compute(); } catch (error) { if (!(error instanceof NotStored)) throw error; } };

function numberAt(position, at) {                           // an element of an array of the page
  const a = array(position);
  if (!a.shape.length) return Number(a.value);
  let flat = flatIndex(a.shape, at);
  if (a.stride) {
    const [panel, row, column] = cellOf(a, at);
    if (trueIndex(a, panel, row, column).join() !== at.join()) throw new NotStored(dims(a.shape));
    flat = (panel * a.rows + row) * a.columns + column;
  }
  const x = a.numbers[flat];
  return !isFinite(x) && a.mask !== undefined ? Number(a.mask) : x;
}

// the index of an operand that is broadcast to a result's shape
const own = (x, at) => x.shape.map((n, axis) => n === 1 ? 0 : at[at.length - x.shape.length + axis]);

function value(tree, at) {
  const [x, y] = tree.of ?? [];
  switch (tree.op) {
    case "array": return numberAt(tree.a, at);
    case "number": return Number(tree.value);
    case "+": return value(x, own(x, at)) + value(y, own(y, at));
    case "-": return value(x, own(x, at)) - value(y, own(y, at));
    case "*": return value(x, own(x, at)) * value(y, own(y, at));
    case "/": return value(x, own(x, at)) / value(y, own(y, at));
    case "**": return value(x, own(x, at)) ** value(y, own(y, at));
    case "neg": return -value(x, own(x, at));
    case "@": return sum(pairs(tree, at), ([i, j]) => value(x, i) * value(y, j));
    case "sum": return sum(summed(tree, at), i => value(x, i));
    case "mean": { const all = summed(tree, at); return sum(all, i => value(x, i)) / all.length; }
    case "view": case "reshape": case "index": case "max": case "join": case "where": return value(...source(tree, at));
    case "scatter": return sum(terms(tree, at), product);
    default: return numberAt(tree.a, at);
  }
}

function terms(tree, at) {                                  // an element as a sum of products
  const [x, y] = tree.of ?? [];
  switch (tree.op) {
    case "+": return [...parts(x, own(x, at)), ...parts(y, own(y, at))];
    case "-": return [...parts(x, own(x, at)), ...parts(y, own(y, at)).map(negated)];
    case "neg": return terms(x, own(x, at)).map(negated);
    case "*": return products(x, own(x, at), y, own(y, at));
    case "/": {
      const divisor = factor(y, own(y, at)), text = `1 / ${inside(y, own(y, at), 4)}`;
      const inverse = {...divisor, text, value: 1 / divisor.value};
      if (x.op === "number" && Number(x.value) === 1) return [{minus: false, factors: [inverse]}];
      return terms(x, own(x, at)).map(({minus, factors}) => ({minus, factors: [...factors, inverse]}));
    }
    case "@": return pairs(tree, at).flatMap(([i, j]) => products(x, i, y, j));
    case "sum": return summed(tree, at).flatMap(i => terms(x, i));
    case "mean": {
      const all = summed(tree, at), share = {text: `1 / ${all.length}`, value: 1 / all.length, cells: []};
      return all.flatMap(i => terms(x, i)).map(({minus, factors}) => ({minus, factors: [...factors, share]}));
    }
    case "view": case "reshape": case "index": case "max": case "join": case "where": return terms(...source(tree, at));
    case "scatter": {
      const places = added(tree, at), used = tree.replaces ? places.slice(-1) : places;
      return [...tree.replaces && places.length ? [] : terms(x, at), ...used.flatMap(place => terms(y, own(y, place)))];
    }
    case "number": return Number(tree.value) === 0 ? [] : [{minus: false, factors: [factor(tree, at)]}];
    default: return [{minus: false, factors: [factor(tree, at)]}];
  }
}

const product = ({minus, factors}) => factors.reduce((total, f) => total * f.value, minus ? -1 : 1);
const negated = ({minus, factors}) => ({minus: !minus, factors});

function parts(x, at) {                                     // a sum over an axis that is added to others is one factor
  return ["+", "-", "neg"].includes(x.op) || !sums(x) ? terms(x, at) : [{minus: false, factors: [factor(x, at)]}];
}

const sums = x => ["sum", "mean", "@"].includes(x.op) || !!x.of?.some(sums);

function products(x, i, y, j) {                             // if both are sums, the shorter one stays one factor
  const whole = (tree, at) => [{minus: false, factors: [factor(tree, at)]}];
  let [left, right] = [terms(x, i), terms(y, j)];
  if (left.length > 1 && right.length > 1) {
    if (left.length >= right.length) right = whole(y, j); else left = whole(x, i);
  }
  return left.flatMap(a => right.map(b => ({minus: a.minus !== b.minus, factors: [...a.factors, ...b.factors]})));
}

function factor(tree, at) {                                 // a whole element as one factor
  const cells = new Map([...leaves(tree, at)].map(cell => [`${cell.name}${cell.at}`, cell]));
  return {text: inside(tree, at, 3), value: value(tree, at), cells: [...cells.values()]};
}

function* leaves(tree, at) {                                // the elements of variables that it is computed from
  const of = tree.of ?? [];
  if (tree.op === "array") yield {name: tree.name, line: tree.line, at};
  else if (tree.op === "@") for (const pair of pairs(tree, at)) for (const n of [0, 1]) yield* leaves(of[n], pair[n]);
  else if (tree.op === "sum" || tree.op === "mean") for (const i of summed(tree, at)) yield* leaves(of[0], i);
  else if (MOVES.includes(tree.op)) yield* leaves(...source(tree, at));
  else if (tree.op === "scatter") {
    yield* leaves(of[0], at);
    for (const place of added(tree, at)) yield* leaves(of[1], own(of[1], place));
  } else for (const x of of) yield* leaves(x, own(x, at));
}

const MOVES = ["view", "reshape", "index", "max", "join", "where"];

// the indices of both operands in each term of a matrix product
function pairs(tree, at, letter) {
  const [a, b] = tree.of, wide = b.shape.length > 1, tall = a.shape.length > 1;
  const row = tall ? [at.at(wide ? -2 : -1)] : [], column = wide ? [at.at(-1)] : [];
  const lead = at.slice(0, at.length - row.length - column.length);
  const leading = x => own({shape: x.shape.slice(0, -2)}, lead);
  const inner = letter ? [letter] : [...Array(a.shape.at(-1)).keys()];
  return inner.map(j => [[...tall ? leading(a) : [], ...row, j], [...wide ? leading(b) : [], j, ...column]]);
}

function summed(tree, at, letters) {                        // the indices of the operand in each term of a sum or mean
  const {shape} = tree.of[0], axes = tree.axes ?? [];
  const outer = at.length === shape.length ? at.filter((_, axis) => !axes.includes(axis)) : at;
  const sizes = axes.map(axis => shape[axis]);
  const inner = letters ? [letters] : Array.from({length: sizeOf(sizes)}, (_, flat) => indexOf(sizes, flat));
  return inner.map(numbers => {
    let [i, j] = [0, 0];
    return shape.map((_, axis) => axes.includes(axis) ? numbers[j++] : outer[i++]);
  });
}

// the element of an operand that an element of a view, ... is
function source(tree, at) {
  if (tree.op === "where") {
    const [condition, a, b] = tree.of, chosen = value(condition, own(condition, at)) ? a : b;
    return [chosen, own(chosen, at)];
  }
  if (tree.op === "view") {
    const place = ([axis, start, step]) => axis === null ? start : start + step * at[axis];
    return [tree.of[0], (tree.sources ?? []).map(place)];
  }
  let flat = flatIndex(tree.shape, at), x = tree.of[0];
  if (tree.op !== "reshape") flat = numberAt(tree.positions, at);
  for (x of tree.of) {
    if (flat < sizeOf(x.shape)) break;
    flat -= sizeOf(x.shape);
  }
  return [x, indexOf(x.shape, flat)];
}

function added(tree, at) {                                  // where an element gets something added
  const flat = flatIndex(tree.shape, at), positions = array(tree.positions);
  if (!positions.shape.length) return Number(positions.value) === flat ? [[]] : [];
  if (positions.stride) throw new NotStored(dims(positions.shape));
  return [...positions.numbers.keys()].filter(k => positions.numbers[k] === flat).map(k => indexOf(positions.shape, k));
}

// ---- in index notation ---------------------------------------------------------------------------------------------

const equation = (name, tree, at) => `${name}${index(at)} = ${written(tree, at, lettersOfSums())}`;

function* lettersOfSums() { yield* LETTERS; for (let n = 2;; n++) yield `j${n}`; }

function inside(tree, at, floor, letters = lettersOfSums()) {
  const text = written(tree, at, letters);
  return (BINDING[outermost(tree, at)] ?? 9) < floor ? `(${text})` : text;
}

function outermost(tree, at) {                              // the operation that is written outermost for an element
  while (MOVES.includes(tree.op) && at.every(i => typeof i === "number")) [tree, at] = source(tree, at);
  return tree.op !== "number" ? tree.op : /[-+*/ ]/.test(tree.text) ? "*" : "";
}

function written(tree, at, letters) {
  const of = tree.of ?? [], write = (x, floor = 0) => inside(x, own(x, at), floor, letters);
  const numbers = at.every(i => typeof i === "number"), p = BINDING[tree.op];
  switch (tree.op) {
    case "array": return tree.name + index(at);
    case "number": return tree.text;
    case "+": case "-": case "*": case "/": case "**":
      return `${write(of[0], p + (tree.op === "**" ? 1 : 0))} ${tree.op} ${write(of[1], p + ("-/".includes(tree.op) ? 1 : 0))}`;
    case "neg": return `-${write(of[0], 5)}`;
    case "@": {
      const j = letters.next().value, [[a, b]] = pairs(tree, at, j);
      return `sum over ${j} of ${inside(of[0], a, 3, letters)} * ${inside(of[1], b, 4, letters)}`;
    }
    case "sum": case "mean": {
      const inner = (tree.axes ?? []).map(() => letters.next().value);
      const body = inside(of[0], summed(tree, at, inner)[0], 3, letters);
      return inner.length ? `${tree.op} over ${inner.join()} of ${body}` : body;
    }
    case "view": return written(of[0], (tree.sources ?? []).map(([axis, start, step]) =>
      axis === null ? start : start === 0 && step === 1 ? at[axis] : typeof at[axis] === "number" ? start + step * at[axis] :
        `${step !== 1 ? `${step} ` : ""}${at[axis]}${start ? ` + ${start}` : ""}`), letters);
  }
  if (MOVES.includes(tree.op) && numbers) return written(...source(tree, at), letters);
  if (tree.op === "scatter" && numbers) {
    const places = added(tree, at), empty = value(of[0], at) === 0;
    const texts = places.slice(0, MOST_WRITTEN).map(place => written(of[1], own(of[1], place), letters));
    const more = places.length > MOST_WRITTEN ? [`... (${plural(places.length, "term")})`] : [];
    const start = !empty ? [written(of[0], at, letters)] : places.length ? [] : ["0"];
    const all = tree.replaces && places.length ? texts.slice(-1) : [...start, ...texts, ...more];
    return all.join(" + ").replaceAll("+ -", "- ");
  }
  if (of.length && !MOVES.includes(tree.op) && tree.op !== "scatter")
    return `${tree.op}(${of.map(x => write(x)).join(", ")})`;
  return `(${tree.text})${index(at)}`;
}
