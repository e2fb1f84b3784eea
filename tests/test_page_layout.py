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
def gpt_page(n_layer=1, T=5, C=8):
    """The page of a training step of a small GPT."""
    config = GPTConfig(block_size=T, vocab_size=7, n_layer=n_layer, n_head=2, n_embd=C, dropout=0.0, bias=True)
    model = GPT(config, seed=0, device="cpu", dtype="float32")
    idx = np.random.default_rng(0).integers(0, 7, (1, T + 1))
    return page.html(record(model.loss(idx[:, :-1], idx[:, 1:]), tokens=list("abcde"), title="one step",
                            optimizer=optim.AdamW(model.parameters())))


def browse_at_sizes(tmp_path, text, script):
    """Run a script that sees the page in a frame: `page`, `at(selector)`, `inSight(element)`; `resize(width, height)`."""
    text = text.replace("</body>", "<script>Object.assign(window, {positions, state, listingOf});</script></body>")
    frame = f'<body><iframe id="frame" style="border:0" srcdoc="{html.escape(text)}"></iframe></body><style></style>'
    return browse(tmp_path, frame, """
      const frame = document.getElementById("frame"), page = frame.contentWindow;
      const at = what => page.document.querySelector(what);
      const resize = async (width, height) => {
        Object.assign(frame.style, {width: `${width}px`, height: `${height}px`});
        await wait(); await wait();
      };
      const inSight = element => {
        const {left, right, top, bottom} = element.getBoundingClientRect(), column = element.closest("#left, #arrays");
        const box = column.getBoundingClientRect();
        return left >= box.left && right <= box.right && top >= box.top && bottom <= box.bottom &&
          box.top >= 0 && box.bottom <= page.innerHeight && box.right <= page.innerWidth;
      };
    """ + script)


SIZES = [(1280, 720), (1366, 768), (1920, 1080), (753, 424), (390, 844)]      # 753 x 424: 1280 x 720 at 170 % zoom


def test_the_current_line_is_in_sight_on_every_line_of_every_step_at_every_size(tmp_path):
    seen = browse_at_sizes(tmp_path, gpt_page(), f"const sizes = {[list(size) for size in SIZES]};" + """
      seen.hidden = [];
      seen.lines = 0;
      for (const [width, height] of sizes) {
        await resize(width, height);
        page.positions.forEach((position, k) => {
          for (let n = 1; n <= page.listingOf(position).lines.length; n++) {
            page.go(k, n);
            const line = at("pre > .now");
            if (!line || !inSight(line)) seen.hidden.push([width, height, at("#live").textContent]);
            seen.lines++;
          }
        });
      }
    """)
    assert seen.hidden == []
    assert seen.lines > 100 * len(SIZES)
