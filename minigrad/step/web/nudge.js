// ---- nudge: the predicted change of the loss, beside the actual one ------------------------------------------------

function drawNudges() {
  const largest = Math.max(...nudges.flatMap(n => [Math.abs(n.predicted), Math.abs(n.actual)])) || 1;
  $("left").replaceChildren(el("h2", {}, "Nudge"),
    el("p", {class: "say"}, "A gradient predicts how much the loss changes when one number changes a little. Here a ",
      "number is changed and the forward runs again. These are the largest entries of each gradient; each number is ",
      "changed by a thousandth of the root mean square of its tensor."));
  $("right").replaceChildren(el("p", {class: "note"}, el("span", {class: "key predicted"}), "predicted change of the loss: gradient × nudge ",
    el("span", {class: "key actual"}), "actual change"),
    el("div", {class: "scroll"}, el("table", {},
      header(["number", "gradient", "nudge", "predicted", "actual", "actual / predicted", ""], [1, 2, 3, 4, 5]),
      nudges.map((n, row) => el("tr", {class: nudges[row - 1]?.leaf !== n.leaf ? "group" : ""},
        el("td", {}, n.leaf, el("span", {class: "shape"}, index(n.at))),
        [n.gradient, n.delta, n.predicted, n.actual].map(x => el("td", {class: "n"}, num(x))),
        el("td", {class: "n"}, (n.actual / n.predicted).toFixed(4)),
        el("td", {}, beside(n, largest)))))));
}
