"""The figures of the stepper's page in headless Chromium: axes, numbers in cells, cells that ask, lines as pictures."""
import functools
import json
import re

import numpy as np
import pytest

from minigrad import Tensor, functional as F
from minigrad.step import examples, page, record
from test_page import browse, data_of, gpt, gpt_page, line_of

NAMES = {"dS": ["batch", "head", "query", "key"], "P": ["batch", "head", "query", "key"],
         "dP": ["batch", "head", "query", "key"], "dq": ["batch", "head", "query", "feature"],
         "k": ["batch", "head", "key", "feature"]}

# what a figure paints: its texts with their fonts, and the cells of its panels
PAINTED = """
  const painted = [], fillText = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...where) {
    painted.push({text, canvas: this.canvas, pixels: parseFloat(this.font), ink: this.fillStyle});
    return fillText.call(this, text, ...where);
  };
  const figure = name => all("#right figure").find(f => f.dataset.name === name);
  const textsIn = name => painted.filter(p => figure(name).contains(p.canvas)).map(p => p.text);
"""
# what cells ask: a stand-in for the answer
ASKED = """
  const asked = [];
  askWhy = question => asked.push(question);
"""


def edited(text, change):
    """A page whose data a function has changed."""
    data = data_of(text)
    change(data)
    script = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return re.sub(r'(id="data">).*?(</script>)', lambda m: m[1] + script + m[2], text, count=1, flags=re.S)


def named(data):
    """Name the axes of attention's arrays, and label the tokens."""
    tokens = [f"t{i}" for i in range(16)]
    data["labels"] = {"query": tokens, "key": tokens}
    for step in data["steps"]:
        step["axes"] = NAMES if step["op"] == "attention" else {}


@functools.cache
def named_page():
    return edited(gpt_page(), named)


@functools.cache
def banana():
    return examples.tiny()


@functools.cache
def banana_page():
    def change(data):
        data["labels"] = {"token": list("banan"), "vocabulary": list("abn")}
        for step in data["steps"]:
            step["axes"] = {"dlogits": ["token", "vocabulary"]}
    return edited(page.html(banana()), change)


# ---- axes -----------------------------------------------------------------------------------------------------------

def test_a_cell_is_read_with_the_names_of_its_axes_and_its_tokens_by_keyboard_and_mouse(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, named_page(), PAINTED + f"location.hash = '#b{attention.index}.{line}';" + """
      await wait();
      const map = figure("dS").querySelector(".panels");
      seen.label = map.getAttribute("aria-label");
      map.focus();
      for (const key of ["ArrowRight", "ArrowDown", "ArrowDown"]) press(key);
      seen.read = text("figure.new .reading");
      seen.hash = location.hash;
      const canvas = map.querySelector("canvas"), {left, top} = canvas.getBoundingClientRect(), {cell} = canvas;
      canvas.dispatchEvent(new MouseEvent("mousemove", {bubbles: true,
        clientX: left + cell.left + 15.5 * cell.w, clientY: top + cell.top + 15.5 * cell.h}));
      seen.hovered = text("figure.new .reading");
      seen.sides = textsIn("dS");
    """)
    dS = attention.backward.lines[line - 1].values["dS"]
    assert seen.label.startswith("dS: heat map of 1 (batch) × 4 (head) × 16 (query) × 16 (key), largest magnitude")
    where, value = seen.read.split(" = ")
    assert where == 'dS[batch 0, head 0, query 2 "t2", key 0 "t0"]' and seen.hash == f"#b{attention.index}.{line}"
    assert float(value.replace("−", "-")) == pytest.approx(dS[0, 0, 2, 0], rel=1e-2)
    assert seen.hovered.startswith('dS[batch 0, head 0, query 15 "t15", key 15 "t15"] = ')
    assert {"query", "key →"} <= set(seen.sides)
    labels = [int(x[1:]) for x in seen.sides if re.fullmatch(r"t\d+", x)]
    assert labels == 2 * list(range(0, 16, labels[1]))                              # thinned evenly, rows and columns


def test_panels_are_named_by_head_and_unnamed_axes_by_number(tmp_path):
    attention = next(v.index for v in gpt().views if v.op == "attention")
    seen = browse(tmp_path, named_page(), PAINTED + f"goTo('b', {attention});" + """
      const heads = name => [...figure(name).querySelectorAll(".panel")].map(p => p.textContent.trim());
      seen.named = heads("dq");
      seen.unnamed = heads("dv");
      seen.sides = textsIn("dv");
    """)
    assert seen.named == [f"head {i}" for i in range(4)]
    assert seen.unnamed == [f"[0,{i}]" for i in range(4)]
    assert {"axis 2", "axis 3 →"} <= set(seen.sides)


def test_the_columns_of_dlogits_in_banana_are_the_letters(tmp_path):
    seen = browse(tmp_path, banana_page(), PAINTED + "goTo('b', 0); seen.sides = textsIn('dlogits');")
    assert [x for x in seen.sides if x in "abn"] == ["b", "a", "n", "a", "n", "a", "b", "n"]
    assert {"token", "vocabulary →"} <= set(seen.sides)


# ---- numbers in cells -----------------------------------------------------------------------------------------------

def test_a_small_array_shows_its_numbers_in_type_of_12_pixels_or_more(tmp_path):
    seen = browse(tmp_path, banana_page(), PAINTED + """
      goTo("b", 0);
      seen.texts = textsIn("dlogits");
      positions.forEach((s, at) => { for (let line = 0; line <= listingOf(s).lines.length; line++) go(at, line); });
      seen.smallest = Math.min(...painted.map(p => p.pixels));
    """)
    gradient = banana().views[0].inputs[0].gradient
    expected = [f"{x:.3f}".replace("-", "−") for x in gradient.ravel()]
    assert [x for x in seen.texts if re.match(r"−?\d\.", x)] == expected
    assert seen.smallest >= 12


def test_numbers_have_a_contrast_of_at_least_4_5_on_every_colour_light_and_dark(tmp_path):
    seen = browse(tmp_path, banana_page(), """
      const light = rgb => rgb.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, k) => sum + c * [.2126, .7152, .0722][k], 0);
      const contrast = pixel => { const x = light([0, 8, 16].map(shift => pixel >> shift & 255));
        return inkOn(pixel) === "#000" ? (x + .05) / .05 : 1.05 / (x + .05); };
      seen.least = ["light", "dark"].map(name => { look("theme", name);
        return Math.min(...[...palette.ramp, palette.mask, palette.bad, palette.zero].map(contrast)); });
    """)
    assert min(seen.least) >= 4.5


def arrays_of_kinds():
    """A record of cross_entropy whose saved arrays are integers, booleans, constants and floats."""
    logits = Tensor(np.random.default_rng(0).normal(size=(4, 12)), requires_grad=True)
    return record(F.cross_entropy(logits, np.array([3, 0, 11, 7])))


def test_integers_booleans_and_constants_have_no_colour_and_are_written(tmp_path):
    seen = browse(tmp_path, page.html(arrays_of_kinds()), PAINTED + """
      goTo("b", 0);
      const pixelsOf = name => Object.values(array(steps[0].saved[name]).images).flatMap(i => [...i.colors]);
      const plain = [palette.mask, palette.zero];
      seen.texts = {t: textsIn("t"), counted: textsIn("counted")};
      seen.plain = ["t", "counted"].map(name => pixelsOf(name).every(p => plain.includes(p)));
      seen.captions = ["t", "counted", "z"].map(name => figure(name).querySelector(".scale")?.textContent ?? "");
      seen.coloured = pixelsOf("z").every(p => plain.includes(p));
    """)
    assert [x for x in seen.texts["t"] if x.isdigit()] == ["3", "0", "11", "7"]
    assert [x for x in seen.texts["counted"] if x.isdigit()] == ["1"] * 4
    assert seen.plain == [True, True] and not seen.coloured
    t, counted, z = seen.captions
    assert t == "" and counted == "all 1" and "norm" in z


def test_nan_and_infinity_are_crossed_out_and_explained_in_the_legend(tmp_path):
    with np.errstate(all="ignore"):
        x = np.random.default_rng(0).normal(size=(3, 20))
        x[1, 4] = np.nan
        recorded = record((F.softmax(Tensor(x, requires_grad=True)) ** 2).sum())
    legend = """
      const visible = what => getComputedStyle(document.querySelector(what)).display !== "none";
      goTo("b", steps.length - 1);
      seen.cross = [all("figure.cross").length > 0, visible(".legend .cross"), visible(".legend .zero")];
    """
    seen = browse(tmp_path, page.html(recorded), legend + """
      goTo("f", steps.length - 1);
      seen.bad = Object.values(array(steps.at(-1).inputs[0].value).images).map(image => image.bad);
    """)
    assert seen.cross == [True, True, True]
    assert seen.bad == [[1 * 20 + 4]]
    assert browse(tmp_path, banana_page(), legend).cross == [False, False, True]


def test_a_row_of_numbers_that_does_not_fit_is_no_wider_than_a_phone(tmp_path):
    x = Tensor(np.ones(16), requires_grad=True)
    seen = browse(tmp_path, page.html(record((x * 1.0).sum())), """
      goTo("b", 1);
      seen.wide = $("arrays").scrollWidth - $("arrays").clientWidth;
    """, (390, 844))
    assert seen.wide == 0


def test_an_array_without_a_finite_number_has_no_scale_and_no_norm(tmp_path):
    with np.errstate(all="ignore"):
        text = page.html(record(F.log(Tensor(-np.ones((2, 20)), requires_grad=True)).sum()))
    seen = browse(tmp_path, text, """
      goTo("f", 1);
      seen.scale = text("#right .figures .scale");
    """)
    assert seen.scale == "all NaN or infinite"


def test_a_label_is_cut_between_characters_and_wide_characters_take_two_letters(tmp_path):
    tokens = ["abcdefg\U0001f642h", "\u65e5" * 10, "a"]
    x = Tensor(np.random.default_rng(0).normal(size=(3, 20)), requires_grad=True)

    def change(data):
        data["labels"] = {"token": tokens}
        for step in data["steps"]:
            step["axes"] = {"dx": ["token", ""]}

    seen = browse(tmp_path, edited(page.html(record((F.softmax(x) ** 2).sum())), change), PAINTED + """
      goTo("b", steps.length - 1);
      seen.texts = textsIn("dx");
      seen.left = figure("dx").querySelector("canvas").cell.left;
      seen.needed = lettersWide(16);
    """)
    assert "abcdefg\U0001f642" in seen.texts and "\u65e5" * 8 in seen.texts
    assert seen.left > seen.needed


def test_cells_are_square_unless_numbers_stand_in_them_or_the_array_is_a_single_row(tmp_path):
    seen = browse(tmp_path, gpt_page(), PAINTED + """
      seen.cells = [];
      for (let k = 0; k < steps.length; k++) {
        goTo("b", k);
        for (const f of all("#right figure")) for (const canvas of f.querySelectorAll(".panel canvas")) {
          const {w, h} = canvas.cell, writes = painted.some(p => p.canvas === canvas && p.pixels === 13);
          if (!writes) seen.cells.push([f.dataset.name, w, h, f.querySelector(".shape").textContent]);
        }
      }
    """)
    odd = [x for x in seen.cells if x[1] != x[2] and " × " in x[3] and min(map(int, x[3].split(" × ")[-2:])) > 2]
    assert odd == [] and len(seen.cells) > 200


# ---- cells that ask and cells that are lit --------------------------------------------------------------------------

def test_a_click_on_any_cell_of_any_array_of_a_step_asks_why_it_has_its_value(tmp_path):
    seen = browse(tmp_path, banana_page(), ASKED + """
      seen.figures = 0;
      positions.filter(s => "fb".includes(s.kind)).forEach(s => {
        for (let line = 0; line <= listingOf(s).lines.length; line++) {
          goTo(s.kind, s.k, line);
          for (const canvas of all("#right .panel canvas")) {
            const {left, top} = canvas.getBoundingClientRect(), {cell} = canvas;
            canvas.dispatchEvent(new MouseEvent("click", {bubbles: true, clientX: left + cell.left + cell.w / 2,
              clientY: top + cell.top + cell.h / 2}));
            seen.figures++;
          }
        }
      });
      seen.asked = asked;
    """)
    assert len(seen.asked) == seen.figures > 300
    parts = set()
    for question in seen.asked:
        v, name = banana().views[question["k"]], question["name"]
        listing = v.forward if question["kind"] == "f" else v.backward
        known = {x.name: x.value for x in v.inputs} if question["kind"] == "f" else {**v.dys, **v.saved}
        if question["line"]:
            known = dict(listing.lines[question["line"] - 1].values)
        if question["line"] == len(listing.lines):
            known |= v.outputs | {f"{word}d{x.name}": x.gradient for x in v.inputs for word in ("", "earlier ", "sum ")}
        if name in known:
            assert question["at"] == [0] * np.ndim(known[name])
        else:                                   # a part of the line's expression
            parts.add(name)
    assert parts <= {"x > far", "exp(z − m)", "Z == 0"}


def test_enter_asks_about_the_cell_under_the_cursor(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, gpt_page(), ASKED + f"goTo('b', {attention.index}, {line});" + """
      document.querySelector("figure.new .panels").focus();
      for (const key of ["ArrowRight", "ArrowDown", "ArrowRight", "Enter"]) press(key);
      seen.asked = asked;
    """)
    assert seen.asked == [{"kind": "b", "k": attention.index, "name": "dS", "line": line, "at": [0, 0, 1, 1]}]


def test_lit_cells_are_outlined_a_row_or_a_column_as_one(tmp_path):
    attention = next(v.index for v in gpt().views if v.op == "attention")
    seen = browse(tmp_path, gpt_page(), PAINTED + f"goTo('b', {attention});" + """
      const boxes = name => [...figure(name).querySelectorAll("i.lit")].map(box => {
        const {w, h} = box.parentElement.querySelector("canvas").cell, style = box.style;
        return [[...figure(name).querySelectorAll(".panel")].indexOf(box.parentElement),
          Math.round((parseFloat(style.height) - 3) / h), Math.round((parseFloat(style.width) - 3) / w)];
      });
      const every = n => [...Array(n).keys()];
      lightCells([...every(8).map(j => ({name: "dq", at: [0, 1, 3, j]})),
        ...every(16).map(i => ({name: "k", at: [0, 1, i, 2]})),
        {name: "v", at: [0, 2, 0, 0]}, {name: "v", at: [0, 2, 5, 5]}, {name: "nowhere", at: [0]}]);
      seen.lit = {row: boxes("dq"), column: boxes("k"), apart: boxes("v")};
      clearLight();
      seen.cleared = all("i.lit").length;
    """)
    assert seen.lit == {"row": [[1, 1, 8]], "column": [[1, 16, 1]], "apart": [[2, 1, 1], [2, 1, 1]]}
    assert seen.cleared == 0


# ---- a line as a picture --------------------------------------------------------------------------------------------

PICTURE = """
  const read = () => all(".picture .equation > *").map(
    e => (e.matches("figure") ? e.querySelector("b") : e).textContent.trim());
  const scales = () => Object.fromEntries(all(".picture figure").map(f =>
    [f.querySelector("b").textContent, f.querySelector(".scale")?.textContent.replace(/norm.*/, "") ?? ""]));
  const number = text => Number(text.replace("±", "").replace("−", "-"));
"""


def test_the_line_of_dS_is_drawn_as_its_operands_and_operators_with_one_scale_for_what_is_subtracted(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, named_page(), PICTURE + f"goTo('b', {attention.index}, {line});" + """
      seen.read = read();
      seen.scales = scales();
      seen.largest = number(seen.scales.dP);
      const {dS} = listingOf(here()).lines[state.line - 1][3], row = dS.of[0].of[1].of[1];
      seen.rows = [...array(row.a).numbers];
      seen.framed = all("figure.new b").map(e => e.textContent);
    """)
    P, dP = attention.saved["P"], attention.backward.lines[line - 2].values["dP"]
    assert seen.read == ["P", "⊙", "(", "dP", "−", "Σ over key of dP ⊙ P", ")", "×", "scale", "=", "dS"]
    np.testing.assert_allclose(seen.rows, (dP * P).sum(-1).ravel(), rtol=1e-5, atol=1e-9)
    assert seen.largest == pytest.approx(np.abs(dP).max(), rel=1e-2)
    assert seen.scales["Σ over key of dP ⊙ P"] == "same scale"
    assert seen.scales["P"] != "same scale" != seen.scales["dS"]
    assert seen.framed == ["dS"]


def test_one_choice_of_a_head_holds_for_all_arrays_of_a_picture_and_an_answer_chooses_its_own(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, named_page(), PICTURE + f"goTo('b', {attention.index}, {line});" + """
      const readOf = f => { const map = f.querySelector(".panels"); map.focus(); press("ArrowRight");
        const words = f.querySelector(".reading").textContent; map.blur(); return words.split(", ")[1]; };
      const heads = () => all(".picture figure").filter(f => f.querySelector(".panels")).map(readOf);
      seen.names = all(".chooser button").map(b => b.textContent);
      seen.first = heads();
      all(".chooser button")[3].click();
      seen.chosen = heads();
      askWhy({kind: "b", k: here().k, line: state.line, name: "dS", at: [0, 2, 9, 3]});
      seen.asked = heads();
      seen.lit = all(".picture figure").filter(f => f.querySelector("i.lit")).map(f => f.dataset.name);
    """)
    assert seen.names == [f"head {i}" for i in range(4)]
    assert set(seen.first) == {"head 0"} and set(seen.chosen) == {"head 3"} and set(seen.asked) == {"head 2"}
    assert {"P", "dP", "dS"} <= set(seen.lit)


def test_a_matrix_product_is_drawn_with_its_transposed_operand_whose_cells_ask_about_the_operands_own(tmp_path):
    attention, line = line_of("dk", "attention")
    seen = browse(tmp_path, named_page(), PICTURE + ASKED + f"goTo('b', {attention.index}, {line});" + """
      seen.read = read();
      const dS = all(".picture figure")[0], a = array(listingOf(here()).lines[state.line - 1][3].dk.of[0].of[0].a);
      dS.querySelector(".panels").focus();
      for (const key of ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"]) press(key);
      seen.asked = asked;
      seen.value = a.numbers[2 * 16 + 1];
      seen.reading = dS.querySelector(".reading").textContent;
    """)
    dS = attention.backward.lines[line_of("dS", "attention")[1] - 1].values["dS"]
    assert seen.read == ["dSᵀ", "·", "q", "=", "dk"]
    assert seen.asked == [{"kind": "b", "k": attention.index, "name": "dS", "line": line_of("dS", "attention")[1],
                           "at": [0, 0, 2, 1]}]
    assert seen.value == pytest.approx(dS[0, 0, 2, 1])
    where, value = seen.reading.split(" = ")
    assert where == 'dS[batch 0, head 0, query 2 "t2", key 1 "t1"]'
    assert float(value.replace("−", "-")) == pytest.approx(dS[0, 0, 2, 1], rel=1e-3)


def test_every_picture_of_every_op_has_operands_and_the_array_that_the_line_computed(tmp_path):
    seen = browse(tmp_path, gpt_page(), PICTURE + """
      seen.pictures = {};
      positions.filter(s => "fb".includes(s.kind)).forEach(s => {
        for (let line = 1; line <= listingOf(s).lines.length; line++) {
          const key = `${s.kind} ${steps[s.k].op} ${line}`;
          if (key in seen.pictures) continue;
          goTo(s.kind, s.k, line);
          seen.pictures[key] = all(".picture").length ? [read(), Object.keys(listingOf(s).lines[line - 1][2])] : null;
        }
      });
    """)
    pictures = {key: value for key, value in seen.pictures.items() if value}
    assert len(pictures) > 40
    for parts, computed in pictures.values():
        assert parts[-2] == "=" and parts[-1] in computed
        assert not any("undefined" in part or part == "" for part in parts)
    layer_norm, _ = pictures["b layer_norm 7"]
    assert layer_norm == ["rstd", "⊙", "(", "dxhat", "−", "shift", "−", "xhat", "⊙", "scale", ")", "=", "dx"]
    seen = browse(tmp_path, banana_page(), PICTURE + """
      goTo("b", 0, 6);
      seen.read = read();
      seen.below = all("#right > .figures").slice(1).flatMap(e => [...e.querySelectorAll("figure")]).map(f =>
        `${f.dataset.name} ${f.dataset.line}`);
    """)
    assert seen.read == ["p", "⊙", "share", "=", "dlogits"]
    assert "p 2" in seen.below and not {"p 4", "share 5", "dlogits 6"} & set(seen.below)     # no array is drawn twice


def test_earlier_plus_gradient_equals_sum_has_one_colour_scale(tmp_path):
    v = next(v for v in gpt().views if any(x.earlier is not None for x in v.inputs))
    x = next(x for x in v.inputs if x.earlier is not None)
    seen = browse(tmp_path, gpt_page(), PICTURE + f"goTo('b', {v.index});" + """
      const row = all("#right .equation").find(e => e.textContent.includes("earlier"));
      seen.read = [...row.children].map(e => e.matches("figure") ? e.querySelector("b").textContent : e.textContent);
      seen.scales = [...row.querySelectorAll(".scale")].map(e => e.textContent.replace(/norm.*/, ""));
      seen.largest = number(seen.scales[0]);
    """)
    largest = max(np.abs(a).max() for a in (x.earlier, x.gradient, x.earlier + x.gradient))
    assert seen.read == ["earlier", "+", f"d{x.name}", "=", "sum"]
    assert seen.largest == pytest.approx(largest, rel=1e-2)
    assert seen.scales[1:] == ["same scale", "same scale"]


def test_the_equation_that_a_line_computes_is_lit(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, gpt_page(), f"const k = {attention.index}, line = {line};" + """
      const lit = (...where) => { goTo("b", k, ...where); return all(".formula .lit").map(e => e.dataset.name); };
      seen.lit = [lit(line), lit(line - 1), lit(line + 1), lit()];
    """)
    assert seen.lit == [["dS"], ["dA dP"], ["dq"], []]
