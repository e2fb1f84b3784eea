// ---- arrays --------------------------------------------------------------------------------------------------------

function array(position) {                                  // of data.arrays; decoded when it is first shown
  const a = data.arrays[position];
  if (a.panels !== undefined || !a.shape.length) return a;
  const [R, C] = [a.shape.at(-2) ?? 1, a.shape.at(-1)];
  const stride = a.stride ?? [1, 1, 1], kept = (n, s) => Math.ceil(n / s);
  a.full = [sizeOf(a.shape.slice(0, -2)), R, C];
  [a.panels, a.rows, a.columns] = a.full.map((n, k) => kept(n, stride[k]));
  a.steps = stride;
  if (a.same !== undefined) [a.numbers, a.mask] = [array(a.same).numbers, array(a.same).mask];
  else if (a.ints) a.numbers = Float64Array.from(a.ints);
  else a.numbers = Float64Array.from(floats(a.floats));
  a.constant = !a.stride && a.numbers.length > 1 && a.numbers.every(x => x === a.numbers[0]);
  return a;
}

const floats = text => [...new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer)];

// the last two of an array's shape, axes or index exchanged; a vector gets a second axis
const swapped = (xs, second) => xs.length < 2 ? [...xs, second] : [...xs.slice(0, -2), xs.at(-1), xs.at(-2)];

function transposed(a) {                                    // with its last two axes exchanged; a vector as one column
  if (a.transpose) return a.transpose;
  const {rows, columns, panels} = a, size = rows * columns, numbers = new Float64Array(a.numbers.length);
  for (let p = 0; p < panels; p++) for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++)
    numbers[p * size + c * rows + r] = a.numbers[p * size + r * columns + c];
  return a.transpose = {...a, numbers, rows: columns, columns: rows, shape: swapped(a.shape, 1), full: swapped(a.full),
    steps: swapped(a.steps), images: {}};
}

const sizeOf = shape => shape.reduce((n, k) => n * k, 1);

const flatIndex = (shape, at) => shape.reduce((flat, n, axis) => flat * n + at[axis], 0);

function indexOf(shape, flat) {
  const at = [];
  for (const n of [...shape].reverse()) { at.unshift(flat % n); flat = Math.floor(flat / n); }
  return at;
}

function trueIndex(a, panel, row, column) {                 // of a cell of a heat map, in the whole array
  const leading = indexOf(a.shape.slice(0, -2), panel * a.steps[0]);
  return [...leading, ...a.shape.length > 1 ? [row * a.steps[1]] : [], column * a.steps[2]];
}

function cellOf(a, at) {                                    // the cell of an index; of a sample the nearest before it
  const flat = flatIndex(a.shape.slice(0, -2), at), row = a.shape.length > 1 ? at.at(-2) : 0;
  return [flat, row, at.at(-1)].map((k, axis) => Math.floor(k / a.steps[axis]));
}

// ---- axes ----------------------------------------------------------------------------------------------------------

function axesOf(name, shape) {                              // names of an array's axes in this step; "" where unknown
  const known = "fb".includes(here().kind) && steps[here().k].axes?.[name] || [];
  if (known.length === shape.length) return known;
  if (known.length < shape.length || !shape.length) return shape.map(() => "");
  const [rows, ...rest] = known.slice(-shape.length);       // the op has merged the axes before the last into rows
  return [labelsOf(rows).length === shape[0] ? rows : "", ...rest];
}

const labelsOf = axis => data.labels?.[axis] ?? [];         // the labels of its indices: tokens, characters

function inWords(axis, k) {                                 // query 15 "n"; without a name the index alone
  const label = labelsOf(axis)[k];
  return (axis ? `${axis} ${k}` : `${k}`) + (label === undefined ? "" : ` "${visible(label)}"`);
}

const placed = (axes, at) => `[${at.map((k, n) => inWords(axes[n], k)).join(", ")}]`;
