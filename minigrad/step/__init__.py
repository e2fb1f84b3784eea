"""The stepper: stand on a line of a backward pass and see what it just made."""
from minigrad.step.listing import Line, Listing
from minigrad.step.record import Record, View, forward_steps, record
from minigrad.step.step import Step

__all__ = ["Line", "Listing", "Record", "Step", "View", "forward_steps", "record"]
