// ---- drawing -------------------------------------------------------------------------------------------------------

function draw() {
  const {kind, k} = here(), n = listingOf(here()).lines.length;
  say("");
  for (const tab of $("tabs").children) tab.setAttribute("aria-current", tab.dataset.kind === kind);
  $("jump").value = state.at;
  $("quiz").setAttribute("aria-pressed", state.quiz);
  drawGraph();
  if (kind === "n") drawNudges();
  else if (kind === "u") drawUpdate(k);
  else if (kind === "c") drawScatter();
  else if (hiddenByQuiz()) {
    state.line = 0;
    drawQuizLeft(steps[k]);
    $("right").replaceChildren(...drawQuiz(), ...section(UPSTREAM, upstreamAndSaved(steps[k]), true));
  } else {
    drawLeft(steps[k], kind);
    drawRight(steps[k], kind);
    if (state.quiz && kind === "b") $("right").append(...drawQuiz());
  }
  drawWhy();
  showLine();
  placeTour();
  const computed = state.line ? Object.keys(listingOf(here()).lines[state.line - 1][2]).join(", ") : "";
  const line = state.line ? `, line ${state.line} of ${n}` : "";
  $("printed").replaceChildren(el("b", {}, document.title), `  ·  ${called(here())}`, line);
  $("live").textContent = called(here()) + line + (computed ? `, computed ${computed}` : "");
}

let shown;                                                  // the position and line that were drawn last

// scroll its column, not the page, until the current line is in sight
function showLine() {
  const place = `${state.at}.${state.line}`, rows = [...document.querySelectorAll("pre > .now")];
  if (shown !== place) $("left").scrollTop = $("arrays").scrollTop = 0;
  shown = place;
  if (rows.length) intoSight(rows[0], rows.at(-1), 24);
}

// the answer makes the columns lower: keep the element in sight
function showAsked() {
  const {name} = state.trail.at(-1) ?? {}, lit = [...$("right").querySelectorAll(".lit")];
  const asked = lit.filter(box => box.closest("figure").dataset.name === name);
  if (asked.length && !asked.some(isInSight)) intoSight(asked[0], asked[0], 20);
}

function isInSight(element) {
  const {top, bottom} = element.getBoundingClientRect();
  const column = element.closest("#left, #arrays").getBoundingClientRect();
  return top >= column.top && bottom <= column.bottom;
}

// scroll the column of these elements as little as is needed
function intoSight(first, last, most) {
  const {top} = first.getBoundingClientRect(), {bottom} = last.getBoundingClientRect();
  const column = first.closest("#left, #arrays"), box = column.getBoundingClientRect();
  const margin = Math.max(0, Math.min(most, (box.height - (bottom - top)) / 2));
  const over = top - margin - box.top, under = bottom + margin - box.bottom;
  if (over < 0 || under > 0) column.scrollTop += over < 0 ? over : Math.min(under, over);
}

function overlay(...children) {
  $("overlay").replaceChildren(...children, el("p", {}, el("button", {onclick: () => $("overlay").close()}, "Close")));
  $("overlay").showModal();
}

function showHelp() {
  const does = [["← →", "previous, next op"], ["↑ ↓", "previous, next line; so do Page Up, Page Down and Space"],
    ["Home End", "first, last"], ["f d n u c", "forward, backward, nudge, update, check"], ["b", "run to a breakpoint"],
    ["w", "why: explain the largest entry of the newest array"], ["q", "quiz on and off"],
    ["h g", "show or hide the header, the graph"], ["t", "big type"], ["Esc", "close"], ["?", "this"]];
  overlay(el("h2", {}, "Keys"), el("table", {}, does.map(([names, what]) => el("tr", {},
    el("td", {}, names.split(" ").map(name => [el("kbd", {}, name), " "])), el("td", {}, what)))),
    el("p", {class: "note"}, "Tab goes to the next heat map; arrow keys then read its values, Page Up and Page Down change ",
      "its panel, Enter (or a click) asks why a number has its value, Esc leaves it. A breakpoint is an op, a module, a parameter, ",
      "“bad” (a check failed), “nan”, or “norm > 3”. The address of the page contains the step and the number of the line."),
    tourButton());
}

function toggleQuiz() { state.quiz = !state.quiz; state.trail = []; draw(); }

// ---- looks: each has two values, and the reader's choice is remembered ---------------------------------------------

const isLow = () => innerHeight < 35 * remInPixels() || innerWidth < 700;
const LOOKS = {
  theme: {values: ["light", "dark"], first: () => matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"},
  type: {values: ["usual", "big"], first: () => "usual"},
  header: {values: ["open", "folded"], first: () => isLow() ? "folded" : "open"},
  graph: {values: ["open", "folded"], first: () => isLow() ? "folded" : "open"},
};

function look(name, value) {
  document.documentElement.dataset[name] = value;
  if (name === "theme") makePalette();
  else if (name === "type") $("type-switch").setAttribute("aria-pressed", value === "big");
  else $(`${name}-switch`).setAttribute("aria-expanded", value === "open");
}

function useLooks() { for (const [name, {first}] of Object.entries(LOOKS)) look(name, store.get(name) ?? first()); }

function otherLook(name) {
  const value = LOOKS[name].values.find(other => other !== document.documentElement.dataset[name]);
  store.set(name, value);
  look(name, value);
  draw();
}

// ---- keys and buttons ----------------------------------------------------------------------------------------------

const actions = {
  first: () => go(sameKind()[0]), last: () => go(sameKind().at(-1)),
  previous: () => go(state.at - 1), next: () => go(state.at + 1), up: previousLine, down: nextLine,
  quiz: toggleQuiz, help: showHelp,
};
for (const [id, action] of Object.entries(actions)) $(id).onclick = action;
for (const name of Object.keys(LOOKS)) $(`${name}-switch`).onclick = () => otherLook(name);
$("jump").onchange = () => go(Number($("jump").value));
$("until").onsubmit = event => { event.preventDefault(); runTo($("breakpoint").value.trim()); };

const keys = {
  ArrowLeft: actions.previous, ArrowRight: actions.next, ArrowUp: previousLine, ArrowDown: nextLine,
  // the first two: a presenter's clicker
  PageUp: previousLine, PageDown: nextLine, " ": nextLine, "shift ": previousLine,
  Home: actions.first, End: actions.last, b: runBox, q: toggleQuiz, "?": showHelp,
  Escape: () => { endTour(); closeWhy(); },
  w: () => document.querySelector("#right .chips button")?.click(),
  f: () => tab("f"), d: () => tab("b"), n: () => tab("n"), u: () => tab("u"), c: () => tab("c"),
  h: () => otherLook("header"), g: () => otherLook("graph"), t: () => otherLook("type"),
};
document.onkeydown = event => {
  const {tagName, id} = event.target, isClicker = event.key.startsWith("Page") && ["breakpoint", "jump"].includes(id);
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(tagName) && !isClicker || $("overlay").open;
  if (event.key === "Escape" && typing) event.target.blur();
  const key = event.shiftKey && event.key === " " ? "shift " : event.key;
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[key]) return;
  if (event.key === " " && ["BUTTON", "A"].includes(tagName)) return;                   // there it clicks
  event.preventDefault();
  keys[key]();
};

function runBox() {
  look("header", "open");
  $("breakpoint").focus();
}

function tab(kind) {                                        // forward and backward of the same op
  const {kind: old, k} = here(), same = "fb".includes(kind) && "fb".includes(old) ? find(kind, k) : -1;
  const at = same >= 0 ? same : positions.findIndex(s => s.kind === kind);
  if (at >= 0) go(at);
}

function start() {
  document.title = data.title || "stepper";
  $("title").append(el("b", {}, data.title || "one backward, step by step"),
    data.loss == null ? "" : `  ·  loss ${num(data.loss, 4)}`);
  $("tabs").append(...[...new Set(positions.map(s => s.kind))].map(
    kind => el("button", {"data-kind": kind, onclick: () => tab(kind)}, KINDS[kind])));
  $("jump").append(...positions.map((s, at) => el("option", {value: at}, called(s))));
  $("names").append(...["bad", "nan", ...allNames].map(value => el("option", {value})));
  $("notes").append(...[...data.notes, ...data.omitted].map(text => el("li", {}, text)));
  useLooks();
  window.onhashchange = fromHash;
  window.onresize = () => { useLooks(); shown = ""; draw(); };
  let before;                                               // print on white
  window.onbeforeprint = () => { before = document.documentElement.dataset.theme; look("theme", "light"); draw(); };
  window.onafterprint = () => { look("theme", before); draw(); };
  new MutationObserver(() => { drawGraph(); showLine(); showAsked(); }).observe(
    $("why"), {childList: true, attributes: true});
  if (location.hash) fromHash();
  draw();
  startTour();
}

start();
