// ---- one Step in a frame of another page: it is as high as its contents and has the theme of that page ---------------

function draw() {
  const {kind, k} = here(), n = listingOf(here()).lines.length, line = state.line ? `line ${state.line} of ${n}` : "";
  for (const tab of document.querySelectorAll("#moves [data-kind]"))
    tab.setAttribute("aria-current", tab.dataset.kind === kind);
  drawLeft(steps[k], kind);
  drawRight(steps[k], kind);
  foldOthers();
  drawWhy();
  $("place").textContent = line;
  $("live").textContent = [called(here()), line].filter(Boolean).join(", ");
}

let unfolded = false;                                       // whether the reader opened the other arrays

function foldOthers() {                                     // all but what the line computed, or the op's results
  const parts = [...$("right").children].slice(2);
  if (!parts.length) return;
  const others = el("details", {open: unfolded || state.trail.length > 0,
    ontoggle: () => { unfolded = others.open; }}, el("summary", {}, "other arrays of this op"), parts);
  $("right").append(others);
}

// ---- moves -----------------------------------------------------------------------------------------------------------

// An op, at its last line that has a picture: of a gradient that the op passes on, if there is one.
function show(kind, k) {
  const {lines} = listingOf({kind, k}), passed = steps[k].inputs.flatMap(x => "gradient" in x ? [`d${x.name}`] : []);
  const lastOf = wanted => lines.findLastIndex(([, , , trees]) =>
    Object.entries(trees).some(([name, tree]) => wanted(name) && partsOfLine(tree)));
  const ofPassed = lastOf(name => passed.includes(name)), last = ofPassed < 0 ? lastOf(() => true) : ofPassed;
  go(find(kind, k), last < 0 ? lines.length : last + 1);
}

const keys = {ArrowUp: previousLine, ArrowDown: nextLine, Escape: closeWhy};

document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  const before = address() + state.trail.length;
  keys[event.key]();
  if (address() + state.trail.length !== before) event.preventDefault();     // else the key scrolls the page around
};

function moves() {
  const button = (text, words, onclick) => el("button", {title: words, "aria-label": words, onclick}, text);
  return [
    el("div", {}, ["f", "b"].map(kind => el("button", {"data-kind": kind, onclick: () => show(kind, here().k)}, KINDS[kind]))),
    el("div", {}, button("▲ line", "previous line (↑)", previousLine), button("line ▼", "next line (↓)", nextLine)),
    el("span", {id: "place"})];
}

// ---- the page around -------------------------------------------------------------------------------------------------

function outer() {                                          // null where it may not be seen: then the frame scrolls
  try { return window.frameElement && parent.document.body; } catch { return null; }
}

function theme() {
  const {theme, jpThemeLight} = outer()?.dataset ?? {};     // of Sphinx's furo: light, dark or auto; of Jupyter: true or false
  if (["light", "dark"].includes(theme)) return theme;
  if (jpThemeLight) return jpThemeLight === "true" ? "light" : "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function paintAs(name) {
  if (document.documentElement.dataset.theme === name) return;
  document.documentElement.dataset.theme = name;
  makePalette();
  draw();
}

function fit() {
  const height = Math.ceil(document.body.getBoundingClientRect().height);
  if (outer() && innerWidth && height) frameElement.style.height = `${height}px`;
}

function start() {
  document.title = data.title || "stepper";
  $("moves").append(...moves());
  $("notes").append(...[...data.notes, ...data.omitted].map(text => el("li", {}, text)));
  document.documentElement.dataset.theme = theme();
  makePalette();
  document.documentElement.toggleAttribute("data-fits", !!outer());
  show("b", 0);
  let width = innerWidth;
  window.onresize = () => {                                 // a new height alone changes nothing
    if (innerWidth !== width) { width = innerWidth; draw(); }
  };
  new ResizeObserver(fit).observe(document.body);
  new MutationObserver(() => { if (state.trail.length) $("why").scrollIntoView({block: "nearest"}); }).observe(
    $("why"), {childList: true});
  const follow = () => paintAs(theme());
  matchMedia("(prefers-color-scheme: dark)").onchange = follow;
  if (outer()) new MutationObserver(follow).observe(outer(), {attributeFilter: ["data-theme", "data-jp-theme-light"]});
  window.onbeforeprint = () => paintAs("light");
  window.onafterprint = follow;
}

start();
