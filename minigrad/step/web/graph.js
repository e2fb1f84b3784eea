// ---- the graph -----------------------------------------------------------------------------------------------------

const FOLD_FROM = 60, GAP = 22, HIGH = 38, TOP = 46;        // in pixels of usual type

function moduleOf(step) {                                   // the module that a node is folded into: "h.0"
  return step.name === step.op ? "" : /^(.*?\.?\d+)(?:\.|$)/.exec(step.name)?.[1] ?? "";
}

// a column for each node or folded module, in the order of the forward
function columnsOfGraph(current) {
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

const ruler = document.createElement("canvas").getContext("2d");

function widthOf(text) {                                    // of a label of the graph
  ruler.font = `600 12px ${getComputedStyle(document.documentElement).getPropertyValue("--sans")}`;
  return Math.ceil(ruler.measureText(text).width);
}

const withoutModule = (name, module) => module && name.startsWith(module + ".") ? name.slice(module.length + 1) : name;

let graph = {};                                             // the drawing, until a module folds or unfolds

function drawGraph() {
  const {kind, k} = here(), current = kind === "f" || kind === "b" ? k : null;
  const columns = columnsOfGraph(current), folds = `${columns.map(c => c.nodes.length)} ${remInPixels()}`;
  if (graph.folds !== folds) graph = {folds, ...builtGraph(columns)};

  const leafNow = kind === "u" ? optimizer.updates[k].leaf : "";
  const inputs = new Set(current == null ? [] : steps[current].inputs.map(i => i.source));
  const done = n => kind === "f" ? n > k : kind === "b" ? n < k : true;
  for (const {group, heads, users} of graph.edges) {
    group.setAttribute("class", users.has(current) ? "edge lit" : "edge");
    heads.forwards.toggleAttribute("hidden", kind === "b");         // an arrow points where the numbers go
    heads.backwards.toggleAttribute("hidden", kind !== "b");
    if (users.has(current)) graph.boxes[0].link.before(group);      // in front of the others
  }
  graph.boxes.forEach(({link, mark, nodes, fold, titles, name}) => {
    const status = [nodes.includes(current) ? "now" : nodes.every(done) ? "done" : "to do",
      nodes.some(n => inputs.has(n)) && "input", fold && "folded",
      nodes.some(n => steps[n].checks.some(row => !row.ok)) && "failed"].filter(Boolean);
    link.setAttribute("class", status.join(" "));
    mark.setAttribute("class", status.filter(word => word !== "folded").join(" "));
    for (const title of titles) title.textContent = `${name}, ${status.join(", ")}`;
  });
  for (const {box, leaf, node} of graph.leaves)
    box.setAttribute("class", node === current || leaf === leafNow ? "leaf lit" : "leaf");
  const lit = columns.findIndex(({nodes}) => nodes.includes(current) ||
    nodes.length === 1 && steps[nodes[0]].inputs.some(x => x.leaf && x.leaf === leafNow));
  const fits = $("nodes").scrollWidth <= $("nodes").clientWidth;
  $("overview").hidden = document.documentElement.dataset.graph !== "folded" && fits;
  if (lit >= 0) $("nodes").scrollLeft = graph.boxes[lit].middle * graph.scale - $("nodes").clientWidth / 2;
  markSeen();
}

function markSeen() {                                       // in the overview: the part of the graph that is in sight
  const {scrollLeft, clientWidth, scrollWidth} = $("nodes");
  graph.seen.setAttribute("x", scrollLeft / graph.scale);
  graph.seen.setAttribute("width", clientWidth < scrollWidth ? clientWidth / graph.scale : 0);
}

function textsOfBox({module, nodes, fold}) {                  // of a box: two lines, and its leaves
  const step = steps[nodes[0]];
  if (fold) return {lines: [module, plural(nodes.length, "op")], leaves: []};
  const shape = dims(data.arrays[Object.values(step.outputs)[0]].shape);
  const leaves = step.inputs.filter(x => x.leaf).map(x => ({leaf: x.leaf, title: `${x.leaf}, ${dims(x.shape)}`,
    label: withoutModule(withoutModule(x.leaf, step.name), module)}));
  if (leaves.length > 4) leaves.splice(3, Infinity, {label: `${leaves.length - 3} more`,
    title: leaves.slice(3).map(x => x.title).join("\n")});
  const second = step.name === step.op || step.name === module ? shape : withoutModule(step.name, module);
  return {lines: [step.op, second], leaves};
}

function builtGraph(columns) {
  const where = new Map(columns.flatMap((c, x) => c.nodes.map(n => [n, x]))), labels = columns.map(textsOfBox);
  let width = GAP;
  const places = labels.map(({lines, leaves}) => {          // each box is as wide as its longest label
    const wide = Math.max(56, ...lines.map(text => widthOf(text) + 14), ...leaves.map(x => widthOf(x.label) + 18));
    const left = width;
    width += wide + GAP;
    return {left, wide, middle: left + wide / 2, right: left + wide};
  });
  const height = TOP + HIGH + 8 + Math.max(0, ...labels.map(l => l.leaves.length)) * 20, scale = remInPixels() / 16;
  const root = svg("svg", {width: width * scale, height: height * scale, viewBox: `0 0 ${width} ${height}`, role: "group"});

  // "from to", two columns -> the nodes of the second that use one of the first
  const users = new Map();
  for (const [n, step] of steps.entries()) for (const x of step.inputs) {
    if (x.source == null || where.get(x.source) === where.get(n)) continue;
    const key = `${where.get(x.source)} ${where.get(n)}`;
    users.set(key, (users.get(key) ?? new Set()).add(n));
  }
  const edges = [...users].map(([key, users]) => {
    const [from, to] = key.split(" ").map(Number), near = to - from === 1;
    const [x, y] = near ? [places[from].right, TOP + HIGH / 2] : [places[from].middle + 12, TOP];
    const [u, above] = near ? [places[to].left, 0] : [places[to].middle - 12, Math.min(35, 12 + 4 * (to - from))];
    const heads = near ?                                    // triangles at the two ends
      {forwards: `M${u} ${y}l-8 -4v8z`, backwards: `M${x} ${y}l8 -4v8z`} :
      {forwards: `M${u} ${y}l-5.5 -7l8 -1.5z`, backwards: `M${x} ${y}l5.5 -7l-8 -1.5z`};
    for (const end of Object.keys(heads)) heads[end] = svg("path", {class: "head", d: heads[end]});
    const line = near ? `M${x + 3} ${y}H${u - 3}` :
      `M${x + 1} ${y - 3}C${x + 24} ${y - above} ${u - 24} ${y - above} ${u - 1} ${y - 3}`;
    const group = svg("g", {}, svg("path", {d: line}), ...Object.values(heads));
    root.append(group);
    return {group, heads, users};
  });
  for (let start = 0, end; start < columns.length; start = end + 1) {               // a line over the nodes of a module
    const {module, fold} = columns[start];
    for (end = start; end + 1 < columns.length && columns[end + 1].module === module; end++);
    if (!module || fold) continue;
    root.append(svg("path", {class: "module", d: `M${places[start].left} 16H${places[end].right}`}));
    for (let c = start; c <= end; c += 6) root.append(svg("text", {class: "small module", x: places[c].left, y: 12}, module));
  }
  const marks = svg("svg", {viewBox: `0 0 ${width} 10`, preserveAspectRatio: "none"}), leaves = [];
  const boxes = columns.map(({module, nodes, fold}, c) => {
    const {left, wide, middle} = places[c], titles = [svg("title", {}), svg("title", {})];
    const link = svg("a", {tabindex: -1, href: `#b${nodes[0]}`}, titles[0],
      svg("rect", {x: left, y: TOP, width: wide, height: HIGH, rx: 6}),
      ...labels[c].lines.map((text, row) =>
        svg("text", {class: row ? "small" : "", x: middle, y: TOP + 16 + 15 * row}, text)));
    const open = () => goTo(here().kind === "f" ? "f" : "b", nodes[0]);
    link.onclick = event => {
      event.preventDefault();
      if (fold) { state.unfolded.add(module); drawGraph(); } else open();
    };
    root.append(link);
    labels[c].leaves.forEach(({leaf, label, title}, row) => {
      const y = TOP + HIGH + 5 + row * 20, box = svg("g", {}, svg("title", {}, title),
        svg("rect", {x: left, y, width: wide, height: 17, rx: 8.5}),
        svg("text", {class: "small", x: middle, y: y + 12.5}, label));
      root.append(box);
      leaves.push({box, leaf, node: nodes[0]});
    });
    const mark = svg("rect", {x: left, y: 0, width: wide, height: 10}, titles[1]);
    marks.append(mark);
    return {link, mark, nodes, fold, titles, middle, open, name: fold ? module : called({kind: "b", k: nodes[0]})};
  });
  const seen = svg("rect", {class: "seen", y: -2, height: 14});
  marks.append(seen);
  $("nodes").replaceChildren(root);
  $("overview").replaceChildren(marks);
  return {edges, boxes, leaves, seen, scale, width};
}

$("nodes").onscroll = markSeen;
$("overview").onclick = event => {                          // to the op nearest to the pointer
  const {left, width} = $("overview").firstChild.getBoundingClientRect(), x = (event.clientX - left) / width * graph.width;
  const off = box => Math.abs(box.middle - x);
  graph.boxes.reduce((a, b) => off(b) < off(a) ? b : a).open();
};
