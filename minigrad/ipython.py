"""The IPython that runs this code, if one does: a notebook's kernel, or its terminal."""
import re
import sys
from typing import Any


def shell() -> Any:
    """IPython's shell; None outside IPython."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def in_notebook() -> bool:
    """Whether what is displayed reaches a notebook."""
    return hasattr(shell(), "kernel")


def cell(filename: str) -> str:
    """The cell that IPython compiled under this file name, "cell 3", by the number of its latest execution; "" for a
    file."""
    found = re.match(r"<ipython-input-(\d+)-", filename)
    compiler = getattr(shell(), "compile", None)
    if not found and compiler is not None:
        _, name = compiler.format_code_name(filename) or ("", "")                   # "Cell", "In[3]"
        found = re.search(r"\[(\d+)\]", name)
    return f"cell {found[1]}" if found else ""
