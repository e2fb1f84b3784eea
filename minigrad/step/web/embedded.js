// ---- one Step in a page of other text: it has the height and the theme of its surroundings --------------------------

function outerTheme() {                                     // null where nobody says, or in another page's sandbox
  try {
    const {theme, jpThemeLight} = data.embedded ? parent.document.body.dataset : {};
    return {light: "light", dark: "dark", true: "light", false: "dark"}[theme ?? jpThemeLight] ?? null;
  } catch { return null; }
}

// arrays that the current line did not compute; whether they are shown does not depend on the line
const opened = new Set();
function foldedSection(name, count, box) {
  const ontoggle = event => opened[event.target.open ? "add" : "delete"](name);
  return [el("details", {open: opened.has(name), ontoggle}, el("summary", {}, `${name} (${count})`), box)];
}

function startEmbedded() {
  document.documentElement.dataset.embedded = "";
  // the last line that computes something: after it, "return dq, dk, dv" only names arrays
  state.line = listingOf(here()).lines.findLastIndex(
    ([, , , trees]) => Object.values(trees).some(tree => tree.op !== "array")) + 1;
  draw();
  const follow = () => { useLooks(); draw(); };
  matchMedia("(prefers-color-scheme: dark)").onchange = follow;
  try {
    const frame = window.frameElement, height = () => { frame.style.height = `${document.body.offsetHeight + 2}px`; };
    new MutationObserver(follow).observe(parent.document.body, {attributeFilter: ["data-theme", "data-jp-theme-light"]});
    frame.style.minHeight = 0;
    frame.style.resize = "none";
    document.documentElement.style.overflowY = "hidden";
    new ResizeObserver(height).observe(document.body);
    height();
  } catch { /* a sandbox: the frame keeps its height and scrolls */ }
}
