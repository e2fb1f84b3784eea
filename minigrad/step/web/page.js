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
    drawLeft({...steps[k], checks: [], identity: null}, kind);
    $("right").replaceChildren(...drawQuiz(), ...section(UPSTREAM, upstreamAndSaved(steps[k]), true));
  } else {
    drawLeft(steps[k], kind);
    drawRight(steps[k], kind);
    if (state.quiz && kind === "b") $("right").append(...drawQuiz());
  }
  drawWhy();
  const computed = state.line ? Object.keys(listingOf(here()).lines[state.line - 1][2]).join(", ") : "";
  $("live").textContent = called(here()) +
    (state.line ? `, line ${state.line} of ${n}${computed ? `, computed ${computed}` : ""}` : "");
}

function overlay(...children) {
  $("overlay").replaceChildren(...children, el("p", {}, el("button", {onclick: () => $("overlay").close()}, "Close")));
  $("overlay").showModal();
}

function showHelp() {
  const does = [["← →", "previous, next op"], ["↑ ↓", "previous, next line"], ["Home End", "first, last"],
    ["f d n u c", "forward, backward, nudge, update, check"], ["b", "run to a breakpoint"],
    ["w", "why: explain the largest entry of a gradient"], ["q", "quiz on and off"], ["Esc", "close"], ["?", "this"]];
  overlay(el("h2", {}, "Keys"), el("table", {}, does.map(([names, what]) => el("tr", {},
    el("td", {}, names.split(" ").map(name => [el("kbd", {}, name), " "])), el("td", {}, what)))),
    el("p", {class: "note"}, "Tab goes to the next heat map; arrow keys then read its values. Circles mark the ",
      "entries that “why” explains. A breakpoint is an op, a module, a parameter, “bad” (a check failed), “nan”, or ",
      "“norm > 3”. The address of the page contains the step and the line."));
}

function toggleQuiz() { state.quiz = !state.quiz; state.trail = []; draw(); }

function useTheme(name) {
  document.documentElement.dataset.theme = name;
  makePalette();
}

function otherTheme() {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  store.set("theme", name);
  useTheme(name);
  draw();
}

// ---- keys and buttons ----------------------------------------------------------------------------------------------

const actions = {
  first: () => go(sameKind()[0]), last: () => go(sameKind().at(-1)),
  previous: () => go(state.at - 1), next: () => go(state.at + 1), up: previousLine, down: nextLine, quiz: toggleQuiz, help: showHelp,
  theme: otherTheme,
};
for (const [id, action] of Object.entries(actions)) $(id).onclick = action;
$("jump").onchange = () => go(Number($("jump").value));
$("until").onsubmit = event => { event.preventDefault(); runTo($("breakpoint").value.trim()); };

const keys = {
  ArrowLeft: actions.previous, ArrowRight: actions.next, ArrowUp: previousLine, ArrowDown: nextLine,
  Home: actions.first, End: actions.last, b: () => $("breakpoint").focus(), q: toggleQuiz, "?": showHelp, Escape: closeWhy,
  w: () => document.querySelector("#right .chips button")?.click(),
  f: () => tab("f"), d: () => tab("b"), n: () => tab("n"), u: () => tab("u"), c: () => tab("c"),
};
document.onkeydown = event => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || $("overlay").open;
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
};

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
  useTheme(store.get("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  window.onhashchange = fromHash;
  window.onresize = () => draw();
  let before;                                               // print on white
  window.onbeforeprint = () => { before = document.documentElement.dataset.theme; useTheme("light"); draw(); };
  window.onafterprint = () => { useTheme(before); draw(); };
  if (!data.embedded && location.hash) fromHash();
  draw();
}

start();
