// ---- positions: forward f0, f1, ...; backward b0, b1, ...; nudges n; the optimizer's updates u0, u1, ...; check c ---

const KINDS = {f: "Forward", b: "Backward", n: "Nudge", u: "Update", c: "Check"};
const positions = [
  ...steps.map((_, k) => ({kind: "f", k: steps.length - 1 - k})), ...steps.map((_, k) => ({kind: "b", k})),
  ...nudges.length ? [{kind: "n", k: 0}] : [], ...(optimizer?.updates ?? []).map((_, k) => ({kind: "u", k})),
  ...data.compared ? [{kind: "c", k: 0}] : [],
];
const find = (kind, k = 0) => positions.findIndex(s => s.kind === kind && s.k === k);
const state = {at: find("b"), line: 0, pick: 0, trail: [], quiz: false, unfolded: new Set()};
const here = () => positions[state.at];
const listingOf = ({kind, k}) => "nc".includes(kind) ? {lines: []} : kind === "u" ? optimizer.updates[k] :
  steps[k][kind === "f" ? "forward" : "backward"];
const title = ({kind, k}) => kind === "n" ? "nudges" : kind === "c" ? "check" :
  kind === "u" ? `${optimizer.op} → ${optimizer.updates[k].leaf}` :
  steps[k].name === steps[k].op ? steps[k].op : `${steps[k].op} → ${steps[k].name}`;

function called(s) {                                        // steps are counted from 0, as in Python
  const n = steps.length - 1;
  if ("nc".includes(s.kind)) return title(s);
  return {f: `forward ${n - s.k} of ${n}`, b: `step ${s.k} of ${n}`,
    u: `update ${s.k} of ${optimizer?.updates.length - 1}`}[s.kind] + `: ${title(s)}`;
}

function address() {
  const {kind, k} = here();
  return `#${kind}${k}${state.line || state.pick ? `.${state.line}` : ""}${state.pick ? `.${state.pick}` : ""}`;
}

function go(at, line = 0, pick = 0, trail = []) {           // line 0: the op as a whole; n: after its n-th line
  at = Math.max(0, Math.min(positions.length - 1, at));
  if (at !== state.at) state.unfolded = new Set();
  Object.assign(state, {at, line: Math.min(line, listingOf(positions[at]).lines.length), pick, trail});
  draw();
  if (window === window.top && location.hash !== address()) location.hash = address();    // a frame has no address
}

function goTo(kind, k, line, pick, trail) { go(find(kind, k), line, pick, trail); }

function fromHash() {
  const found = /^#([fbnuc])(\d+)(?:\.(\d+))?(?:\.(\d+))?$/.exec(location.hash);
  if (!found || location.hash === address()) return;
  const at = find(found[1], Number(found[2]));
  if (at >= 0) go(at, Number(found[3] ?? 0), Number(found[4] ?? 0));
}

function nextLine() {
  if (state.line < listingOf(here()).lines.length) go(state.at, state.line + 1, state.pick);
  else if (state.at + 1 < positions.length) go(state.at + 1, 1);
}

function previousLine() {
  if (state.line > 1) go(state.at, state.line - 1, state.pick);
  else if (state.at > 0) go(state.at - 1, Infinity);
}

const sameKind = () => positions.flatMap((s, at) => s.kind === here().kind ? [at] : []);
