"""How the site is built: python -m sphinx -W docs site"""
import hashlib
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS)]

project = "minigrad"
copyright = "the authors of minigrad"
extensions = ["myst_nb", "mathml", "book", "sphinx_copybutton"]
exclude_patterns = ["exercises", "_ext", ".cache", "*.html"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# The outputs of a page are kept while neither its cells nor the sources that they run have changed.
sources = sorted(path for part in ("minigrad", "gpt", "docs") for path in (DOCS.parent / part).rglob("*.py"))
digest = hashlib.sha256(b"".join(path.read_bytes() for path in [DOCS.parent / "train.py", *sources])).hexdigest()[:16]
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / ".cache" / digest)
suppress_warnings = ["mystnb.exec"]             # the extension book reports cells that fail, with their lines
nb_execution_timeout = 900                      # of a cell, in seconds: a busy machine is ten times slower
nb_code_prompt_show = "show the code"
nb_code_prompt_hide = "hide the code"
nb_merge_streams = True

html_theme = "furo"
html_title = "minigrad"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_extra_path = ["gpt-step.html"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
