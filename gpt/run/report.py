"""How a run prints what it reports."""
import math
import textwrap

import numpy as np

from gpt.run.estimates import weight_bytes
from gpt.run.options import Options


def print_report(label: str, text: str) -> None:
    """Print a text behind a label, folded to 80 columns."""
    print(textwrap.fill(f"{label:8}{text}", 79, subsequent_indent=" " * 8, break_on_hyphens=False,
                        break_long_words=False))


def print_model(o: Options, n_parameters: int, n_trained: int, activation_bytes: int, processes: int) -> None:
    """Print the shape of the model and the memory of a training step, in each of the processes."""
    print_report("model", f"GPT-2's: {o.n_layer} layers, {o.n_head} heads, {o.n_embd} wide, context {o.block_size}: "
                 f"{n_parameters:,} parameters")
    if o.adapters:
        print_report("trained", f"{n_trained:,} of them, {100 * n_trained / n_parameters:.2g} %: adapters of rank "
                     f"{o.lora_rank}, alpha {o.lora_alpha:g} on {o.lora_targets}")
    micro_steps = math.ceil(o.gradient_accumulation_steps / processes)
    weights, gradients, moments = weight_bytes(n_parameters, n_trained, np.dtype(o.dtype).itemsize, micro_steps)
    total = weights + gradients + moments + activation_bytes
    print_report("memory", f"about {total / 1e6:.0f} MB: weights {weights / 1e6:.1f}, gradients {gradients / 1e6:.1f}, "
                 f"moments {moments / 1e6:.1f}, activations {activation_bytes / 1e6:.0f}")
