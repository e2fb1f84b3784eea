// ---- quiz: predict a gradient before it is shown -------------------------------------------------------------------

const QUIZ = `quiz: ${data.title}, ${steps.length} steps`;
const answers = JSON.parse(store.get(QUIZ) ?? "{}");        // "step:kind" -> the given answer and the right one

const questionsOf = k => (data.quiz[k] ?? []).map(n => ({...data.questions[n], key: `${k}:${data.questions[n].kind}`}));
const rightOf = q => q.options[q.right];
const hiddenByQuiz = () => state.quiz && here().kind === "b" && questionsOf(here().k).some(q => !answers[q.key]);

function drawQuizLeft(step) {                               // without what would give an answer away
  drawLeft({...step, checks: [], identity: null}, "b");
  const asked = questionsOf(here().k).find(q => q.kind === "line" && !answers[q.key]);
  if (!asked) return;
  const lines = step.backward.source.split("\n"), [, indent, target] = /^(\s*)(\w+ =|return)?/.exec(lines[asked.row]);
  lines[asked.row] = `${indent}${target ? target + " " : ""}?     # which line belongs here?`;
  for (const told of $("left").querySelectorAll(".formula, .say")) told.remove();
  const ran = step.backward.lines;
  const current = ran.findIndex(([first, last]) => first <= asked.row && asked.row <= last) + 1;
  $("left").querySelector("pre").replaceWith(sourceOf({source: lines.join("\n"), lines: ran}, current, () => {}));
}

function drawQuiz() {
  const questions = questionsOf(here().k), open = questions.findIndex(q => !answers[q.key]);
  if (!questions.length) return [el("p", {class: "note"}, "This step computes no gradient to ask about.")];
  const n = questions.length, rows = questions.slice(0, open < 0 ? undefined : open + 1);
  return [el("h3", {}, `quiz: ${open < 0 ? n : open} of ${n} answered`),
    ...rows.map(q => el("div", {class: `question about-${q.kind}`}, el("p", {class: "say"}, q.text),
      answers[q.key] ? verdictOf(q) : optionsOf(q))),
    el("p", {class: "note"}, `${rightAnswers().length} right of ${Object.keys(answers).length} so far. `,
      el("button", {onclick: showScore}, "Show the score"))];
}

function optionsOf(q) {
  const answer = option => {
    answers[q.key] = {given: option, right: rightOf(q)};
    store.set(QUIZ, JSON.stringify(answers));
    draw();
    ($("right").querySelector(".answers button") ?? $("right").querySelector(".question ~ p button"))?.focus();
  };
  return el("div", {class: "answers"}, q.options.map(option => el("button", {onclick: () => answer(option)}, option)));
}

function verdictOf(q) {                                     // explains all lines, else the given and the right answer
  const {given} = answers[q.key], because = n => q.reasons[n] && ` — ${q.reasons[n]}`;
  const rows = q.options.map((option, n) => {
    if (q.kind !== "line" && n !== q.right && option !== given) return null;
    const words = n === q.right ? "✓ " : option === given ? "✗ not " : "✗ ";
    const kind = n === q.right ? "good" : option === given ? "bad" : "note";
    return el("p", {class: kind}, words, el("code", {}, option), because(n));
  });
  return el("div", {"aria-live": "polite"}, rows.sort((a, b) => (b?.className === "bad") - (a?.className === "bad")));
}

const rightAnswers = () => Object.values(answers).filter(a => a.given === a.right);

function showScore() {                                      // a sheet to print or to hand in
  const asked = steps.flatMap((_, k) => questionsOf(k).filter(q => answers[q.key]).map(q => ({...q, k})));
  const isRight = q => answers[q.key].given === rightOf(q), kinds = [...new Set(asked.map(q => q.kind))];
  const share = qs => `${qs.filter(isRight).length} of ${qs.length}`;
  const right = asked.filter(isRight).length;
  const score = {page: data.title, steps: steps.length, asked: asked.length, right, answers};
  overlay(el("div", {class: "sheet"}, el("h2", {}, `Score: ${share(asked)} right`),
    el("p", {class: "note"}, data.title),
    el("p", {}, el("label", {}, "name ", el("input", {autocomplete: "name"}))),
    el("p", {}, kinds.map(
      kind => el("span", {class: "verdict"}, `${kind}: ${share(asked.filter(q => q.kind === kind))}`))),
    el("table", {}, header(["step", "question", "answer", "right", ""], []), asked.map(q => el("tr", {},
      el("td", {}, `${q.k}: ${steps[q.k].op}`), el("td", {}, q.text),
      el("td", {}, el("code", {}, answers[q.key].given)),
      el("td", {}, isRight(q) ? "" : el("code", {}, rightOf(q))),
      el("td", {class: isRight(q) ? "good" : "bad"}, isRight(q) ? "✓" : "✗")))),
    el("details", {}, el("summary", {}, "as JSON"),
      el("textarea", {readonly: true, "aria-label": "score as JSON"}, JSON.stringify(score, null, 1)))),
    el("p", {}, el("button", {onclick: () => window.print()}, "Print"), " ",
      el("button", {onclick: startAgain}, "Start again")));
}

function startAgain() {
  for (const key of Object.keys(answers)) delete answers[key];
  store.set(QUIZ, "{}");
  $("overlay").close();
  draw();
}
