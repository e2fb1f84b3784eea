"""A Step inside another page: in a notebook, in the book."""
import html
import re

import numpy as np
import pytest

from minigrad import Tensor, functional as F
from test_page import browse, data_of


def leaf(*shape):
    return Tensor(np.random.default_rng(0).normal(size=shape), requires_grad=True)


def step_of(op):
    x = leaf(2, 2, 8, 8)
    y = {"softmax": lambda: F.softmax(x) ** 2, "gelu": lambda: F.gelu(x),
         "layer_norm": lambda: F.layer_norm(x, leaf(8), leaf(8)),
         "attention": lambda: F.scaled_dot_product_attention(x, leaf(2, 2, 8, 8), leaf(2, 2, 8, 8)) ** 2,
         "cross_entropy": lambda: F.cross_entropy(leaf(16, 65), np.arange(16))}[op]()
    return next(y.sum().backward_steps(until=op))


def page_around(frame, width=700, theme="dark"):
    return f'<body data-theme="{theme}" style="width:{width}px">{frame}</body><style></style>'


def inner(frame):
    return html.unescape(re.search("srcdoc='(.*?)'", frame, re.S)[1])


INSIDE = """
  await wait();
  const frame = document.querySelector("iframe"), inside = frame.contentDocument;
  const empty = () => frame.clientHeight - inside.body.getBoundingClientRect().height;
  const settle = async () => {                              // a busy machine lays out later
    await wait();
    for (let n = 0; n < 50 && !(empty() >= 0 && empty() < 1); n++) await wait();
  };
  await settle();
"""


@pytest.mark.parametrize("op", ["softmax", "gelu", "layer_norm", "attention", "cross_entropy"])
def test_a_step_has_at_most_150_kB_and_no_folder(op):
    frame = step_of(op)._repr_html_()
    assert len(frame.encode()) <= 150e3
    assert data_of(inner(frame))["steps"][0]["at"].startswith("tests/test_page_embedded.py:")
    assert not re.search(r"/(home|root|work|tmp|usr)/", frame)


def test_a_step_is_as_high_as_its_contents_at_every_line_and_width(tmp_path):
    seen = browse(tmp_path, page_around(step_of("attention")._repr_html_()), INSIDE + """
      seen.empty = [];
      for (const width of [700, 400, 1100]) {
        document.body.style.width = `${width}px`;
        for (let n = 0; n < 3; n++) {
          await settle();
          seen.empty.push(empty());
          [...inside.querySelectorAll("#moves button")].find(b => b.textContent.includes("▲")).click();
        }
      }
      inside.querySelector("details").open = true;
      await settle();
      seen.empty.push(empty());
    """)
    assert len(seen.empty) == 10 and all(0 <= x < 1 for x in seen.empty)


def test_a_step_has_the_theme_of_the_page_and_follows_it(tmp_path):
    seen = browse(tmp_path, page_around(step_of("softmax")._repr_html_()), INSIDE + """
      const theme = () => inside.documentElement.dataset.theme;
      seen.themes = [theme()];
      document.body.dataset.theme = "light"; await settle();
      seen.themes.push(theme());
      delete document.body.dataset.theme; document.body.dataset.jpThemeLight = "false"; await settle();
      seen.themes.push(theme());
    """)
    assert seen.themes == ["dark", "light", "dark"]


def test_a_step_opens_at_a_line_with_a_picture_and_has_no_tools_of_the_whole_page(tmp_path):
    seen = browse(tmp_path, page_around(step_of("attention")._repr_html_()), INSIDE + """
      seen.now = inside.querySelector("pre > .now").textContent;
      seen.pictures = inside.querySelectorAll("#right .picture").length;
      seen.tools = inside.querySelectorAll("header, form, select, #tour, #graph:not([hidden])").length;
    """)
    assert "dk = dS.swapaxes(-1, -2) @ q" in seen.now
    assert seen.pictures == 1 and seen.tools == 0


def test_a_key_that_moves_nothing_is_left_to_the_page_around(tmp_path):
    seen = browse(tmp_path, page_around(step_of("softmax")._repr_html_()), INSIDE + """
      const presses = key => {
        const event = new frame.contentWindow.KeyboardEvent("keydown", {key, bubbles: true, cancelable: true});
        return !inside.body.dispatchEvent(event);
      };
      const place = () => inside.querySelector("#place").textContent;
      seen.first = place();
      seen.up = [presses("ArrowUp"), place()];
      while (presses("ArrowDown"));
      seen.last = place();
      seen.others = ["ArrowDown", "ArrowLeft", "PageDown", " "].map(presses);
    """)
    assert seen.up[0] and seen.up[1] != seen.first
    assert re.fullmatch(r"line (\d+) of \1", seen.last)
    assert not any(seen.others)


def test_without_a_page_around_that_it_may_see_it_scrolls_and_has_the_theme_of_the_system(tmp_path):
    seen = browse(tmp_path, inner(step_of("softmax")._repr_html_()), """
      await wait();
      seen.heading = text("h2");
      seen.theme = document.documentElement.dataset.theme;
      seen.overflow = getComputedStyle(document.documentElement).overflowY;
    """)
    assert (seen.heading, seen.theme) == ("softmax", "light") and seen.overflow != "hidden"
