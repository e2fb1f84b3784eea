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
