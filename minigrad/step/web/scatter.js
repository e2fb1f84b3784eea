// ---- check: every gradient against central differences of the loss -------------------------------------------------

const {compared} = data;                                    // null where there is nothing to compare
const cloud = (compared?.leaves ?? []).flatMap((leaf, k) => {       // a point for each entry
  const [analytic, numeric, wrong] = [floats(leaf.analytic), floats(leaf.numeric), new Set(leaf.wrong)];
  return leaf.at.map((flat, n) => ({k, at: indexOf(leaf.shape, flat), x: numeric[n], y: analytic[n], wrong: wrong.has(n)}));
});

function drawScatter() {
  const {leaves, say, which, worst} = compared, picked = Math.min(state.pick, leaves.length) - 1;
  const all = cloud.every(p => !p.wrong);
  const failed = steps.flatMap((step, k) => step.checks.some(row => !row.ok) ? [k] : []);
  const pick = row => { go(state.at, 0, row); document.querySelector(".leaf-pick[aria-pressed=true]")?.focus(); };
  const row = (n, name, cells) => el("tr", {class: n === picked + 1 ? "now" : ""}, el("td", {}, el("button", {
    class: "leaf-pick", "aria-pressed": String(n === picked + 1), onclick: () => pick(n)},
    name)), cells.map(text => el("td", {class: "n"}, text)));
  $("left").replaceChildren(el("h2", {}, "Check", el("span", {}, " → the gradient of every parameter")),
    el("p", {class: all ? "say good" : "say bad"}, `${all ? "✓" : "✗"} ${say}`),
    el("p", {class: "say"}, "Each point is one entry of a gradient. Its horizontal position is a central difference of the loss, ",
      "(L(w + h) − L(w − h)) / 2h, its vertical position what the backward computed. If the backward is right, all points ",
      "lie on the diagonal."),
    ...failed.length ? [el("p", {class: "say"}, "The mistake is in an op that fails its own check: ",
      failed.map((k, n) => [n ? ", " : "", el("a", {href: `#b${k}`}, called({kind: "b", k}))]), ".")] : [],
    el("p", {class: "note"}, which),
    el("div", {class: "scroll"}, el("table", {}, header(["tensor", "entries", "worst relative error"], [1, 2]),
      row(0, "all tensors", [cloud.length, num(worst.error, 1)]),
      leaves.map((leaf, k) => row(k + 1, leaf.leaf, [leaf.at.length === sizeOf(leaf.shape) ? leaf.at.length :
        `${leaf.at.length} of ${sizeOf(leaf.shape)}`, num(leaf.error, 1)])))));
  const shown = cloud.filter(p => picked < 0 || p.k === picked);
  $("right").replaceChildren(el("h3", {}, "gradient against central difference", el("span", {class: "where"},
    picked < 0 ? "" : leaves[picked].leaf)), ...scatterPlot(shown, picked));
}

function scatterPlot(shown, picked) {
  const size = Math.max(280, Math.min($("right").clientWidth || 560, innerHeight - 310, 640)) / type();
  const room = 78, side = size - room - 12;
  const finite = cloud.filter(p => isFinite(p.x) && isFinite(p.y));
  const largest = Math.max(...finite.flatMap(p => [Math.abs(p.x), Math.abs(p.y)]), 1e-30);
  const top = Math.ceil(Math.log10(largest)), unit = 10 ** (top - 5);           // five decades; linear below one unit
  const scaled = v => Math.sign(v) * Math.log10(1 + Math.abs(v) / unit) / Math.log10(1 + 10 ** 5);
  const x = v => room + side * (1 + scaled(v)) / 2, y = v => 12 + side * (1 - scaled(v)) / 2;
  const place = v => v.toFixed(1), points = list => list.map(p => `M${place(x(p.x))} ${place(y(p.y))}h.01`).join("");
  const root = svg("svg", {class: "scatter", width: size * type(), height: size * type(), viewBox: `0 0 ${size} ${size}`,
    tabindex: 0, role: "group", "aria-label": `${compared.say}. Arrow keys go from point to point, from the largest difference on`});
  for (const v of [-1, -1e-2, 0, 1e-2, 1].map(share => share * 10 ** top)) {
    const name = num(v, 1);
    root.append(svg("path", {class: "grid", d: `M${place(x(v))} 12v${side}M${room} ${place(y(v))}h${side}`}),
      svg("text", {x: place(x(v)), y: size - room + 32}, name),
      svg("text", {class: "row", x: room - 8, y: place(y(v) + 4)}, name));
  }
  const marker = svg("circle", {r: 7, class: "marker", visibility: "hidden"});
  root.append(svg("path", {class: "diagonal", d: `M${room} ${12 + side}L${room + side} 12`}),
    svg("text", {x: room + side / 2, y: size - 22}, "central difference of the loss"),
    svg("text", {transform: `translate(14 ${12 + side / 2}) rotate(-90)`}, "gradient of the backward"),
    svg("path", {class: "points", d: points(finite.filter(p => picked >= 0 && p.k !== picked))}),
    svg("path", {class: picked < 0 ? "points" : "points chosen", d: points(finite.filter(p => shown.includes(p)))}),
    svg("path", {class: "points wrong", d: points(finite.filter(p => p.wrong))}));
  const {worst} = compared, reading = el("output", {class: "point"});
  const order = [...shown].sort((a, b) => Math.abs(b.x - b.y) - Math.abs(a.x - a.y));
  let now = -1;
  const show = p => {
    reading.textContent = `${compared.leaves[p.k].leaf}${index(p.at)}: ` +
      `gradient ${num(p.y, 6)}, central difference ${num(p.x, 6)}`;
    if (!isFinite(p.x + p.y)) return;
    marker.setAttribute("visibility", "visible");
    marker.setAttribute("cx", x(p.x));
    marker.setAttribute("cy", y(p.y));
  };
  root.append(marker);
  const worstPoint = cloud.find(p => p.k === worst.leaf && p.at.join() === worst.at.join());
  root.onkeydown = event => {
    const by = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") root.blur();
    if (!by || !order.length) return;
    event.preventDefault();
    event.stopPropagation();
    now = Math.max(0, Math.min(order.length - 1, now + by));
    show(order[now]);
  };
  root.onpointermove = event => {
    const {left, top, width} = root.getBoundingClientRect(), scale = size / width;
    const far = p => Math.hypot(x(p.x) - (event.clientX - left) * scale, y(p.y) - (event.clientY - top) * scale);
    const nearest = shown.filter(p => isFinite(p.x + p.y)).reduce(
      (best, p) => !best || far(p) < far(best) ? p : best, null);
    if (nearest && far(nearest) < 24) show(nearest);
  };
  if (worstPoint && (picked < 0 || picked === worstPoint.k)) {
    show(worstPoint);
    reading.textContent = `worst: ${reading.textContent}, relative error ${num(worst.error, 1)}`;
  } else reading.textContent = "the pointer and the arrow keys read the points";
  return [reading, root];
}
