// ---- quiz: predict a gradient before it is shown -------------------------------------------------------------------

const QUIZ = `quiz: ${data.title}, ${steps.length} steps`;
const answers = JSON.parse(store.get(QUIZ) ?? "{}");        // "step:question" -> the given answer and the right one

function shuffled(xs, seed) {                               // in the same order for the same seed
  return xs.map((x, n) => [(n * 7 + seed * 5 + 3) % 11, x]).sort((a, b) => a[0] - b[0]).map(pair => pair[1]);
}

function questionsOf(k) {                                   // about one of the gradients that a step makes
  const step = steps[k], wanted = step.inputs.flatMap((x, i) => "gradient" in x ? [i] : []);
  if (!wanted.length) return [];
  const i = wanted[k % wanted.length], x = step.inputs[i], name = `d${x.name}`;
  const four = (right, others, seed) => shuffled([...new Set([right, ...others])].slice(0, 4), seed);

  const arrays = Object.values({...step.dys, ...step.saved}).map(a => data.arrays[a].shape);
  const shapes = [[...x.shape].reverse(), ...step.inputs.map(y => y.shape), ...arrays, x.shape.slice(1), [...x.shape, 2]];
  const found = [{key: `${k}:shape`, text: `What is the shape of ${name}?`, right: dims(x.shape),
    options: four(dims(x.shape), shapes.map(dims), k)}];

  const isSame = y => "gradient" in y && (x.leaf ? y.leaf === x.leaf : x.source != null && y.source === x.source);
  const others = [...steps.keys()].filter(n => n !== k && steps[n].inputs.some(isSame));
  const stepName = n => `${title({kind: "b", k: n})} (step ${n})`, none = "none: this is the whole gradient";
  const right = others.length ? stepName(others[0]) : none;
  const wrong = [1, 2, 5].map(d => (k + d) % steps.length).filter(n => n !== k && !others.includes(n));
  found.push({key: `${k}:other`, right, options: four(right, [none, ...wrong.map(stepName)], k + 1),
    text: `Which other step ${others[0] < k ? "has added" : "adds"} to the gradient of ${x.label}?`});
  return found;
}

const hiddenByQuiz = () => state.quiz && here().kind === "b" && questionsOf(here().k).some(q => !answers[q.key]);

function drawQuiz() {
  const questions = questionsOf(here().k), open = questions.findIndex(q => !answers[q.key]);
  const rows = questions.slice(0, open < 0 ? undefined : open + 1).map(q => {
    const given = answers[q.key];
    return el("div", {class: "question"}, el("p", {class: "say"}, q.text), given ?
      given.given === q.right ? el("p", {class: "good"}, `✓ ${q.right}`) :
        el("p", {class: "bad"}, `✗ not ${given.given}, but ${q.right}`) :
      el("div", {class: "answers"}, q.options.map(option => el("button", {onclick: () => {
        answers[q.key] = {given: option, right: q.right};
        store.set(QUIZ, JSON.stringify(answers));
        draw();
        $("right").querySelector(".answers button")?.focus();
      }}, option))));
  });
  const n = questions.length;
  return [el("h3", {}, `quiz: ${open < 0 ? n : open} of ${n} answered`), ...rows,
    el("p", {class: "note"}, `${rightly().length} right of ${Object.keys(answers).length} so far. `,
      el("button", {onclick: showScore}, "Show the score as JSON"))];
}

const rightly = () => Object.values(answers).filter(a => a.given === a.right);

function showScore() {
  const score = {page: data.title, steps: steps.length, asked: Object.keys(answers).length,
    right: rightly().length, answers};
  overlay(el("h2", {}, "Score"), el("textarea", {readonly: true, "aria-label": "score"}, JSON.stringify(score, null, 1)));
}
