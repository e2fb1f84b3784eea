// ---- the right column: arrays --------------------------------------------------------------------------------------

function section(name, figures, legend) {
  const colours = COLOURS.map(([colour, words]) => el("span", {class: colour}, el("i"), words));
  return [el("h3", {}, name, legend && el("span", {class: "legend"}, "square-root scale:", colours)),
    el("div", {class: "figures"}, figures)];
}

const COLOURS = [["negative", "negative"], ["zero", "0"], ["positive", "positive"],
  ["neutral", "masked, integer, all equal"], ["cross", "NaN, ∞"]];
const GRADIENTS = "gradients with respect to the inputs", UPSTREAM = "upstream gradient and saved arrays";

function upstreamAndSaved(step) {
  const asks = name => ({asks: {name, line: 0}, size: SMALL});
  return [...Object.entries(step.dys).map(([name, a]) => heatmap(name, a, asks(name))),
    ...Object.entries(step.saved).map(([name, a]) => heatmap(name, a, {...asks(name), tag: "saved"}))];
}

function drawRight(step, kind) {                            // the newest arrays on top
  const {lines} = listingOf(here()), n = lines.length, forward = kind === "f";
  const whole = state.line === 0 || state.line === n, isNew = state.line > 0, last = state.line || n;
  const newest = state.line ? newestOf(step, lines) : [];
  const inPictures = new Set(newest.flatMap(e => e.matches("figure") ? [e] : [...e.querySelectorAll("figure")]).filter(
    f => f.dataset.whole !== undefined).map(f => `${f.dataset.name} ${f.dataset.line}`));
  const isShown = (name, line) => inPictures.has(`${name} ${line}`);

  const results = !whole ? [] :
    !forward ? step.inputs.flatMap(x => "gradient" in x ? gradientOf(x, isShown(`d${x.name}`, n)) : []) :
    Object.entries(step.outputs).filter(([name]) => !isShown(name, n)).map(
      ([name, a]) => heatmap(name, a, {isNew, asks: {name, line: n}}));
  const finals = !whole ? [] : finalsOf(step, forward);
  const before = lines.slice(0, state.line ? last - 1 : last).flatMap(([, , values], k) =>
    Object.entries(values).filter(([name, a]) => !finals.includes(a) && !isShown(name, k + 1)).map(
      ([name, a]) => heatmap(name, a, {tag: `line ${k + 1}`, size: SMALL, asks: {name, line: k + 1}})));
  const given = (!forward ? upstreamAndSaved(step) : step.inputs.map(
    x => heatmap(x.name, x.value, {to: x.label, from: true, size: SMALL, asks: {name: x.name, line: 0}}))
  ).filter(f => !isShown(f.dataset.name, 0));
  const parts = [
    ["gradient check failed", forward || state.line ? [] : failedChecks(step)],
    [`line ${last} of ${n} computed`, newest], [forward ? "outputs" : GRADIENTS, results],
    ["intermediate values", before], [forward ? "inputs" : UPSTREAM, given]].filter(([, figures]) => figures.length);
  if (!newest.length && !results.length) parts.unshift([`line ${last} of ${n} computed no array`, []]);
  $("right").replaceChildren(...parts.flatMap(([name, figures], k) => section(name, figures, k === 0)));
  lightFormula(isNew ? Object.keys(lines[last - 1][2]) : []);
}

const finalsOf = (step, forward) => forward ? Object.values(step.outputs) : step.inputs.map(x => x.gradient);

function newestOf(step, lines) {                            // what the current line computed, as pictures if possible
  const line = lines[state.line - 1], [, , values, trees] = line, last = state.line === lines.length;
  const finals = last ? finalsOf(step, here().kind === "f") : [];
  return Object.entries(values).flatMap(([name, a]) => {
    const input = last && step.inputs.find(x => x.gradient === a && name === `d${x.name}`);
    const figure = {tag: `line ${state.line}`, isNew: true, to: input?.label, asks: {name, line: state.line}};
    const tree = trees[name] && input ? unbroadcast(trees[name], input.shape) : trees[name];
    const drawn = tree && picture(name, tree, a, figure, line);
    if (!drawn && finals.includes(a)) return [];
    return [drawn ?? heatmap(name, a, {...figure, largest: 1})];
  });
}

function gradientOf(x, isShown) {                           // of an input; added to the gradients from earlier steps
  const name = `d${x.name}`, asks = {name, line: listingOf(here()).lines.length}, isNew = state.line > 0;
  if (!("earlier" in x)) return isShown ? [] : [heatmap(name, x.gradient, {to: x.label, isNew, asks, largest: 3})];
  const unit = Math.max(...[x.earlier, x.gradient, x.sum].map(p => magnitude(array(p)))) || 1;
  const options = {to: x.label, size: THIRD, axes: axesOf(name, x.shape), unit};
  const part = (word, a, more) => heatmap(word, a, {...options, asks: {...asks, name: `${word} ${name}`}, ...more});
  return [el("div", {class: "equation"}, part("earlier", x.earlier), sign("+"),
    part(name, x.gradient, {asks, isNew: isNew && !isShown, scale: "same scale", largest: 2}),
    sign("="), part("sum", x.sum, {scale: "same scale"}))];
}

function whyButtons(a, asks, axes, count) {                 // they ask about the largest entries
  const {kind, k} = here();
  return el("div", {class: "chips"}, "why?", largestOf(a, count).map(at =>
    el("button", {title: asks.name + placed(axes, at), onclick: () => askWhy({kind, k, ...asks, at})}, index(at))));
}

function largestOf(a, count) {                              // the indices of the numbers of the largest magnitudes
  const size = k => isFinite(a.numbers[k]) ? Math.abs(a.numbers[k]) : 0, area = a.rows * a.columns, found = [];
  for (let k = 0; k < a.numbers.length; k++) {
    if (found.length === count && size(k) <= size(found.at(-1))) continue;
    found.push(k);
    found.sort((i, j) => size(j) - size(i));
    found.length = Math.min(found.length, count);
  }
  return found.map(k => trueIndex(a, Math.floor(k / area), Math.floor(k % area / a.columns), k % a.columns));
}

// ---- the formula: the equations that the current line computes -----------------------------------------------------

function lightFormula(names) {
  for (const row of $("left").querySelectorAll("math [data-name]"))
    row.classList.toggle("lit", row.dataset.name.split(" ").some(name => names.includes(name)));
}
