"""The line of user code that called an op: errors and steps name it."""
import os
import sys
from types import CodeType

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "step", "examples.py")       # in this package, but counts as user code


def call_site() -> tuple[CodeType, int]:
    """Code object and instruction offset of the nearest caller outside this package."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE) and (
            frame.f_code.co_filename != _EXAMPLES):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def line_of(code: CodeType, instruction: int) -> str:
    """File and line of an instruction: "train.py:41"."""
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return f"{code.co_filename.removeprefix(os.getcwd() + os.sep)}:{line}"
