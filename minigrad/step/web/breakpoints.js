// ---- breakpoints: the same words as loss.backward_steps(until=...) -------------------------------------------------

function namesOf(step) {
  const parts = step.name === step.op ? [] : step.name.split(".");
  const modules = parts.map((_, k) => parts.slice(0, k + 1).join("."));
  return new Set([step.op, ...modules, ...step.inputs.map(x => x.leaf).filter(Boolean)]);
}

const allNames = [...new Set(steps.flatMap(s => [...namesOf(s)]))].sort();

function stops(text) {
  const bound = /^norm\s*>\s*(\S+)$/.exec(text);
  if (text === "bad") return s => !s.checks.length || s.checks.some(row => !row.ok);
  if (text === "nan") return s => s.bad_origin !== "";
  if (bound && isFinite(bound[1])) {
    return s => s.inputs.some(x => "gradient" in x && norm(x.gradient) > Number(bound[1]));
  }
  if (allNames.includes(text)) return s => namesOf(s).has(text);
}

const norm = position => { const a = data.arrays[position]; return Math.abs(Number(a.norm ?? a.value)); };

function distance(a, b) {                                   // Levenshtein's
  let row = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      row.push(Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] !== b[j - 1])));
    }
  }
  return row[b.length];
}

function runTo(text) {
  const stop = stops(text);
  if (!stop) {
    const nearest = [...allNames].sort((a, b) => distance(a, text) - distance(b, text)).slice(0, 3);
    return say(`nothing here is called “${text}”; nearest: ${nearest.join(", ")}`);
  }
  const kind = here().kind === "f" ? "f" : "b", start = here().kind === kind ? state.at + 1 : find("b");
  const at = positions.findIndex((s, k) => k >= start && s.kind === kind && stop(steps[s.k]));
  if (at < 0) return say(`no later step stops at “${text}”`);
  go(at);
}

const say = text => { $("message").textContent = text; };
