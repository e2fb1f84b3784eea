"""The stepper's HTML page: the file that is written, and its behaviour in headless Chromium."""
import base64
import functools
import json
import math
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, optim
from minigrad.step import page, record, replay
from minigrad.step.page_arrays import CELLS, ArrayStore
from minigrad.words import index

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@functools.cache
def gpt(n_layer=2, T=16, C=32, vocab=37, n_head=4):
    """The record of a training step of a GPT, with its optimizer."""
    config = GPTConfig(block_size=T, vocab_size=vocab, n_layer=n_layer, n_head=n_head, n_embd=C, dropout=0.0, bias=True)
    model = GPT(config, seed=0, device="cpu", dtype="float32")
    idx = np.random.default_rng(0).integers(0, vocab, (1, T + 1))
    return record(model.loss(idx[:, :-1], idx[:, 1:]), tokens=[f"t{i}" for i in range(T)], notes=["cropped to one"],
                  title="a </script> <b>GPT</b>", optimizer=optim.AdamW(model.parameters()))


@functools.cache
def gpt_page():
    return page.html(gpt())


def line_of(name, op):
    """The first step of an op, and the number, from 1, of the line of its backward that computes this array."""
    v = next(v for v in gpt().views if v.op == op)
    return v, next(n for n, line in enumerate(v.backward.lines, 1) if name in line.values)


def small(x=((1.0, -2.0, 3.0),), **kwargs):
    return record((F.softmax(Tensor(np.array(x), requires_grad=True)) ** 2).sum(), **kwargs)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1],
                      parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def stored(a, cells=64):
    pool = ArrayStore()
    pool.put(a)
    return pool.encoded(cells)[0]


def decoded(stored, arrays=()):
    """An array of the page, decoded as its script does it. arrays: all of the page."""
    if "value" in stored:
        return np.array(float(stored["value"]))
    shape, stride = tuple(stored["shape"]), stored.get("stride", [1, 1, 1])
    full = math.prod(shape[:-2]), *((1,) + shape)[-2:]
    kept = [-(-n // s) for n, s in zip(full, stride)]
    if "ints" in stored:
        return np.array(stored["ints"]).reshape(kept)
    if "same" in stored:
        return decoded(arrays[stored["same"]], arrays).reshape(kept)
    return np.frombuffer(base64.b64decode(stored["floats"]), "<f4").astype(float).reshape(kept)


# ---- the file -------------------------------------------------------------------------------------------------------

def test_the_page_is_one_file_that_refers_to_no_other(tmp_path):
    less = page.write(gpt(), tmp_path / "step.html")
    text = (tmp_path / "step.html").read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["step.html"]
    assert not re.search(r"""(src|href)=|url\(|@import""", text.split('id="data"')[0])
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\(", text)
    assert "default-src 'none'" in text
    outside = set(re.findall(r"https?://[^\s\"'<>)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert len(text.encode()) < 1.5e6
    assert less == data_of(text)["omitted"]


def test_a_script_tag_in_a_title_does_not_end_the_pages_script():
    text = gpt_page()
    assert text.count("</script>") == 2
    assert data_of(text)["title"] == "a </script> <b>GPT</b>"


def test_the_page_contains_the_steps_of_the_record():
    data, views = data_of(gpt_page()), gpt().views
    assert [(s["op"], s["name"], s["at"]) for s in data["steps"]] == [(v.op, v.name, v.created_at) for v in views]
    for stored, v in zip(data["steps"], views):
        assert [row["ok"] for row in stored["checks"]] == [row.ok for row in v.report.rows]
        assert stored["backward"]["source"] == v.backward.source
        assert [line[:2] for line in stored["backward"]["lines"]] == [[x.first, x.last] for x in v.backward.lines]
        assert [x["label"] for x in stored["inputs"]] == [x.label for x in v.inputs]
    assert len(data["nudges"]) == len(gpt().nudges())
    assert [u["leaf"] for u in data["optimizer"]["updates"]] == [u.leaf for u in gpt().optimizer_step.updates]
    assert data["notes"] == ["cropped to one"]


def test_an_array_is_stored_in_float32_with_its_exact_shape_norm_and_mean():
    data, whole = data_of(gpt_page()), 0
    for stored, v in zip(data["steps"], gpt().views):
        for x, shown in zip(v.inputs, stored["inputs"]):
            if x.gradient is None:
                continue
            found = data["arrays"][shown["gradient"]]
            assert tuple(found["shape"]) == x.gradient.shape
            assert found["norm"] == pytest.approx(np.linalg.norm(x.gradient.astype(float)), rel=1e-6)
            assert found["mean"] == pytest.approx(x.gradient.astype(float).mean(), rel=1e-6, abs=1e-12)
            if "stride" not in found:
                whole_array = decoded(found, data["arrays"]).reshape(x.gradient.shape)
                np.testing.assert_allclose(whole_array, x.gradient, 1e-6, 1e-6 * np.abs(x.gradient).max())
                whole += 1
    assert whole > 50


def test_equal_arrays_are_stored_once():
    pool, a = ArrayStore(), np.arange(6.0)
    assert pool.put(a) == pool.put(a.copy()) != pool.put(a.reshape(2, 3))
    assert len(pool.encoded(CELLS[0])) == 2


def test_integers_and_booleans_are_stored_exactly():
    assert decoded(stored(np.array([50256, -3, 2 ** 31]))).ravel().tolist() == [50256, -3, 2 ** 31]
    assert stored(np.array([True, False]))["ints"] == [1, 0]


def test_nan_and_infinity_are_stored_and_do_not_change_the_scale():
    found = stored(np.array([np.nan, np.inf, -np.inf, 2.0, -1.0]))
    np.testing.assert_array_equal(decoded(found).ravel(), [np.nan, np.inf, -np.inf, 2.0, -1.0])
    assert found["max"] == 2.0
    assert stored(np.array(np.nan))["value"] == "NaN"


def test_a_mask_does_not_change_the_scale():
    found = stored(np.array([[1.0, -1e30], [3.0, 2.0]]))
    assert found["max"] == 3.0
    assert found["mask"] == -1e30


@pytest.mark.parametrize("shape", [(0,), (3, 0), (5,), (7, 11), (1, 4, 16, 16), (2, 30, 3, 3), (50000, 3), (384, 1536)])
def test_a_sample_is_even_and_has_at_most_the_allowed_number_of_cells(shape):
    a = np.random.default_rng(0).normal(size=shape)
    found = stored(a)
    n, r, c = found.get("stride", (1, 1, 1))
    expected = a.reshape(math.prod(shape[:-2]), *((1,) + shape)[-2:])[::n, ::r, ::c]
    assert expected.size <= 64
    np.testing.assert_allclose(decoded(found), expected, rtol=1e-3, atol=1e-6)
    assert ("stride" in found) == (expected.size < a.size)


@pytest.mark.parametrize("budget", [900e3, 600e3, 480e3])
def test_the_page_stays_within_its_budget_by_sampling_and_says_so(tmp_path, budget):
    with mg.plain():                            # a kernel's values differ in the last bits: they are stored, too
        plain = gpt.__wrapped__()
    less = page.write(plain, tmp_path / "step.html", budget)
    assert (tmp_path / "step.html").stat().st_size <= budget
    assert re.search(r"\d+ of \d+ arrays are sampled evenly", less[0])


def test_a_budget_below_the_smallest_page_is_an_error_that_gives_the_size_needed(tmp_path):
    with pytest.raises(ValueError, match=r"needs 0\.\d\d MB even with 64 numbers .* budget of 0\.01 MB"):
        page.write(gpt(), tmp_path / "step.html", 10_000)
    assert not list(tmp_path.iterdir())


def test_a_wide_model_stays_within_eight_megabytes():
    text = page.html(gpt(n_layer=6, T=15, C=384, vocab=65, n_head=6))
    assert len(text.encode()) <= 8e6
    assert "sampled evenly" in data_of(text)["omitted"][0]


def test_a_step_has_a_page_for_notebooks():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    shown = [step._repr_html_() for step in F.softmax(x).sum().backward_steps()]
    assert len(shown) == 2
    for text in shown:
        assert text.startswith("<iframe srcdoc=")
        assert "<" not in re.match(r"<iframe srcdoc='(.*?)'", text, re.S)[1]


# ---- in a browser ---------------------------------------------------------------------------------------------------

COLLECT = """
const seen = {errors: []};
window.addEventListener("error", e => seen.errors.push(String(e.message)));
window.addEventListener("unhandledrejection", e => seen.errors.push(String(e.reason)));
document.addEventListener("securitypolicyviolation", e => seen.errors.push(e.violatedDirective + " " + e.blockedURI));
console.error = (...words) => seen.errors.push(words.join(" "));
"""
REPORT = """
const press = key => (document.activeElement ?? document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true}));
const click = what => document.querySelector(what).click();
const text = what => document.querySelector(what)?.textContent ?? "";
const all = what => [...document.querySelectorAll(what)];
const wait = () => new Promise(done => setTimeout(done, 50));
window.addEventListener("load", async () => {
  await wait();
  try { await script(); } catch (error) { seen.errors.push(String(error.stack)); }
  seen.requests = performance.getEntriesByType("resource").map(e => e.name);
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
"""


def browse(tmp_path, text, script, size=(1400, 900)):
    """Run a script on a page in headless Chromium; the values that it assigned to attributes of `seen`."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    text = text.replace("<style>", f"<script>{COLLECT}</script>\n<style>", 1)
    test = f"<script>async function script() {{ {script} }}\n{REPORT}</script>"
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", test + "</body>"), encoding="utf-8")
    flags = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
             "--disable-component-update --disable-sync --virtual-time-budget=20000 --dump-dom").split()
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size[0]},{size[1]}",
               path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)
    assert found, "the script did not finish"
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["errors"] == [] and seen["requests"] == []
    return SimpleNamespace(**seen)


def test_keys_move_by_op_and_line_and_the_address_follows(tmp_path):
    attention, line = line_of("dS", "attention")
    seen = browse(tmp_path, gpt_page(), f"const link = '#b{attention.index}.{line}';" + """
      const at = () => location.hash + " " + text("#live");
      seen.visited = [];
      const before = history.length;
      for (const key of "ArrowRight ArrowDown ArrowDown ArrowUp ArrowLeft End Home f d u n".split(" ")) {
        press(key);
        seen.visited.push(at());
      }
      seen.entries = history.length - before;
      location.hash = link; await wait();
      seen.linked = at();
      seen.marked = text("pre > .now");
      seen.framed = all("figure.new b").map(e => e.textContent);
    """)
    last, second = gpt().views[-1].index, gpt().views[1]
    assert [x.split()[0] for x in seen.visited] == [
        "#b1", "#b1.1", "#b1.2", "#b1.1", "#b0", f"#b{last}", "#b0", "#f0", "#b0", "#u0", "#n0"]
    assert seen.visited[0].endswith(f"step 1 of {last}: {second.op} → {second.name}")
    assert seen.linked.startswith(
        f"#b{attention.index}.{line} step {attention.index} of {last}: attention → {attention.name}, "
        f"line {line} of {len(attention.backward.lines)}, computed dS")
    assert seen.marked.strip().startswith("dS = P *")
    assert seen.framed == ["dS"]
    assert seen.entries == len(seen.visited)


def test_every_line_of_every_op_can_be_shown_forward_and_backward(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      const shown = new Set();
      positions.forEach((s, at) => {
        const op = s.kind + (steps[s.k]?.op ?? "");
        for (let line = 0; line <= listingOf(s).lines.length && !shown.has(op); line++) go(at, line);
        shown.add(op);
      });
      seen.positions = positions.length;
      seen.shown = [...shown].sort();
    """)
    ops = {v.op for v in gpt().views}
    assert seen.positions == 2 * len(gpt().views) + 2 + len(gpt().optimizer_step.updates)
    assert {x for x in seen.shown if x[0] in "bf"} == {kind + op for kind in "bf" for op in ops}


def test_the_page_shows_the_ops_and_verdicts_of_the_record(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      seen.steps = steps.map((s, k) => {
        goTo("b", k);
        return [text("h2"), all(".verdict").map(v => v.textContent.split(" ").slice(0, 2).join(" "))];
      });
    """)
    for (heading, verdicts), v in zip(seen.steps, gpt().views):
        assert heading == (v.op if v.op == v.name else f"{v.op} → {v.name}")
        assert verdicts == [f"✓ {name}" for name in dict.fromkeys(row.of for row in v.report.rows)]


def test_breakpoints_stop_where_those_of_backward_steps_do(tmp_path):
    attention = next(v.index for v in gpt().views if v.op == "attention")
    seen = browse(tmp_path, gpt_page(), f"const attention = {attention};" + """
      const run = (from, words) => { goTo("b", from); document.querySelector("#breakpoint").value = words;
        document.querySelector("#until").requestSubmit(); return [here().k, text("#message")]; };
      seen.runs = [run(0, "attention"), run(attention, "attention"), run(0, "h.0"), run(0, "wpe.weight"),
                   run(0, "norm > 0.5"), run(0, "bad"), run(0, "nan"), run(0, "atention")];
    """)

    def first_after(start, condition):
        return next(v.index for v in gpt().views if v.index > start and condition(v))

    def largest_norm(v):
        return max(np.linalg.norm(x.gradient) for x in v.inputs if x.gradient is not None)

    assert [k for k, _ in seen.runs[:5]] == [
        attention, first_after(attention, lambda v: v.op == "attention"),
        first_after(0, lambda v: v.name.startswith("h.0")), first_after(0, lambda v: v.name == "wpe"),
        first_after(0, lambda v: largest_norm(v) > 0.5)]
    assert [words for _, words in seen.runs[5:7]] == ["no later step stops at “bad”", "no later step stops at “nan”"]
    assert "nothing here is called “atention”; nearest: attention" in seen.runs[7][1]


def test_the_page_shows_the_optimizers_arithmetic_of_the_record(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      goTo("u", 1, 0, 2);
      seen.picked = text('.chips [aria-pressed=true]');
      seen.made = all(".value").map(e => e.textContent.trim());
      seen.total = text("tr.total");
    """)
    update, walk = gpt().optimizer_step.updates[1], gpt().optimizer_step
    at = update.picks[2]
    made = dict(x.replace("−", "-").split(" = ") for x in seen.made)
    expected = {name: np.asarray(a) for line in update.listing.lines for name, a in line.values.items()}
    assert seen.picked == index(at)
    assert made.keys() == expected.keys()
    for name, a in expected.items():
        assert float(made[name]) == pytest.approx(float(a[at] if a.ndim else a), rel=1e-4)
    assert f"{walk.predicted:.3g}".replace("-", "−") in seen.total


def test_the_page_says_where_a_nan_comes_from(tmp_path):
    with np.errstate(all="ignore"):
        recorded = small(((1.0, np.nan, 3.0),))
    seen = browse(tmp_path, page.html(recorded), """
      seen.alerts = all(".alert").map(e => e.textContent);
      go(find("b"));
      const panels = document.querySelector(".panels");
      panels.focus(); press("ArrowRight");
      seen.label = text("#right .reading");
    """)
    assert any(re.match("NaN or infinity: .*an input of softmax.* holds NaN or infinity itself", text)
               for text in seen.alerts)


def test_modules_of_a_long_graph_are_folded_except_the_current_one(tmp_path):
    deep = gpt(n_layer=5)
    modules = [f"h.{i}" for i in range(5)]
    inside = next(v.index for v in deep.views if v.name.startswith("h.4."))
    seen = browse(tmp_path, page.html(deep), f"const inside = {inside};" + """
      seen.steps = steps.length;
      seen.folded = all("#graph .folded text:nth-of-type(1)").map(e => e.textContent);
      goTo("b", inside);
      seen.inside = all("#graph .folded text:nth-of-type(1)").map(e => e.textContent);
      const fold = document.querySelector("#graph .folded");
      fold.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
      seen.opened = all("#graph .folded text:nth-of-type(1)").map(e => e.textContent);
    """)
    assert seen.steps == len(deep.views) > 60
    assert seen.folded == modules
    assert seen.inside == modules[:-1]
    assert seen.opened == modules[1:-1]


@pytest.mark.parametrize("size", [(1400, 900), (500, 844)])
def test_the_page_is_not_wider_than_its_window(tmp_path, size):
    seen = browse(tmp_path, gpt_page(), """
      seen.wide = positions.flatMap((s, at) => {
        go(at);
        return [document.documentElement, $("left"), $("arrays")].map(x => x.scrollWidth - x.clientWidth);
      });
    """, size)
    assert max(seen.wide) <= 0


def test_a_step_is_drawn_in_less_than_250_ms(tmp_path):
    seen = browse(tmp_path, gpt_page(), """
      const from = performance.now();
      for (let k = 0; k < steps.length; k++) goTo("b", k);
      seen.ms = (performance.now() - from) / steps.length;
    """)
    assert seen.ms < 5 * 50


def test_a_record_without_tokens_optimizer_or_modules_has_a_page(tmp_path):
    seen = browse(tmp_path, page.html(small()), """
      seen.tabs = all("#tabs button").map(b => b.textContent);
      seen.steps = steps.length;
    """)
    assert seen.tabs == ["Forward", "Backward", "Nudge", "Check"]
    assert seen.steps == 3


def test_the_page_of_a_large_model_has_its_steps_and_says_what_is_left_out(tmp_path, monkeypatch):
    """A page with reruns would take several times the memory of the record."""
    monkeypatch.setattr(replay, "MOST_RERUN", 100)
    record = gpt(T=11)                          # not run again by another test
    text = page.html(record)
    assert "optimizer_step" not in vars(record) and "replay" not in vars(record)
    assert re.search("not computed again with other weights, as these are [0-9,]+ numbers", data_of(text)["notes"][-1])
    seen = browse(tmp_path, text, """
      seen.tabs = all("#tabs button").map(b => b.textContent);
      seen.steps = steps.length;
    """)
    assert seen.tabs == ["Forward", "Backward"] and seen.steps == len(record.views)


def test_the_page_of_one_step_explains_its_own_gradients(tmp_path):
    x = Tensor(np.array([[1.0, -2.0, 3.0]]), requires_grad=True)
    step = next(iter((F.softmax(x) ** 2).sum().backward_steps(until="softmax")))
    seen = browse(tmp_path, f"<body>{step._repr_html_()}</body><style></style>", """
      await wait();
      const inside = document.querySelector("iframe").contentDocument;
      seen.heading = inside.querySelector("h2").textContent;
      document.querySelector("iframe").contentWindow.askWhy({kind: "b", k: 0, line: 2, name: "dx", at: [0, 1]});
      seen.why = inside.querySelector("#why").textContent;
    """)
    assert seen.heading == "softmax"
    assert "Why is dx[0,1]" in seen.why and "the loss" not in seen.why
