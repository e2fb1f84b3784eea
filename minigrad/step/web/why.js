// ---- why: one number by the chain rule, followed from term to term up to the loss ----------------------------------

function openWhy(trail) {
  const {step} = trail.at(-1);
  if (here().kind === "b" && here().k === step) { state.trail = trail; drawWhy(); } else goTo("b", step, 0, 0, trail);
}

function gradientName({step, input, at}) { return `d${steps[step].inputs[input].name}${at.length ? index(at) : ""}`; }

function whyLink(words, trail) {                            // pale where this page has no answer
  const {step, input, at} = trail.at(-1);
  return el("a", {href: `#b${step}`, class: whyOf(step, input, at) ? "" : "pale",
    onclick: event => { event.preventDefault(); openWhy(trail); }}, words);
}

function closeWhy() { state.trail = []; drawWhy(); }

function drawWhy() {
  const panel = $("why"), element = state.trail.at(-1);
  panel.hidden = !element;
  if (!element) return;
  const {step, input, at} = element, answer = whyOf(step, input, at);
  const crumbs = state.trail.flatMap((t, n) => [n ? " › " : "",
    n === state.trail.length - 1 ? el("b", {}, gradientName(t)) :
      whyLink(gradientName(t), state.trail.slice(0, n + 1)),
    el("span", {}, ` ${steps[t.step].inputs[t.input].leaf || steps[t.step].name}`)]);
  const atLoss = answer && !data.embedded && !answer.terms.some(t => t.uses.length);
  panel.replaceChildren(el("button", {class: "close", onclick: closeWhy}, "close"),
    el("div", {class: "crumbs"}, crumbs, atLoss ? " › the loss" : ""));
  if (!answer) {
    panel.append(el("p", {}, `Why ${gradientName(element)}? This page explains only the largest entries: `,
      (explainable[`${step}:${input}`] ?? []).slice(0, 6).flatMap(other =>
        [whyLink(index(other), [...state.trail.slice(0, -1), {step, input, at: other}]), " "]),
      "The terminal and step.why() explain any entry."));
    return;
  }
  const largest = Math.max(...answer.terms.map(t => Math.abs(t.product))), outputs = Object.keys(steps[step].outputs);
  const name = steps[step].inputs[input].name;
  panel.append(
    el("p", {class: "say"}, "Why is ", el("b", {}, `${gradientName(element)} = ${num(answer.value, 4)}`),
      "? By the chain rule it is the sum of ", el("code", {}, `∂y/∂${name}`), " × ", el("code", {}, "dy"), ` over the ` +
      `${plural(answer.count, "element")} y of the output that depend on this element of ${name}:`),
    el("div", {class: "scroll"}, el("table", {},
      header(["y", "local derivative", "", "upstream gradient", "", "product", "", data.embedded ? "" :
        "upstream gradient from"], [1, 3, 5]),
      answer.terms.map(t => el("tr", {}, el("td", {class: "n"}, `${outputs[t.out]}${t.at.length ? index(t.at) : ""}`),
        el("td", {class: "n"}, num(t.derivative, 4)), el("td", {}, "×"), el("td", {class: "n"}, num(t.dy, 4)),
        el("td", {}, "="), el("td", {class: "n"}, num(t.product, 4)),
        el("td", {}, bars([[Math.abs(t.product) / largest, "actual"]])),
        el("td", {}, t.uses.length ? t.uses.map(([s, i], n) => [n ? " + " : "",
          whyLink(`${steps[s].op} (step ${s})`, [...state.trail, {step: s, input: i, at: t.at}])]) :
          data.embedded ? "" : "the loss itself: 1"))))),
    el("p", {class: "note"}, `Sum of the terms shown: ${num(sum(answer.terms, t => t.product), 5)}. ` +
      `Sum of all ${plural(answer.count, "term")}: ${num(answer.total, 5)}. Recorded: ${num(answer.value, 5)}.`));
}

const header = (names, numeric) => el("tr", {}, names.map(
  (name, c) => el("th", {class: numeric.includes(c) ? "n" : ""}, name)));
const bars = widths => el("div", {class: "bars"}, widths.map(([share, name]) =>
  el("i", {class: name, style: `width:${Math.max(1, 100 * share)}%`})));

const beside = ({predicted, actual}, largest) =>
  bars([[Math.abs(predicted) / largest, "predicted"], [Math.abs(actual) / largest, "actual"]]);
