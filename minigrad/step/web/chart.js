// ---- charts: lines over two axes with numbers and names ------------------------------------------------------------

function ticks(low, high, most) {                           // round numbers between low and high, as text
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = power * [1, 2, 5, 10, 20].find(s => (high - low) / (s * power) < most);
  const values = [], largest = Math.max(Math.abs(low), Math.abs(high));
  for (let k = Math.ceil(low / step); k * step <= high; k++) values.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const plain = largest >= 1e-3 && largest < 1e6 && digits < 10;
  return values.map(x => [x, plain ? x.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1") : num(x, 2)]);
}

function extent(numbers) {                                  // the smallest and the largest that are finite, never equal
  const finite = numbers.filter(isFinite), low = Math.min(...finite), high = Math.max(...finite);
  if (!finite.length) return [-1, 1];
  return high > low ? [low, high] : [low - (Math.abs(low) || 1), high + (Math.abs(high) || 1)];
}

// lines: {name, kind (a class), xs, ys}. An SVG element of this size, functions from
// a value to its place in pixels, and where the x axis begins.
function chart({width, height, xName, yName = "", lines, label, most = [5, 5]}) {
  const [left, right] = extent(lines.flatMap(line => line.xs)), [low, high] = extent(lines.flatMap(line => line.ys));
  const rows = ticks(low, high, most[1]), longest = Math.max(...rows.map(([, words]) => words.length));
  const room = 14 + 7.5 * longest + (yName ? 22 : 0);
  const bottom = height - 40, x = value => room + (width - room - 14) * (value - left) / (right - left);
  const y = value => 10 + (bottom - 10) * (high - value) / (high - low);
  const place = n => n.toFixed(1);
  const path = ({xs, ys}) => xs.map((value, k) => !isFinite(ys[k]) ? "" :
    `${k && isFinite(ys[k - 1]) ? "L" : "M"}${place(x(value))} ${place(y(ys[k]))}`).join("");
  const root = svg("svg", {class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": label});
  const text = (words, attributes) => root.append(svg("text", attributes, words));
  const draw = (kind, d) => root.append(svg("path", {class: kind, d}));
  for (const [value, words] of rows) {
    draw("grid", `M${room} ${place(y(value))}H${width - 14}`);
    text(words, {class: "row", x: room - 7, y: place(y(value) + 4)});
  }
  for (const [value, words] of ticks(left, right, most[0])) {
    draw("axis", `M${place(x(value))} ${bottom}v5`);
    text(words, {x: place(x(value)), y: bottom + 18});
  }
  draw("axis", `M${room} 10V${bottom}H${width - 14}`);
  text(xName, {x: (room + width) / 2, y: height - 5});
  text(yName, {transform: `translate(14 ${bottom / 2}) rotate(-90)`});
  for (const line of lines) draw(`line ${line.kind}`, path(line));
  return {root, x, y, room};
}

const lineKey = (kind, name) => el("span", {}, el("span", {class: `key line ${kind}`}), name);
