// ---- the optimizer's step ------------------------------------------------------------------------------------------

function drawUpdate(k) {
  const update = optimizer.updates[k], pick = Math.min(state.pick, Math.max(update.picks.length - 1, 0));
  const at = update.picks[pick];
  const formula = data.formulas[update.formula], after = state.line || update.lines.length;
  const values = n => update.lines.slice(0, after).filter(([, last]) => last === n).flatMap(([, , computed]) =>
    Object.entries(computed).map(([name, xs]) => el("span", {class: "value"}, `    ${name} = ${num(xs[pick], 5)}`)));
  const largest = Math.max(...optimizer.updates.flatMap(u => [Math.abs(u.predicted), Math.abs(u.actual)])) || 1;
  const row = (name, u, status) => el("tr", {class: status}, el("td", {}, name),
    [u.predicted, u.secondOrder, u.actual].map(x => el("td", {class: "n"}, x == null ? "" : num(x))),
    el("td", {}, status === "total" ? null : beside(u, largest)));
  $("left").replaceChildren(el("h2", {}, optimizer.op, el("span", {}, " → ", update.leaf)),
    el("p", {class: "note"}, "one step of the optimizer, computed in float64; no parameter has changed"),
    ...optimizer.clip ? [el("p", {class: "say"}, "Clipping: ", optimizer.clip)] : [],
    el("h3", {}, "change of the loss"),
    el("p", {class: "note"}, el("span", {class: "key predicted"}), "predicted: sum of gradient × change ",
      el("span", {class: "key actual"}), "actual, if only that tensor is updated; ",
      "curvature: ½ dᵀHd, with the update d and the matrix H of second derivatives of the loss; predicted + curvature ",
      "is the actual change up to terms of higher order"),
    el("div", {class: "scroll"}, el("table", {},
      header(["tensor", "predicted", "curvature", "actual", ""], [1, 2, 3]),
      row("all tensors at once", optimizer, "total"),
      optimizer.updates.map((u, n) => row(el("a", {href: `#u${n}`}, u.leaf), u, n === k ? "now" : "")))),
    el("p", {class: "say"}, `All tensors at once: ${optimizer.difference.replaceAll("-", "−")}.`));
  $("right").replaceChildren(...!at ? [el("p", {class: "note"}, "The gradient of this tensor is zero.")] : [
      el("h3", {}, "the arithmetic of one weight", el("span", {class: "where"}, optimizer.place)),
      el("div", {class: "chips"}, update.leaf, update.picks.map((p, n) => el("button",
        {"aria-pressed": String(n === pick), onclick: () => go(state.at, state.line, n)}, index(p)))),
      el("p", {class: "given"}, Object.entries(update.given).map(
        ([name, xs]) => el("span", {}, `${name} = ${num(xs[pick], 5)}`))),
      sourceOf({source: optimizer.source, lines: update.lines}, state.line, n => go(state.at, n, pick), values)],
    mathml(formula.forward), ...formula.why ? [el("p", {class: "say"}, formula.why)] : [],
    ...update.overTime ? overTime(update) : [],
    ...section("update of each weight", [heatmap("p_new − p", update.change, {to: update.leaf})], true));
}

const beside = ({predicted, actual}, largest) =>
  bars([[Math.abs(predicted) / largest, "predicted"], [Math.abs(actual) / largest, "actual"]]);

// ---- one weight in 30 steps ----------------------------------------------------------------------------------------

const TOGETHER = {"m-hat": "m", "v-hat": "v", uncorrected: "step"};     // a column, and the one whose chart it is in
const hatted = name => name.replace("-hat", "\u0302");

function overTime(update) {
  const columns = Object.fromEntries(Object.entries(update.overTime).map(([name, text]) => [name, floats(text)]));
  const names = Object.keys(columns), ts = columns.g.map((_, k) => k + 1);
  const weight = weightName({leaf: update.leaf, at: update.picks[0]});
  const width = 290;
  const charts = names.filter(name => !TOGETHER[name]).map(name => {
    const same = [name, ...names.filter(other => TOGETHER[other] === name)];
    const lines = same.map((each, n) => ({kind: n ? "predicted" : "actual", xs: ts, ys: columns[each]}));
    const label = `${same.join(" and ")} of ${weight} for t = 1 to ${ts.length}`;
    return el("div", {class: "multiple"}, same.map((each, n) => lineKey(n ? "predicted" : "actual", hatted(each))),
      chart({width, height: 190, xName: "t", lines, label, most: [6, 4]}).root);
  });
  return [el("h3", {}, `over time: t = 1 to ${ts.length}`, el("span", {class: "where"}, weight)),
    el("p", {class: "say"}, `${optimizer.overTime.replaceAll(/(\w)-hat/g, "$1\u0302")}.`),
    el("p", {class: "note"}, "The page has this for the weight of largest gradient in each tensor. For any other weight write ",
      "o w[0,2] in the terminal, or record.over_time({\"w\": [(0, 2)]}) in a notebook."),
    el("div", {class: "multiples"}, charts),
    el("div", {class: "scroll picker", tabindex: 0, role: "group", "aria-label": `table over time of ${weight}`},
      el("table", {}, header(["t", ...names.map(hatted)], names.map((_, n) => n + 1)), ts.map((t, k) =>
        el("tr", {}, el("td", {}, t), names.map(name => el("td", {class: "n"}, num(columns[name][k])))))))];
}
