"""How a run prints what it reports."""
import textwrap

import numpy as np

from gpt.run.options import Options


def print_report(label: str, text: str) -> None:
    """Print a text behind a label, folded to 80 columns."""
    print(textwrap.fill(f"{label:8}{text}", 79, subsequent_indent=" " * 8, break_on_hyphens=False,
                        break_long_words=False))


def print_model(o: Options, n_parameters: int, activation_bytes: int) -> None:
    """Print the shape of the model and the memory of a training step: AdamW keeps two moments of each weight."""
    weights, activations = n_parameters * np.dtype(o.dtype).itemsize / 1e6, activation_bytes / 1e6
    print_report("model", f"GPT-2's: {o.n_layer} layers, {o.n_head} heads, {o.n_embd} wide, context {o.block_size}: "
                 f"{n_parameters:,} parameters")
    print_report("memory", f"about {4 * weights + activations:.0f} MB: weights {weights:.1f}, gradients {weights:.1f}, "
                 f"moments {2 * weights:.1f}, activations {activations:.0f}")
