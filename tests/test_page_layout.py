"""The layout of the stepper's page in headless Chromium: what is in sight, how large and how clear its type is, the
graph, the tour, the glossary and print."""
import functools
import html
import re
import subprocess

import numpy as np
import pytest

from gpt.model import GPT, GPTConfig
from minigrad import optim
from minigrad.step import page, record
from test_page import CHROMIUM, browse


@functools.cache
def gpt_page(n_layer=1, T=3, C=4):
    """The page of a training step of a small GPT."""
    config = GPTConfig(block_size=T, vocab_size=7, n_layer=n_layer, n_head=2, n_embd=C, dropout=0.0, bias=True)
    model = GPT(config, seed=0, device="cpu", dtype="float32")
    idx = np.random.default_rng(0).integers(0, 7, (1, T + 1))
    return page.html(record(model.loss(idx[:, :-1], idx[:, 1:]), tokens=list("abcdefgh")[:T], title="one step",
                            optimizer=optim.AdamW(model.parameters())))


def browse_at_sizes(tmp_path, text, script):
    """Run a script that sees the page in a frame: `page`, `at(selector)`, `inSight(element)`; `resize(width, height)`."""
    text = text.replace("</body>", "<script>Object.assign(window, {positions, listingOf, titleOf: title});</script></body>")
    frame = f'<body><iframe id="frame" style="border:0" srcdoc="{html.escape(text)}"></iframe></body><style></style>'
    return browse(tmp_path, frame, """
      const frame = document.getElementById("frame"), page = frame.contentWindow;
      const at = what => page.document.querySelector(what);
      const resize = async (width, height) => {
        Object.assign(frame.style, {width: `${width}px`, height: `${height}px`});
        page.dispatchEvent(new Event("resize"));
        await wait();
      };
      const inSight = element => {
        const {left, right, top, bottom} = element.getBoundingClientRect(), column = element.closest("#left, #arrays");
        const box = column.getBoundingClientRect();
        return left >= box.left && right <= box.right && top >= box.top && bottom <= box.bottom &&
          box.top >= 0 && box.bottom <= page.innerHeight && box.right <= page.innerWidth;
      };
    """ + script)


ZOOMED = [753, 424]                                         # the CSS pixels of 1280 x 720 at 170 % zoom
SIZES = [ZOOMED, [1280, 720], [1366, 768], [1920, 1080], [390, 844]]


def test_the_current_line_is_in_sight_on_every_line_of_every_step(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), f"const [zoomed, ...others] = {SIZES};" + """
      seen.hidden = [];
      seen.lines = 0;
      const walk = async (size, onlyNewOps) => {
        const walked = new Set();
        await resize(...size);
        page.positions.forEach((position, k) => {
          const {place, lines} = page.listingOf(position);
          if (onlyNewOps && walked.has(place)) return;
          walked.add(place);
          for (let n = 1; n <= lines.length; n++, seen.lines++) {
            page.go(k, n);
            const line = at("pre > .now");
            if (!line || !inSight(line)) seen.hidden.push([...size, at("#live").textContent]);
          }
        });
      };
      await walk(zoomed, false);
      for (const size of others) await walk(size, true);
      page.otherLook("type");
      await walk(others[0], true);
    """)
    assert seen.hidden == []
    assert seen.lines > 600


def test_two_columns_stay_down_to_700_pixels_and_are_stacked_on_a_phone(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), """
      seen.columns = [];
      for (const width of [1280, 753, 700, 390]) {
        await resize(width, 844);
        const [left, right] = ["#left", "#arrays"].map(x => at(x).getBoundingClientRect());
        seen.columns.push([right.left >= left.right, right.top >= left.bottom]);
      }
    """)
    assert seen.columns == [[True, False]] * 3 + [[False, True]]


@pytest.mark.parametrize("size", [ZOOMED, [1280, 720], [390, 844]])
def test_the_answer_to_why_covers_neither_the_line_nor_the_cell_that_was_asked(tmp_path, size):
    seen = browse_at_sizes(tmp_path, gpt_page(), f"await resize(...{size});" + """
      const attention = page.positions.findIndex(s => s.kind === "b" && page.titleOf(s).startsWith("attention"));
      page.go(attention, page.listingOf(page.positions[attention]).lines.length);
      await wait();
      seen.covered = [];
      for (const canvas of page.document.querySelectorAll("#right canvas")) {
        page.closeWhy();
        await wait();
        canvas.scrollIntoView({block: "end"});
        const {left, bottom} = canvas.getBoundingClientRect(), clientX = left + canvas.width / 2, clientY = bottom - 2;
        canvas.dispatchEvent(new MouseEvent("click", {bubbles: true, clientX, clientY}));
        await wait();
        if (at("#why").hidden) continue;
        const now = canvas.getBoundingClientRect(), column = at("#arrays").getBoundingClientRect();
        seen.covered.push([now.bottom - 2 < column.top || now.bottom - 2 > column.bottom, !inSight(at("pre > .now")),
          at("#why").getBoundingClientRect().top < column.bottom - 1]);
      }
    """)
    assert seen.covered
    assert not np.any(seen.covered)


def test_a_presenters_clicker_and_the_space_bar_step_by_line(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      goTo("b", 0);
      document.activeElement.blur();
      seen.visited = [];
      for (const [key, shiftKey] of [["PageDown"], ["PageDown"], ["PageUp"], [" "], [" ", true]]) {
        document.body.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey, bubbles: true}));
        seen.visited.push(location.hash);
      }
      const space = new KeyboardEvent("keydown", {key: " ", bubbles: true, cancelable: true});
      $("theme-switch").dispatchEvent(space);
      seen.left_to_the_button = !space.defaultPrevented && location.hash === seen.visited.at(-1);
    """)
    assert seen.visited == ["#b0.1", "#b0.2", "#b0.1", "#b0.2", "#b0.1"]
    assert seen.left_to_the_button


def test_header_graph_and_type_are_switched_by_keys_and_remembered(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      const shown = () => [...["#more", "#nodes"].map(x => document.querySelector(x).getClientRects().length > 0),
        remInPixels()];
      seen.first = shown();
      for (const key of "hgt") press(key);
      seen.then = shown();
      seen.pressed = ["header", "graph", "type"].map(name => [..."ep"].map(
        c => $(`${name}-switch`).getAttribute(c === "e" ? "aria-expanded" : "aria-pressed")).join(""));
      useLooks();
      seen.remembered = shown();
      for (const key of "hgt") press(key);
      seen.again = shown();
    """)
    assert seen.first == seen.again == [True, True, 16]
    assert seen.then == seen.remembered == [False, False, pytest.approx(22.4)]
    assert seen.pressed == ["false", "false", "true"]


def test_the_numbers_in_the_gutter_are_those_of_the_texts_and_addresses(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      seen.wrong = [];
      seen.lines = 0;
      positions.forEach((s, k) => {
        for (let n = 1; n <= listingOf(s).lines.length; n++) {
          go(k, n);
          const [first] = all("pre > .now"), number = getComputedStyle(first, "::before").content;
          seen.lines++;
          if (number !== `"${n}"` || first.dataset.line !== `${n}` || address() !== `#${s.kind}${s.k}.${n}` ||
              !text("#live").includes(`, line ${n} of`)) seen.wrong.push([address(), number]);
        }
      });
      goTo("b", 1);
      seen.numbers = all("pre > div").map(row => row.dataset.line ?? "").filter(n => n).map(Number);
      all("pre > .stop").at(-1).click();
      seen.clicked = address();
    """)
    assert seen.wrong == [] and seen.lines > 200
    assert seen.numbers == list(range(1, len(seen.numbers) + 1))
    assert seen.clicked == f"#b1.{len(seen.numbers)}"


MEASURE = """
  const parse = color => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((x, k) => a * x + (1 - a) * below[k]);
  const background = element => {
    if (!element) return [255, 255, 255];
    const box = element.tagName === "text" && element.parentNode.querySelector(":scope > rect"), style = getComputedStyle(box || element);
    const color = box ? style.fill : style.backgroundColor;
    return over(color === "none" ? [0, 0, 0, 0] : parse(color), background(box ? box.parentNode.parentNode : element.parentElement));
  };
  const luminance = rgb => rgb.map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4).reduce(
    (sum, x, k) => sum + x * [.2126, .7152, .0722][k], 0);
  const contrast = (a, b) => { const [x, y] = [a, b].map(luminance).sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const faults = new Map();
  const measure = () => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
      if (!words || !element.getClientRects().length || ["SCRIPT", "TITLE", "OPTION"].includes(element.tagName.toUpperCase())) continue;
      const style = getComputedStyle(element), isSvg = element.namespaceURI.endsWith("svg"), below = background(element);
      const clear = contrast(over(parse(isSvg ? style.fill : style.color), below), below);
      const what = `${document.documentElement.dataset.theme} ${element.tagName} ${element.className.baseVal ?? element.className} `;
      if (clear < 4.5) faults.set(what + "contrast", `${clear.toFixed(2)} ${words}`);
      if (parseFloat(style.fontSize) < 12) faults.set(what + "size", `${style.fontSize} ${words}`);
    }
  };
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_a_contrast_of_at_least_4_5_and_at_least_12_pixels(tmp_path, theme):
    seen = browse(tmp_path, gpt_page(), MEASURE + f"look('theme', '{theme}');" + """
      measure();                                            // with the tour
      endTour();
      const measured = new Set();
      positions.forEach((s, k) => {
        const what = s.kind + (steps[s.k]?.op ?? "");
        if (measured.has(what)) return;
        measured.add(what);
        go(k);
        measure();
        go(k, Infinity);
        press("w");
        measure();
      });
      goTo("b", 0);
      press("q"); measure(); press("q");
      await wait();
      showTip({currentTarget: document.querySelector("dfn")}); measure();
      press("?"); measure();
      seen.faults = [...faults];
    """)
    assert seen.faults == []


def test_a_failed_check_is_clear_too(tmp_path):
    failing = gpt_page().replace('"ok":true', '"ok":false')
    seen = browse(tmp_path, failing, MEASURE + """
      for (const theme of ["light", "dark"]) { look("theme", theme); draw(); measure(); }
      seen.faults = [...faults];
      seen.failed = all(".alert").length;
    """)
    assert seen.failed and seen.faults == []
