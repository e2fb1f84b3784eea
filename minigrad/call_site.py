"""The line of user code that called an op: errors and steps name it."""
import os
import sys
from types import CodeType, FrameType

from minigrad.ipython import cell

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# in this package, but counts as user code
_EXAMPLES = tuple(os.path.join(_PACKAGE, "step", name) for name in ("examples.py", "puzzles.py"))
_INSTALLED = os.path.dirname(os.path.dirname(_PACKAGE)) + os.sep       # the folder that holds this package


def call_site() -> tuple[CodeType, int]:
    """Code object and instruction offset of the nearest caller outside this package."""
    frame = outside_package(sys._getframe(2))
    return frame.f_code, frame.f_lasti


def outside_package(frame: FrameType) -> FrameType:
    """The nearest frame outside this package: this one, its caller, the caller of that, ..."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE) and (
            frame.f_code.co_filename not in _EXAMPLES):
        frame = frame.f_back
    return frame


def line_of(code: CodeType, instruction: int) -> str:
    """Where an instruction is, as `place` writes it."""
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return place(code.co_filename, line)


def place(filename: str, line: int | None) -> str:
    """A line of a file without the folders of this machine: "minigrad/ops/softmax.py:27" for a file of this package,
    "train.py:41" relative to the working directory, or to the folder that holds this package; elsewhere the file's name
    alone. A line of a notebook's cell: "cell 3, line 1"."""
    if in_cell := cell(filename):
        return f"{in_cell}, line {line}"
    roots = (_INSTALLED,) if filename.startswith(_PACKAGE) else (os.path.join(os.getcwd(), ""), _INSTALLED)
    if os.path.isabs(filename):
        root = next((root for root in roots if root != os.sep and filename.startswith(root)), "")
        filename = filename.removeprefix(root) if root else os.path.basename(filename)
    return f"{filename}:{line}"
