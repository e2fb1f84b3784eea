"""One Step in a page of other text: what it shows of itself, its height, its theme, and how large it is."""
import re

import numpy as np
import pytest

from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F
from test_page import browse

OPS = ["cross_entropy", "attention", "layer_norm", "gelu", "linear", "embedding"]


def step(op):
    """The first step of this op in a training step of a small GPT."""
    model = GPT(GPTConfig(block_size=16, vocab_size=31, n_layer=1, n_head=4, n_embd=32), seed=0)
    idx = np.random.default_rng(0).integers(0, 31, (1, 9))
    return next(model(idx[:, :-1], idx[:, 1:])[1].backward_steps(until=op))


def browse_embedded(tmp_path, shown, script, theme="light"):
    """Run a script in a page of text that embeds a Step: `page` is its window, `at` finds an element in it."""
    return browse(tmp_path, f'<body data-theme="{theme}" style="margin:0"><p>Before.</p>{shown}<p>After.</p></body>'
                  "<style></style>", """
      await wait();
      const frame = document.querySelector("iframe"), page = frame.contentWindow;
      const at = what => page.document.querySelector(what);
      const isSeen = what => at(what)?.getClientRects().length > 0;
      const resize = async width => { frame.style.width = `${width}px`; await wait(); await wait(); };
    """ + script)


@pytest.mark.parametrize("op", OPS)
def test_a_step_takes_at_most_150_kilobytes_and_names_no_folder_of_the_machine(op):
    shown = step(op)._repr_html_()
    assert len(shown.encode()) < 152e3                      # the page, and the frame around it
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/", shown)


def test_a_step_shows_the_lines_to_move_along_and_no_bar_jump_list_breakpoint_or_graph(tmp_path):
    seen = browse_embedded(tmp_path, step("layer_norm")._repr_html_(), """
      seen.hidden = ["#jump", "#until", "#graph", "#quiz", "#help", "#first", "#next", "h1"].filter(isSeen);
      seen.shown = ["#up", "#down", "#place", "#tabs button", "pre", ".formula"].filter(isSeen);
      seen.place = at("#place").textContent;
      at("#up").click();
      seen.above = at("#place").textContent;
      at("#tabs button").click();
      seen.forward = at("#place").textContent;
    """)
    assert seen.hidden == [] and len(seen.shown) == 6
    assert seen.place == "line 7 of 8"                      # dx = ...; the return below it computes nothing
    assert seen.above == "line 6 of 8"
    assert seen.forward.startswith("all ")


@pytest.mark.parametrize("width", [1000, 700, 400])
def test_the_frame_is_as_high_as_its_content_at_every_width_line_and_answer(tmp_path, width):
    seen = browse_embedded(tmp_path, step("attention")._repr_html_(), f"""
      await resize({width});
      seen.gaps = [];
      const gap = () => frame.getBoundingClientRect().height - page.document.body.offsetHeight;
      const measure = async () => {{
        for (let n = 0; n < 20 && !(gap() >= 0 && gap() <= 4); n++) await wait();
        seen.gaps.push(gap());
      }};
      await measure();
      seen.sideways = page.document.documentElement.scrollWidth - page.innerWidth;
      for (let n = 0; n < 4; n++) {{ at("#up").click(); await measure(); }}
      at("#right .chips button").click();
      await measure();
      at("details").open = true;
      await measure();
    """)
    assert len(seen.gaps) == 7 and min(seen.gaps) >= 0 and max(seen.gaps) <= 4
    assert seen.sideways <= 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_step_has_the_theme_of_the_page_around_it_and_follows_its_switch(tmp_path, theme):
    seen = browse_embedded(tmp_path, step("gelu")._repr_html_(), """
      const other = {light: "dark", dark: "light"}[document.body.dataset.theme];
      seen.first = page.document.documentElement.dataset.theme;
      document.body.dataset.theme = other;
      await wait();
      seen.then = page.document.documentElement.dataset.theme;
      delete document.body.dataset.theme;
      document.body.dataset.jpThemeLight = "false";
      await wait();
      seen.jupyter = page.document.documentElement.dataset.theme;
    """, theme)
    assert [seen.first, seen.then] == [theme, {"light": "dark", "dark": "light"}[theme]]
    assert seen.jupyter == "dark"


def test_in_a_sandbox_that_hides_the_outer_page_a_step_shows_itself_and_scrolls(tmp_path):
    shown = step("linear")._repr_html_().replace("<iframe ", '<iframe sandbox="allow-scripts" ', 1)
    seen = browse(tmp_path, f"<body>{shown}</body><style></style>", """
      await wait();
      seen.height = document.querySelector("iframe").getBoundingClientRect().height;
    """)
    assert seen.height >= 420


def test_an_answer_opens_the_section_with_the_arrays_that_it_is_about(tmp_path):
    x = Tensor(np.array([[1.0, -2.0, 3.0]]), requires_grad=True)
    first = next(iter((F.softmax(x) ** 2).sum().backward_steps(until="softmax")))
    seen = browse_embedded(tmp_path, first._repr_html_(), """
      seen.before = [...page.document.querySelectorAll("details")].map(fold => fold.open);
      page.askWhy({kind: "b", k: 0, line: 0, name: "p", at: [0, 1]});
      await wait();
      seen.after = [...page.document.querySelectorAll("details")].map(fold => fold.open);
    """)
    assert not any(seen.before) and (any(seen.after) or not seen.after)
