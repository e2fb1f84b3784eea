// ---- the optimizer's step ------------------------------------------------------------------------------------------

function drawUpdate(k) {
  const update = optimizer.updates[k], pick = Math.min(state.pick, Math.max(update.picks.length - 1, 0));
  const at = update.picks[pick];
  const formula = data.formulas[update.formula], after = state.line || update.lines.length;
  const values = n => update.lines.slice(0, after).filter(([, last]) => last === n).flatMap(([, , computed]) =>
    Object.entries(computed).map(([name, xs]) => el("span", {class: "value"}, `    ${name} = ${num(xs[pick], 5)}`)));
  const largest = Math.max(...optimizer.updates.flatMap(u => [Math.abs(u.predicted), Math.abs(u.actual)])) || 1;
  const row = (name, u, status) => el("tr", {class: status}, el("td", {}, name), [u.predicted, u.actual].map(x =>
    el("td", {class: "n"}, num(x))), el("td", {}, status === "total" ? null :
    beside(u, largest)));
  $("left").replaceChildren(el("h2", {}, optimizer.op, el("span", {}, " → ", update.leaf)),
    el("p", {class: "note"}, "one step of the optimizer, computed in float64; no parameter has changed"),
    ...optimizer.clip ? [el("p", {class: "say"}, "Clipping: ", optimizer.clip)] : [],
    el("h3", {}, "change of the loss"),
    el("p", {class: "note"}, el("span", {class: "key predicted"}), "predicted: sum of gradient × change ",
      el("span", {class: "key actual"}), "actual, if only that tensor is updated"),
    el("div", {class: "scroll"}, el("table", {}, header(["tensor", "predicted", "actual", ""], [1, 2]),
      row("all tensors at once", optimizer, "total"),
      optimizer.updates.map((u, n) => row(el("a", {href: `#u${n}`}, u.leaf), u, n === k ? "now" : "")))));
  $("right").replaceChildren(...!at ? [el("p", {class: "note"}, "The gradient of this tensor is zero.")] : [
      el("h3", {}, "the arithmetic of one weight", el("span", {class: "where"}, update.place)),
      el("div", {class: "chips"}, update.leaf, update.picks.map((p, n) => el("button",
        {"aria-pressed": String(n === pick), onclick: () => go(state.at, state.line, n)}, index(p)))),
      el("p", {class: "given"}, Object.entries(update.given).map(
        ([name, xs]) => el("span", {}, `${name} = ${num(xs[pick], 5)}`))),
      sourceOf(update, state.line, n => go(state.at, n, pick), values)],
    mathml(formula.forward), ...formula.why ? [el("p", {class: "say"}, formula.why)] : [],
    ...section("update of each weight", [heatmap("p_new − p", update.change, {to: update.leaf})], true));
}
