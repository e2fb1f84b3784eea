"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const {steps, optimizer, nudges} = data;
const $ = id => document.getElementById(id);

// ---- small helpers -------------------------------------------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter(child => child != null && child !== false));
  return element;
}

function num(x, digits = 3) {                               // short: −0.0123, 1.2e−7, 4
  x = Number(x);
  if (!isFinite(x)) return isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text = Number.isInteger(x) && size < 1e6 ? `${x}` :
    size >= 1e6 || size < 1e-3 ? x.toExponential(digits - 1) : x.toPrecision(digits);
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replaceAll("-", "−").replace("e+", "e");
}

const index = at => at.length ? `[${at.join()}]` : "";      // [0,2]; "" of a scalar
const dims = shape => shape.length ? shape.join(" × ") : "a scalar";
const visible = token => token.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const remInPixels = () => parseFloat(getComputedStyle(document.documentElement).fontSize);     // 16 of usual type
const sum = (xs, f) => xs.reduce((total, x) => total + f(x), 0);

const store = {                                             // a browser may not allow it for a page from disk
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* the choice is not remembered */ } },
};

// ---- tables --------------------------------------------------------------------------------------------------------

const header = (names, numeric) => el("tr", {}, names.map(
  (name, c) => el("th", {class: numeric.includes(c) ? "n" : ""}, name)));
const bars = widths => el("div", {class: "bars"}, widths.map(([share, name]) =>
  el("i", {class: name, style: `width:${Math.min(100, Math.max(1, 100 * share || 0))}%`})));
