"""The book's site and its notebooks, built and run: pytest tests/site_suite.py

It needs the extra docs, and a network for the packages of the notebooks' environment.
"""
import html
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pages import DOCS, chapters

ROOT = DOCS.parent
PAGES = [str(path.relative_to(DOCS).with_suffix(".html")) for path in sorted(DOCS.rglob("*.md"))]
CHAPTERS = chapters()
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
ENVIRONMENT["OPENBLAS_NUM_THREADS"] = "1"       # pages are built and notebooks run two at a time
NARROW = 400                                    # pixels, a phone
LARGEST = 400_000                               # bytes of a page
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
print("ran", sum(cell.get("execution_count") is not None for cell in notebook.cells))
"""


def named(pages):
    return pytest.mark.parametrize("page", pages, ids=[page.name for page in pages])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built with all cells run again, from another folder than that of the sources."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-j", "2", "-D", "nb_execution_mode=force", DOCS, folder]
    built = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, capture_output=True,
                           encoding="utf-8")
    noise = r".*(\[IPKernelApp\]|INFO traitlets).*\n|^\n"
    assert built.returncode == 0, re.sub(noise, "", built.stderr, flags=re.MULTILINE)
    return folder


class Tags(html.parser.HTMLParser):
    """The tags of a page, and what it loads, also inside its frames: not the targets of links."""
    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.styles, self.inside = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster", "xlink:href") or (name == "href" and tag != "a"):
                self.loaded.append(value or "")
            elif name == "style":
                self.styles.append(value or "")
            elif name == "srcdoc":
                frame = Tags(value)
                self.loaded += frame.loaded
                self.styles += frame.styles

    def handle_data(self, data):
        if self.inside == "style":
            self.styles.append(data)

    def handle_endtag(self, tag):
        self.inside = ""


def test_no_page_loads_anything_from_elsewhere(site):
    for path in site.rglob("*.html"):
        tags = Tags(path.read_text("utf-8"))
        for address in tags.loaded:
            assert address.startswith("data:") or not re.search(r"(https?:|^|[\s,])//", address), (path.name, address)
        assert not any(map(loads, tags.styles)), path.name
    for path in site.rglob("*.css"):
        assert not loads(path.read_text("utf-8")), path.name


def loads(style):
    return re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style)


def test_no_path_of_the_machine_stands_in_the_site(site):
    folders = [str(ROOT), str(site.parent), str(Path.home()) + "/", tempfile.gettempdir() + "/", sys.prefix]
    for path in site.rglob("*"):
        if path.suffix in (".html", ".js", ".txt", ".json", ".ipynb", ".md"):
            text = path.read_text("utf-8")
            for folder in folders:
                assert folder not in text, f"{path.relative_to(site)}: {text[text.index(folder) - 80:][:240]}"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small_and_makes_sense_to_a_screen_reader(site, name):
    text = (site / name).read_text("utf-8")
    size = len(text.encode())
    assert size <= LARGEST
    tags = Tags(text).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:])), levels
    for tag, attributes in tags:
        if tag == "html":
            assert attributes["lang"] == "en"
        elif tag == "img":
            assert attributes["alt"]
        elif tag == "iframe":
            assert attributes["title"]
        elif tag == "figure":
            assert len(attributes["aria-label"].split()) >= 4


# ---- in a browser, from disk ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browse():
    """A function that loads a file and returns the document after its scripts ran. Every other host is unreachable."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")

    def dump(address):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
                   "--virtual-time-budget=8000", "--window-size=1000,900", "--dump-dom", address]
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout

    return dump


@pytest.mark.parametrize("word, page", [
    ("jacobian", "softmax_cross_entropy.html"), ("perplexity", "learning_to_speak.html"), ("layer_norm", "api.html")])
def test_the_search_finds_a_word_without_a_server(site, browse, word, page):
    assert f'href="{page}' in browse(f"file://{site}/search.html?q={word}").partition('id="search-results"')[2]


def test_no_page_is_wider_than_a_narrow_window(site, browse):
    """Every page in a frame of NARROW pixels; each tells which of its elements stick out and are not scrolled by
    themselves."""
    script = """<script>addEventListener("load", () => {
        const article = document.querySelector("article"), edge = document.documentElement.clientWidth + 1
        const wide = [...article.querySelectorAll("*")].filter(e => {
            if (e.getBoundingClientRect().right <= edge) return false
            for (let p = e.parentElement; p != article; p = p.parentElement)
                if (getComputedStyle(p).overflowX != "visible") return false
            return true})
        parent.postMessage([location.pathname.match(/_narrow(\\d+)/)[1],
                            wide.slice(0, 3).map(e => `${e.tagName} ${e.textContent.slice(0, 60)}`)], "*")})
        </script></body>"""
    frames = ""
    for number, name in enumerate(PAGES):
        text = (site / name).read_text("utf-8").replace("</body>", script)
        copy = (site / name).with_name(f"_narrow{number}.html")
        copy.write_text(text, "utf-8")
        frames += f'<iframe src="{copy.relative_to(site)}" width={NARROW} height=800></iframe>'
    (site / "_narrow.html").write_text(
        '<body><pre id="said"></pre><script>addEventListener("message", e => '
        'said.textContent += JSON.stringify(e.data) + "\\n")</script>' + frames + "</body>", "utf-8")
    said = re.search(r'<pre id="said">(.*?)</pre>', browse(f"file://{site}/_narrow.html"), re.DOTALL)[1]
    for path in site.rglob("_narrow*.html"):
        path.unlink()
    found = [json.loads(html.unescape(line)) for line in said.splitlines()]
    assert len(found) == len(PAGES)
    wide = [f"{PAGES[int(number)]}: {', '.join(elements)}" for number, elements in found if elements]
    assert not wide, "\n".join(wide)


# ---- notebooks ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Each notebook, run in a new environment that has the package and what runs notebooks: name -> the process."""
    folder = tmp_path_factory.mktemp("notebooks")
    subprocess.run([sys.executable, DOCS / "notebooks.py", folder / "out"], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "runs", "site", "tests"))
    subprocess.run([python, "-m", "pip", "install", "-q", folder / "source", "ipykernel", "nbclient"], env=ENVIRONMENT,
                   check=True)
    shutil.rmtree(folder / "source")

    def run(page):
        return subprocess.run([python, "-c", RUN, f"{page.name}.ipynb"], cwd=folder / "out", env=ENVIRONMENT,
                              capture_output=True, encoding="utf-8")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip([page.name for page in CHAPTERS], pool.map(run, CHAPTERS)))


@named(CHAPTERS)
def test_a_notebook_runs_where_only_the_package_is_installed(ran, page):
    assert ran[page.name].returncode == 0, ran[page.name].stderr
    assert ran[page.name].stdout == f"ran {len(page.cells)}\n"


# ---- what the build and the runner refuse ---------------------------------------------------------------------------

HEADER = "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n"         # 4 lines
BAD = {
    "formula.md": ("$$\na + b\n$$\n\nand $c \\foo d$ too\n", "formula.md:9: WARNING: formula: Unknown LaTeX command"),
    "block.md": ("text\n\n$$\na +\n\\foo\n$$\n", "block.md:9: WARNING: formula: Unknown LaTeX command"),
    "align.md": ("$$\na & b\n$$\n", "align.md:6: WARNING: formula: & or"),
    "cell.md": ("```{code-cell} ipython3\n:tags: [hide-input]\n\nx = 1\nx / 0\n```\n", "cell.md:9: WARNING: a cell"),
    "shown.md": ("```{code-cell} ipython3\nclass A:\n    def _repr_html_(self):\n        raise OSError('no')\n```\n\n"
                 "```{code-cell} ipython3\nA()\n```\n", "shown.md:12: WARNING: a cell failed"),
    "nested.md": ("````{admonition} A\n```{code-cell} ipython3\n1\n```\n````\n",
                  "nested.md:1: WARNING: only 0 of 1 cells were run"),
    "headless.md": ("```{code-cell} ipython3\n1\n```\n", "headless.md:1: WARNING: only 0 of 1 cells were run"),
}


def small_book(folder, name, text):
    """A book of one page with the site's settings. Returns a function that builds it into a new folder."""
    source = folder / "docs"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("*.md", ".cache", "__pycache__"))
    (source / "index.md").write_text(f"# A book\n\n```{{toctree}}\n{Path(name).stem}\n```\n")
    (source / name).write_text(text)
    for part in ("train.py", "minigrad", "gpt"):
        (folder / part).symlink_to(ROOT / part)

    def build(out):
        return subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", source, folder / out], capture_output=True,
                              encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT)})

    return build


@pytest.mark.parametrize("name", BAD)
def test_the_build_refuses_a_page_with_its_file_and_line(tmp_path, name):
    body, message = BAD[name]
    built = small_book(tmp_path, name, body if name == "headless.md" else HEADER + body)("site")
    assert built.returncode != 0 and message in built.stderr, built.stderr


def test_outputs_are_kept_until_a_source_changes_and_then_removed(tmp_path):
    build = small_book(tmp_path, "page.md", HEADER + "# A\n\n```{code-cell} ipython3\nimport time\n"
                       'print("ran at", time.time_ns())\n```\n')

    def ran(out):
        built = build(out)
        assert built.returncode == 0, built.stderr
        return re.search(r"ran at (\d+)", (tmp_path / out / "page.html").read_text("utf-8"))[1]

    first = ran("first")
    assert ran("second") == first
    (tmp_path / "docs" / "exercises" / "new.py").write_text("x = 1\n")
    assert ran("third") != first
    assert len(list((tmp_path / "docs" / ".cache").iterdir())) == 1
