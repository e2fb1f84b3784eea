"""The stepper: walk a backward pass op by op and line by line, with the values that each line computed."""
from minigrad.step.backward_record import Record, record
from minigrad.step.forward import ForwardStep, forward_steps
from minigrad.step.line_trace import Line, Listing
from minigrad.step.view import View

__all__ = ["ForwardStep", "Line", "Listing", "Record", "View", "forward_steps", "record"]
