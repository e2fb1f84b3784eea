// ---- nudge: the loss along one weight, beside what the gradient there predicts --------------------------------------

const weightName = ({leaf, at}) => `${leaf}${index(at)}`;

function drawNudges() {
  const n = Math.min(state.pick, nudges.length - 1);
  $("left").replaceChildren(el("h2", {}, "Nudge", el("span", {}, " → ", weightName(nudges[n]))),
    el("p", {class: "say"}, "A gradient predicts how much the loss changes when one number changes a little: the ",
      "tangent shows this prediction. The curve shows the loss that the forward gives for each value of the number."),
    ...section("pick a number", nudgeTable(n)),
    el("p", {class: "note"}, `The page has curves of these ${nudges.length} numbers, the largest entries of each gradient. For `,
      "any other number write nudge w[0,2] in the terminal, or record.nudge_curve(\"w\", (0, 2)) in a notebook."));
  const isFiniteHere = isFinite(nudges[n].value) && isFinite(nudges[n].loss);
  $("right").replaceChildren(...nudges[n].changes && isFiniteHere ? nudgeCurve(nudges[n]) : [el("p", {class: "note"},
    nudges[n].changes ? "No curve: the number or the loss is NaN or infinite." :
      "This model is too large for the curves of all these numbers; nudge in the terminal draws one.")]);
}

function nudgeTable(picked) {
  const pick = row => {
    go(state.at, 0, row);
    $("right").querySelector("input")?.focus();
    $("right").scrollIntoView({block: "nearest"});
  };
  const caption = "change of the loss when a number changes by a thousandth of its tensor's root mean square";
  const box = {class: "scroll picker", tabindex: 0, role: "group", "aria-label": `numbers to pick: ${caption}`};
  return [el("p", {class: "note"}, caption), el("div", box, el("table", {},
    header(["number", "gradient", "predicted", "actual", "actual / predicted"], [1, 2, 3, 4]),
    nudges.map((n, row) => [
      nudges[row - 1]?.leaf !== n.leaf && el("tr", {class: "group"}, el("td", {colspan: 5}, n.leaf)),
      el("tr", {class: row === picked ? "now" : ""},
        el("td", {}, el("button", {class: "pick", "aria-pressed": String(row === picked), "aria-label": weightName(n),
          onclick: () => pick(row)}, index(n.at) || "this number")),
        [n.gradient, n.predicted, n.actual].map(x => el("td", {class: "n"}, num(x))),
        el("td", {class: "n"}, (n.actual / n.predicted).toFixed(4)))])))];
}

function nudgeCurve(n) {
  const changes = floats(n.changes), middle = changes.length >> 1, name = weightName(n);
  const [recorded, loss, gradient, reach] = [n.value, n.loss, n.gradient, n.reach].map(Number), step = reach / middle;
  const deltas = changes.map((_, k) => (k - middle) * step), xs = deltas.map(d => recorded + d);
  const tangent = deltas.map(d => loss + gradient * d), losses = changes.map(c => loss + c);
  const width = Math.min(Math.max(($("right").clientWidth || 640) / type(), 300), 900), narrow = width < 500;
  const height = narrow ? 260 : Math.max(240, Math.min(380, innerHeight - 450)) / type();
  const {root, x, y, room} = chart({width, height, xName: `value of ${name}`, yName: "loss",
    lines: [{kind: "predicted", xs, ys: tangent}, {kind: "actual", xs, ys: losses}],
    label: `the loss along ${name} from ${num(xs[0])} to ${num(xs.at(-1))}, and its tangent`,
    most: [narrow ? 5 : 7, 6]});
  const gap = svg("path", {class: "gap"});
  const points = ["predicted", "actual"].map(kind => svg("circle", {class: kind, r: 6}));
  root.append(svg("path", {class: "axis", "stroke-dasharray": "2 4", d: `M${x(recorded)} 10V${height - 40}`}),
    svg("text", {x: x(recorded), y: height - 46, class: "recorded"}, "recorded"), gap, ...points);

  const readout = el("div", {class: "readout"}), curvature = (changes[middle + 1] + changes[middle - 1]) / step ** 2;
  const slider = el("input", {type: "range", class: "slide", min: 0, max: changes.length - 1, value: middle + 6,
    "aria-label": `value of ${name}`, style: `margin-left:${100 * (room - 8) / width}%;width:${100 * (width - room + 2) / width}%`});
  const show = () => {
    const k = Number(slider.value), d = deltas[k], off = losses[k] - tangent[k];
    [tangent[k], losses[k]].forEach((value, i) => {
      points[i].setAttribute("visibility", isFinite(value) ? "visible" : "hidden");
      if (isFinite(value)) { points[i].setAttribute("cx", x(xs[k])); points[i].setAttribute("cy", y(value)); }
    });
    gap.setAttribute("d", isFinite(off) ? `M${x(xs[k])} ${y(tangent[k])}V${y(losses[k])}` : "");
    const signed = value => (value > 0 ? "+" : "") + num(value, 3);
    const cells = [["", "value", num(xs[k], 4), `${num(recorded, 3)} ${d < 0 ? "−" : "+"} ${num(Math.abs(d), 3)}`],
      ["predicted", "tangent", num(tangent[k], 5), signed(gradient * d)],
      ["actual", "loss", num(losses[k], 5), signed(changes[k])],
      ["gap", "difference", signed(off), "loss − tangent"],
      ["", "curvature", signed(curvature * d * d / 2), `½ × ${num(curvature, 3)} × nudge²`]];
    readout.replaceChildren(...cells.map(([kind, words, value, how]) => el("div", {},
      el("span", {class: "note"}, kind && el("span", {class: `key line ${kind}`}), words), el("b", {}, value),
      el("span", {class: "note"}, how))));
    slider.setAttribute("aria-valuetext",
      `${num(xs[k], 4)}: predicted loss ${num(tangent[k], 6)}, loss ${num(losses[k], 6)}`);
  };
  slider.oninput = show;
  const drag = event => {                                   // on the picture: to the nearest computed point
    const box = root.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    const value = recorded - reach + 2 * reach * (at - x(xs[0])) / (x(xs.at(-1)) - x(xs[0]));
    slider.value = middle + Math.round((value - recorded) / step);
    show();
  };
  root.onpointerdown = event => { root.setPointerCapture(event.pointerId); drag(event); };
  root.onpointermove = event => { if (event.buttons) drag(event); };
  show();
  return [el("h3", {}, `the loss along ${name}`, el("span", {class: "legend"}, lineKey("actual", "loss"),
    lineKey("predicted", "tangent"))), root, slider, readout,
    el("p", {class: "say"}, "Drag the slider or the picture, or press ← →. The gradient is the slope of the tangent ",
      "at the recorded value. At other values the loss has another gradient; the curvature is its rate of change. Near the ",
      "recorded value the difference is half the curvature times the square of the nudge; further away, terms of higher ",
      "order add to it.")];
}
