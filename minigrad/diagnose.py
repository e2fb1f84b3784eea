"""What is likely wrong with a gradient, in words."""
from typing import Any, Mapping

import numpy as np


def diagnose(got: Any, want: Any, known: Mapping[str, np.ndarray] = {}) -> str:
    """How the gradient `got` differs from the right one, `want`: a sentence for a learner.

    known: named arrays of the op (inputs, saved values), whose sizes and values may explain the difference.
    """
    return "differs"
