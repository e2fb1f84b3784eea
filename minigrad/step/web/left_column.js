// ---- the left column: checks, formula, source ----------------------------------------------------------------------

function mathml(text) { const box = el("div", {class: "formula", tabindex: 0}); box.innerHTML = text; return box; }

function sourceOf(listing, line, onLine, remark = () => "") {
  const ran = listing.lines.slice(0, line), [first, last] = ran.at(-1) ?? [-1, -1];
  const rows = listing.source.split("\n").map((text, n) => {
    const [, code, comment = ""] = /^(.*?)(\s*#.*)?$/.exec(text), indent = /^ */.exec(text)[0].length;
    // more than one in a loop
    const runs = listing.lines.flatMap(([a, b], k) => a <= n && n <= b ? [k + 1] : []);
    const stop = runs.findLast(k => k <= line) ?? runs[0], isFirst = listing.lines[stop - 1]?.[0] === n;
    const isNow = n >= first && n <= last, status = isNow ? "now" : runs[0] <= line ? "ran" : "";
    return el("div", {class: status + (stop ? " stop" : ""), "aria-current": isNow && "step", "data-line": isFirst && stop,
      style: `--indent: ${indent}ch`, onclick: stop && (() => onLine(stop))},
      code || " ", el("i", {}, comment.replace(/^\s+/, "  ")), remark(n));
  });
  return el("pre", {tabindex: 0, "aria-label": "source; the numbers count the statements that ran"}, rows);
}

function verdicts(step) {
  const names = [...new Set(step.checks.map(row => row.of))], failed = step.checks.some(row => !row.ok);
  return el("div", {class: "verdicts"}, names.length > 0 && el("span", {class: "note"},
    `gradient check ${failed ? "failed" : "passed"}, relative error`), names.map(name => {
    const rows = step.checks.filter(row => row.of === name), ok = rows.every(row => row.ok);
    const detail = rows.map(row => `${row.check}: ${row.detail || `relative error ${num(row.error, 2)}`}`).join("\n");
    return el("span", {class: `verdict ${ok ? "good" : "bad"}`, title: detail},
      `${ok ? "✓" : "✗"} ${name} ${num(rows[0].error, 2)}`);
  }));
}

function drawLeft(step, kind) {
  const formula = data.formulas[step.formula], listing = listingOf(here()), backward = kind === "b";
  const failures = step.checks.filter(row => !row.ok).map(row => el("p", {class: "alert"}, row.detail));
  const equations = formula[backward ? "backward" : "forward"];
  const identity = step.identity && el("p", {class: "say"}, el("span", {class: step.identity.ok ? "good" : "bad"},
    step.identity.ok ? "✓ identity verified: " : "✗ identity violated: "), step.identity.words,
    el("div", {class: "where"}, `${step.identity.expression}  (residual ${num(step.identity.residual, 2)})`));
  $("left").replaceChildren(
    el("h2", {}, step.op, step.name !== step.op && el("span", {}, " → ", step.name)),
    el("p", {class: "where"}, `called at ${step.at}`),
    ...backward ? [verdicts(step), ...failures] : [],
    ...step.bad_origin ? [el("p", {class: "alert"}, `NaN or infinity: ${step.bad_origin}`)] : [],
    ...equations ? [mathml(equations)] : [],
    el("h3", {}, `source of the ${KINDS[kind].toLowerCase()}`, el("span", {class: "where"}, listing.place)),
    ...listing.source ? [sourceOf(listing, state.line, n => go(state.at, n))] : [],
    ...listing.note ? [el("p", {class: "note"}, listing.note)] : [],
    ...formula.why ? [el("p", {class: "say"}, formula.why)] : [],
    ...backward && identity ? [identity] : [],
    ...step.kernel ? [el("p", {class: "note"}, step.kernel)] : []);
}
