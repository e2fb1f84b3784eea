// ---- glossary: the first time that a word stands in a column, it is underlined; its meaning shows on hover and focus --

const GLOSSARY = {
  "upstream gradient":
    "The gradient of the loss with respect to an output of this op; the backward of later ops has computed it.",
  "local derivative":
    "How much one output number of this op changes when one input number changes, per unit of change.",
  "gradient check": "Compares the gradient that the backward computed with a finite difference of the forward.",
  "finite difference":
    "The change of a function divided by a small change of its input; it estimates a derivative without a backward.",
  "relative error": "The difference of two numbers divided by their size.",
  "intermediate values": "Arrays that lines of this function computed and that are not its results.",
  "chain rule":
    "The derivative of a composition is the product of the derivatives; over several paths these products are added.",
  "identity": "An equation that holds for every input of this op; here it is evaluated on the arrays of this step.",
  "residual": "The difference of the two sides of an equation, which is zero up to rounding.",
  "broadcast":
    "To repeat an array along an axis so that its shape fits another array; its gradient is summed over that axis.",
  "logit": "A score before softmax, which turns a row of scores into probabilities.",
  "softmax": "The exponentials of a row of numbers divided by their sum: positive numbers that add up to 1.",
  "cross-entropy": "The mean of −log of the probability that the model gives to the right class.",
  "Jacobian": "The matrix of the derivatives of every output with respect to every input.",
  "bias correction": "Division by 1 − β to the power of the step, because the averages of Adam start at zero.",
  "saved": "Kept by the forward because the backward needs it.",
  "masked": "Excluded from attention: a token that this token must not attend to, for example a later one.",
  "norm": "The square root of the sum of the squares of all numbers of an array.",
  "scalar": "A single number, an array without axes.",
};
const TERM = new RegExp(`\\b(${Object.keys(GLOSSARY).join("|")})(?:s|es|ed)?\\b`, "gi");
const tip = el("div", {id: "tip", role: "tooltip", hidden: true});
document.body.append(tip);

function showTip({currentTarget: term}) {
  tip.textContent = GLOSSARY[term.dataset.term];
  tip.hidden = false;
  const {left, top, bottom} = term.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${bottom + tip.offsetHeight + 8 < innerHeight ? bottom + 4 : top - tip.offsetHeight - 4}px`;
}

function hideTip() { tip.hidden = true; }

function markTerms(column) {
  const seen = new Set();
  for (const words of column.querySelectorAll("h3, p, th, .note")) {
    const texts = document.createTreeWalker(words, NodeFilter.SHOW_TEXT,
      text => text.parentNode.closest("a, button, code, b, dfn, math") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
    const found = [];
    while (texts.nextNode()) found.push(texts.currentNode);
    for (const text of found) {
      const parts = withTerms(text.data, seen);
      if (parts.length > 1) text.replaceWith(el("span", {}, parts));
    }
  }
}

function withTerms(text, seen) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(TERM)) {
    const term = Object.keys(GLOSSARY).find(word => word.toLowerCase() === match[1].toLowerCase());
    if (seen.has(term)) continue;
    seen.add(term);
    parts.push(text.slice(from, match.index), el("dfn", {tabindex: 0, "data-term": term, "aria-describedby": "tip",
      onmouseenter: showTip, onfocus: showTip, onmouseleave: hideTip, onblur: hideTip}, match[0]));
    from = match.index + match[0].length;
  }
  return [...parts, text.slice(from)];
}

for (const id of ["left", "right", "why"])                  // whenever one of them is drawn
  new MutationObserver(() => { hideTip(); markTerms($(id)); }).observe($(id), {childList: true});
