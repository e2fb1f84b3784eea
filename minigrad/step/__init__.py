"""The stepper: walk a backward pass op by op and line by line, with the values that each line computed."""
import importlib
from typing import TYPE_CHECKING, Any

from minigrad.step.step import Step

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record, record
    from minigrad.step.draw_graph import Drawing, draw
    from minigrad.step.forward import ForwardStep, forward_steps
    from minigrad.step.line_trace import Line, Listing
    from minigrad.step.view import View

__all__ = ["Drawing", "ForwardStep", "Line", "Listing", "Record", "Step", "View", "draw", "forward_steps", "record"]

# imported when first asked for: training does without them
_MODULES = {"Record": "backward_record", "record": "backward_record", "Drawing": "draw_graph",
            "draw": "draw_graph", "ForwardStep": "forward",
            "forward_steps": "forward", "Line": "line_trace", "Listing": "line_trace", "View": "view"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'minigrad.step' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minigrad.step.{_MODULES[name]}"), name)
