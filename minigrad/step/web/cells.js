// ---- cells of heat maps: read by mouse and keys, asked, lit --------------------------------------------------------

function readsAndAsks(figure, {a, axes, shown, name, panels, reading, asks, whole}) {
  const cursor = el("i"), {rows, columns} = a, canvases = [...panels.querySelectorAll("canvas")];
  const frame = (n, [r0, c0], [r1, c1], box) => {           // put a box around the cells from (r0, c0) to (r1, c1)
    const {w, h, left, top} = canvases[n].cell, below = canvases[n].offsetTop;
    box.style.cssText = `left:${left + c0 * w - 1.5}px;top:${below + top + r0 * h - 1.5}px;` +
      `width:${(c1 - c0 + 1) * w + 3}px;height:${(r1 - r0 + 1) * h + 3}px`;
    panels.children[n].append(box);
  };
  const indexOf = ([n, row, column]) => {                   // in the array itself, which may be shown transposed
    const at = trueIndex(a, shown[n], row, column);
    return whole === a ? at : swapped(at).slice(-whole.shape.length);
  };
  const namesOfAxes = whole === a ? axes : swapped(axes).slice(-whole.shape.length);
  const cellAt = at => cellOf(a, whole === a ? at : swapped(at, 0));
  let cell = null;
  const clear = () => { cell = null; cursor.remove(); reading.textContent = ""; };
  const show = (n, row, column) => {
    cell = [n, row, column];
    frame(n, [row, column], [row, column], cursor);
    reading.classList.toggle("left", figure.getBoundingClientRect().left + 350 > document.documentElement.clientWidth);
    const x = a.numbers[(shown[n] * rows + row) * columns + column];
    reading.textContent = `${asks?.name ?? name}${placed(namesOfAxes, indexOf(cell))} = ` +
      (a.mask !== undefined && !isFinite(x) ? num(a.mask) + ", masked" : num(x, 4));
  };
  const ask = at => {
    const {kind, k} = here();
    askWhy({kind, k, name: asks.name, line: asks.line, at});
  };
  const under = event => {
    const n = canvases.indexOf(event.target);
    if (n < 0) return;
    const box = event.target.getBoundingClientRect(), {w, h, left, top} = event.target.cell;
    const row = Math.floor((event.clientY - box.top - top) / h);
    const column = Math.floor((event.clientX - box.left - left) / w);
    if (row >= 0 && column >= 0 && row < rows && column < columns) return [n, row, column];
  };
  panels.onmousemove = event => { const over = under(event); if (over) show(...over); else clear(); };
  panels.onmouseleave = panels.onblur = clear;
  panels.onmousedown = event => event.preventDefault();     // no focus: the arrow keys still go to the next line
  panels.onclick = event => { const over = under(event); if (over && asks) ask(indexOf(over)); };
  panels.onkeydown = event => {
    const move = {ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
      ...shown.length > 1 && {PageUp: [-1, 0, 0], PageDown: [1, 0, 0]}}[event.key];
    if (event.key === "Enter" && cell && asks) ask(indexOf(cell));
    if (event.key === "Escape") panels.blur();
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const limits = [shown.length, rows, columns];
    show(...(cell ?? [0, 0, 0]).map((k, axis) => Math.max(0, Math.min(limits[axis] - 1, k + (cell ? move[axis] : 0)))));
  };
  figure.panelOf = at => a.panels > 1 ? cellAt(at)[0] : undefined;
  figure.light = indices => {
    const lit = indices.map(cellAt);
    shown.forEach((p, n) => {
      const cells = lit.filter(([panel]) => panel === p).map(([, row, column]) => [row, column]);
      for (const [first, last] of boxesOf(cells)) frame(n, first, last, el("i", {class: "lit"}));
    });
  };
}

function boxesOf(cells) {                                   // [first, last] of rectangles that cover just these cells
  const at = (list, k) => [Math.min(...list.map(cell => cell[k])), Math.max(...list.map(cell => cell[k]))];
  const keys = new Set(cells.map(cell => cell.join()));
  if (!keys.size) return [];
  const [[r0, r1], [c0, c1]] = [at(cells, 0), at(cells, 1)];
  if ((r1 - r0 + 1) * (c1 - c0 + 1) === keys.size) return [[[r0, c0], [r1, c1]]];
  const boxes = [];
  for (const key of keys) {                                 // runs along the rows
    const [row, column] = key.split(",").map(Number);
    if (keys.has([row, column - 1].join())) continue;
    let last = column;
    while (keys.has([row, last + 1].join())) last++;
    boxes.push([[row, column], [row, last]]);
  }
  return boxes;
}

let lit = [];                                               // the cells that are outlined

function lightCells(cells) {                                // outline cells {name, at}, perhaps of {kind, k, line}
  lit = cells.filter(c => c.kind === undefined || c.kind === here().kind && c.k === here().k);
  const panelOf = c => figuresOf(c).find(f => f.closest(".picture"))?.panelOf(c.at);
  const panels = lit.map(panelOf).filter(p => p !== undefined);
  if (panels.length && !panels.includes(state.panel)) choosePanel(panels[0]);
  else outline();
}

function clearLight() { lit = []; outline(); }

function outline() {
  for (const box of $("right").querySelectorAll("i.lit")) box.remove();
  for (const number of $("right").querySelectorAll(".number.lit")) number.classList.remove("lit");
  const cells = new Map();                                  // of each figure
  for (const c of lit) for (const figure of figuresOf(c)) cells.set(figure, [...cells.get(figure) ?? [], c.at]);
  for (const [figure, indices] of cells) figure.light(indices);
}

const figuresOf = ({name, line}) => [...$("right").querySelectorAll("figure")].filter(
  f => f.light && f.dataset.name === name && (line === undefined || Number(f.dataset.line) === line));
