// ---- the right column: arrays --------------------------------------------------------------------------------------

function section(name, figures, legend) {
  return [el("h3", {}, name, legend && el("span", {class: "legend"}, "−max", el("i"), "+max, signed square root")),
    el("div", {class: "figures"}, figures)];
}

const GRADIENTS = "gradients with respect to the inputs", UPSTREAM = "upstream gradient and saved arrays";

function upstreamAndSaved(step) {
  return [...Object.entries(step.dys).map(([name, a]) => heatmap(name, a, {size: SMALL})),
    ...Object.entries(step.saved).map(([name, a]) => heatmap(name, a, {size: SMALL, tag: "saved"}))];
}

function drawRight(step, kind) {                            // the newest arrays on top
  const {lines} = listingOf(here()), n = lines.length, forward = kind === "f";
  const whole = state.line === 0 || state.line === n, isNew = state.line > 0;
  const given = !forward ? upstreamAndSaved(step) :
    step.inputs.map(x => heatmap(x.name, x.value, {to: x.label, from: true, size: SMALL}));
  const results = !whole ? [] : forward ? Object.entries(step.outputs).map(([name, a]) => heatmap(name, a, {isNew})) :
    step.inputs.flatMap((x, i) => "gradient" in x ? [gradientOf(x, i)] : []);
  const finals = !whole ? [] : forward ? Object.values(step.outputs) : step.inputs.map(x => x.gradient);
  const computed = (k, size) => Object.entries(lines[k - 1][2]).filter(([, a]) => !finals.includes(a)).map(
    ([name, a]) => heatmap(name, a, {tag: `line ${k}`, isNew: size === LARGE, size}));
  const last = state.line || n, newest = state.line ? computed(last, LARGE) : [];
  const before = Array.from({length: state.line ? last - 1 : last}, (_, k) => computed(k + 1, SMALL)).flat();
  const parts = [
    [`line ${last} of ${n} computed`, newest], [forward ? "outputs" : GRADIENTS, results],
    ["intermediate values", before], [forward ? "inputs" : UPSTREAM, given]].filter(([, figures]) => figures.length);
  if (!newest.length && !results.length) parts.unshift([`line ${last} of ${n} computed no array`, []]);
  $("right").replaceChildren(...parts.flatMap(([name, figures], k) => section(name, figures, k === 0)));
}

function gradientOf(x, i) {
  const {k} = here(), name = `d${x.name}`, line = listingOf(here()).lines.length;
  const explain = at => askWhy({kind: "b", k, line, name, at});
  const size = "earlier" in x ? THIRD : LARGE;
  const figure = heatmap(name, x.gradient, {to: x.label, explain, isNew: state.line > 0, size});
  if (!("earlier" in x)) return figure;
  return el("div", {class: "sum"}, heatmap("earlier", x.earlier, {to: x.label, size: THIRD}), el("span", {}, "+"), figure,
    el("span", {}, "="), heatmap("sum", x.sum, {to: x.label, size: THIRD}));
}
