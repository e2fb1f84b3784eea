"""The layout of the stepper's page in headless Chromium: what is in sight, how large and how clear its type is, the
graph, the tour, the glossary and print."""
import functools
import html
import json
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
    """Run a script that sees the page in a frame: `page`, `at(what)`, `inSight(element)`, `resize(width, height)`."""
    names = "{positions, state, listingOf, titleOf: title}"
    text = text.replace("</body>", f"<script>Object.assign(window, {names});</script></body>")
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
SIZES = [ZOOMED, [1280, 720], [1366, 768], [1920, 1080], [640, 360], [390, 844]]


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
            const rows = [...page.document.querySelectorAll("pre > .now")];
            if (!rows.length || !rows.every(inSight)) seen.hidden.push([...size, at("#live").textContent]);
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


def test_the_columns_are_side_by_side_except_on_a_phone_that_is_held_upright(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), """
      seen.columns = [];
      for (const size of [[1280, 720], [753, 424], [700, 844], [640, 360], [390, 844]]) {
        await resize(...size);
        const [left, right] = ["#left", "#arrays"].map(x => at(x).getBoundingClientRect());
        seen.columns.push([right.left >= left.right, right.top >= left.bottom]);
      }
    """)
    assert seen.columns == [[True, False]] * 4 + [[False, True]]


def test_the_answer_to_why_covers_neither_the_line_nor_the_cell_that_was_asked(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), f"const sizes = {SIZES};" + """
      const attention = page.positions.findIndex(s => s.kind === "b" && page.titleOf(s).startsWith("attention"));
      const canvases = () => [...page.document.querySelectorAll("#right .asks canvas")];
      seen.covered = [];
      for (const size of sizes) {
        await resize(...size);
        for (const [number, n] of [[5, 0], [5, -1], [8, 0], [8, 5], [8, -1]]) {
          page.closeWhy();
          page.go(attention, number);
          await wait();
          const canvas = canvases().at(n);
          canvas.scrollIntoView({block: "end"});
          const {left, bottom} = canvas.getBoundingClientRect();
          canvas.dispatchEvent(new MouseEvent("click",
            {bubbles: true, clientX: left + canvas.cell.left + 2, clientY: bottom - 2}));
          await wait();
          const line = at("pre > .now"), {name} = page.state.trail.at(-1);
          const lit = [...page.document.querySelectorAll(`figure[data-name="${name}"] .lit`)];
          seen.covered.push([!lit.some(inSight), line && !inSight(line),
            at("#why").getBoundingClientRect().top < at("#arrays").getBoundingClientRect().bottom - 1]);
        }
      }
    """)
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
      for (const [id, key] of [["breakpoint", "PageDown"], ["jump", "PageUp"]]) { $(id).focus(); press(key); }
      seen.visited.push(location.hash);
      const space = new KeyboardEvent("keydown", {key: " ", bubbles: true, cancelable: true});
      $("theme-switch").dispatchEvent(space);
      seen.left_to_the_button = !space.defaultPrevented && location.hash === seen.visited.at(-1);
    """)
    assert seen.visited == ["#b0.1", "#b0.2", "#b0.1", "#b0.2", "#b0.1", "#b0.1"]
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
      const seenPlaces = new Set();
      positions.forEach((s, k) => {
        const {place} = listingOf(s);
        if (seenPlaces.has(place)) return;
        seenPlaces.add(place);
        for (let n = 1; n <= listingOf(s).lines.length; n++) {
          go(k, n);
          const [first] = all("pre > .now"), number = getComputedStyle(first, "::before").content;
          if (number !== `"${n}"` || first.dataset.line !== `${n}` || address() !== `#${s.kind}${s.k}.${n}` ||
              !text("#live").includes(`, line ${n} of`)) seen.wrong.push([address(), number]);
        }
      });
      goTo("b", 1);
      seen.numbers = all("pre > div").map(row => row.dataset.line ?? "").filter(n => n).map(Number);
      all("pre > .stop").at(-1).click();
      seen.clicked = address();
    """)
    assert seen.wrong == []
    assert seen.numbers == list(range(1, len(seen.numbers) + 1))
    assert seen.clicked == f"#b1.{len(seen.numbers)}"


MEASURE = """
  const parse = color => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((x, k) => a * x + (1 - a) * below[k]);
  const background = element => {
    if (!element) return [255, 255, 255];
    const box = element.tagName === "text" && element.parentNode.querySelector(":scope > rect");
    const style = getComputedStyle(box || element), color = box ? style.fill : style.backgroundColor;
    const below = background(box ? box.parentNode.parentNode : element.parentElement);
    return over(color === "none" ? [0, 0, 0, 0] : parse(color), below);
  };
  const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const contrast = (a, b) => {                              // WCAG 2.2, "contrast ratio"
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  };
  const faults = new Map();
  const measure = () => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
      if (!words || !element.getClientRects().length || element.closest("script, title, option")) continue;
      const style = getComputedStyle(element), isSvg = element.namespaceURI.endsWith("svg");
      const below = background(element), clear = contrast(over(parse(isSvg ? style.fill : style.color), below), below);
      const name = element.className.baseVal ?? element.className;
      const what = `${document.documentElement.dataset.theme} ${element.tagName} ${name} `;
      if (clear < 4.5) faults.set(what + "contrast", `${clear.toFixed(2)} ${words}`);
      const {a, b} = isSvg ? element.getScreenCTM() : {a: 1, b: 0};         // a drawing may be scaled or turned
      const size = parseFloat(style.fontSize) * Math.hypot(a, b);
      if (size < 12) faults.set(what + "size", `${size} ${words}`);
    }
  };
"""


@pytest.mark.parametrize("passed", [True, False])
def test_all_text_has_a_contrast_of_at_least_4_5_and_at_least_12_pixels_light_and_dark(tmp_path, passed):
    text = gpt_page() if passed else gpt_page().replace('"ok":true', '"ok":false')
    seen = browse(tmp_path, text, MEASURE + f"const everyOp = {json.dumps(passed)};" + """
      for (const theme of ["light", "dark"]) {
        look("theme", theme);
        showStop(0);
        measure();
        endTour();
        const measured = new Set();
        positions.forEach((s, k) => {
          const what = s.kind + (everyOp ? steps[s.k]?.op ?? "" : "");
          if (measured.has(what)) return;
          measured.add(what);
          go(k, Infinity);
          press("w");
          measure();
        });
        goTo("b", 0);
        measure();
        press("q"); measure(); press("q");
        await wait();
        showTip({currentTarget: document.querySelector("dfn")});
        press("?"); measure(); $("overlay").close();
      }
      seen.faults = [...faults];
    """)
    assert seen.faults == []


# ---- the graph -------------------------------------------------------------------------------------------------------

def test_the_labels_of_the_graph_fit_into_their_boxes_and_are_complete(tmp_path):
    long_name = "a_module_with_a_long_name"
    seen = browse(tmp_path, gpt_page(n_layer=4).replace("c_proj", long_name), """
      goTo("b", 0);
      seen.narrow = [];
      seen.texts = all("#nodes text:not(.module)").map(text => {
        const box = text.parentNode.querySelector("rect").getBBox(), {x, width} = text.getBBox();
        if (x < box.x + 2 || x + width > box.x + box.width - 2) seen.narrow.push(text.textContent);
        return text.textContent;
      });
    """)
    assert seen.narrow == []
    assert not [text for text in seen.texts if "…" in text]
    assert f"mlp.{long_name}" in seen.texts


def test_the_arrows_of_the_graph_point_where_the_numbers_go(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      const tips = () => all("#nodes .head").filter(head => head.getClientRects().length).map(head => {
        const line = head.parentNode.querySelector("path:not(.head)"), tip = head.getPointAtLength(0).x;
        return tip > line.getPointAtLength(line.getTotalLength() / 2).x;
      });
      go(find("f")); seen.forward = tips();
      go(find("b")); seen.backward = tips();
      seen.edges = all("#nodes .edge").length;
    """)
    assert seen.edges and seen.forward == [True] * seen.edges and seen.backward == [False] * seen.edges


def test_the_current_op_of_a_wide_graph_is_in_sight_and_its_overview_leads_anywhere(tmp_path):
    seen = browse(tmp_path, gpt_page(n_layer=4), """
      const boxes = what => document.querySelector(what).getBoundingClientRect();
      seen.hidden = steps.map((_, k) => {
        goTo("b", k);
        const {left, right} = boxes("#nodes .now");
        return left < 0 || right > innerWidth;
      });
      const {left, width} = boxes("#overview svg"), {top} = boxes("#overview");
      const click = share => { document.querySelector("#overview").dispatchEvent(
        new MouseEvent("click", {clientX: left + share * width, clientY: top + 5})); return here().k; };
      seen.clicked = [click(1), click(0)];
      $("nodes").scrollLeft = 0;
      $("nodes").onscroll();
      const marked = boxes("#overview .seen");
      seen.marked = [marked.left - left, marked.width / width - $("nodes").clientWidth / $("nodes").scrollWidth];
      seen.shown = boxes("#overview").height > 0;
      press("g");
      seen.shown_without_the_graph = boxes("#overview").height > 0;
      seen.last = steps.length - 1;
    """, (800, 900))
    assert not any(seen.hidden)
    assert seen.clicked == [0, seen.last]
    assert seen.marked == pytest.approx([0, 0], abs=0.02)
    assert seen.shown and seen.shown_without_the_graph


# ---- the tour and the glossary ---------------------------------------------------------------------------------------

def test_the_tour_has_five_stops_and_is_shown_once(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      seen.stops = [];
      while (tour.stop >= 0) {
        seen.stops.push([text("#tour b"), text("#tour .note"), all(".toured").length]);
        press("ArrowDown");                                 // the keys that it names work
        all("#tour button").at(-1).click();
      }
      seen.lines = address();
      startTour();
      seen.again = tour.stop;
      press("?");
      all("#overlay button").find(b => b.textContent === "Show the tour").click();
      seen.reopened = text("#tour b");
    """)
    assert [note for _, note, _ in seen.stops] == [f"{k} of 5" for k in range(1, 6)]
    assert [outlined for _, _, outlined in seen.stops] == [1] * 5
    assert seen.stops[0][0] == seen.reopened == "You are at the loss."
    assert seen.lines == "#b0.5"
    assert seen.again == -1


def test_escape_ends_the_tour_for_good_even_where_the_browser_stores_nothing(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      for (const name of ["getItem", "setItem"]) Storage.prototype[name] = () => { throw new Error("refused"); };
      seen.open = all("#tour").length;
      press("Escape");
      draw();
      seen.left = all("#tour, .toured").length;
    """)
    assert seen.open == 1 and seen.left == 0


def test_the_tour_is_not_shown_at_the_address_of_a_step(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      endTour();
      localStorage.clear();
      location.hash = "#b1.1";
      startTour();
      seen.addressed = all("#tour").length;
    """)
    assert seen.addressed == 0


def test_the_tour_is_not_shown_in_a_frame_and_its_stops_lie_inside_the_window_at_every_size(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), f"const sizes = {SIZES};" + """
      seen.framed = at("#tour") !== null;
      seen.outside = [];
      for (const size of sizes) {
        await resize(...size);
        for (let stop = 0; stop < 5; stop++) {
          page.showStop(stop);
          const {left, right, top, bottom} = at("#tour").getBoundingClientRect();
          if (left < 0 || top < 0 || right > size[0] || bottom > size[1]) seen.outside.push([...size, stop]);
        }
      }
    """)
    assert not seen.framed
    assert seen.outside == []


def test_a_word_of_the_glossary_is_explained_on_focus_and_hover(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      goTo("b", 1);
      await wait();
      seen.terms = all("#right dfn").map(term => term.textContent);
      const [term] = all("#right dfn");
      term.focus();
      seen.focused = [tip.hidden, tip.textContent, $(term.getAttribute("aria-describedby")) === tip];
      term.blur();
      seen.left = tip.hidden;
      term.dispatchEvent(new MouseEvent("mouseenter"));
      seen.hovered = tip.hidden;
      seen.glossary = GLOSSARY;
    """)
    assert "upstream gradient" in seen.terms and len(seen.terms) == len(set(seen.terms))
    assert seen.focused == [False, seen.glossary[seen.terms[0]], True]
    assert seen.left and not seen.hovered
    assert all(re.fullmatch(r"[A-Z][^.]*(\.\d[^.]*)*\.", sentence) for sentence in seen.glossary.values())


# ---- print -----------------------------------------------------------------------------------------------------------

def test_a_step_is_printed_on_white_with_the_title_and_its_number(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      look("theme", "dark");
      goTo("b", 2, 1);
      onbeforeprint();
      seen.printed = [document.documentElement.dataset.theme, text("#printed"), text("#live")];
      onafterprint();
      seen.after = document.documentElement.dataset.theme;
    """)
    theme, printed, live = seen.printed
    assert theme == "light" and seen.after == "dark"
    assert printed.startswith("one step") and live.split(",")[0] in printed and ", line 1 of " in printed


def test_a_printed_step_of_small_arrays_takes_at_most_two_pages(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    (tmp_path / "page.html").write_text(gpt_page(), encoding="utf-8")
    subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                    "--virtual-time-budget=2000", f"--print-to-pdf={tmp_path / 'page.pdf'}",
                    (tmp_path / "page.html").as_uri() + "#b9.2"], capture_output=True, timeout=120, check=True)
    pages = re.findall(rb"/Type /Page\b", (tmp_path / "page.pdf").read_bytes())
    assert 1 <= len(pages) <= 2
