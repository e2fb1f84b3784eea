"""How much memory and arithmetic a training step takes."""
import math

from gpt.lora import Adapters
from gpt.model import GPTConfig


def parameter_count(shape: GPTConfig) -> int:
    """The number of weights of a model of this shape."""
    V, T, C = shape.vocab_size, shape.block_size, shape.n_embd
    bias = 1 if shape.bias else 0
    block = 12 * C * C + 2 * C + bias * 11 * C          # two LayerNorms; matrices C x 3C, C x C, C x 4C, 4C x C
    return (V + T) * C + shape.n_layer * block + C + bias * C + (0 if shape.tied else V * C)


def trained_count(shape: GPTConfig, adapters: Adapters | None) -> int:
    """The number of weights that are trained: those of the adapters, or all."""
    return sum(math.prod(size) for size in adapters.shapes(shape).values()) if adapters else parameter_count(shape)


def weight_bytes(n_parameters: int, n_trained: int, itemsize: int, micro_steps: int) -> tuple[int, int, int]:
    """Memory of the weights, of the gradients, and of AdamW's two moments. micro_steps: the micro-batches of a process,
    whose gradients are added in a tree: at most so many of its nodes wait for another one as micro_steps - 1 can have
    ones in binary; besides, there are the newest gradients, and their flat array."""
    gradients = 1 + micro_steps.bit_length() if micro_steps > 1 else 1
    return n_parameters * itemsize, gradients * n_trained * itemsize, 2 * n_trained * itemsize


def activation_bytes(shape: GPTConfig, batch_size: int, itemsize: int, recompute: bool = False) -> int:
    """Approximate peak memory of the activations of a micro-batch. Fitted to measurements: 27 arrays (B, T, C) in each
    block, and two and a half of attention's (B, nh, T, T). recompute: each block keeps its input (B, T, C) alone, and
    only one at a time has the rest."""
    whole, inputs = (1, shape.n_layer) if recompute else (shape.n_layer, 0)
    per_token = whole * (27 * shape.n_embd + 2.5 * shape.n_head * shape.block_size) + (7 + inputs) * shape.n_embd
    return round(batch_size * shape.block_size * per_token * itemsize)


def flops_per_token(shape: GPTConfig, n_parameters: int, n_trained: int) -> int:
    """Floating-point operations of forward and backward per token (Chowdhery et al. 2022, PaLM, appendix B); frozen
    weights have no gradient."""
    return 4 * n_parameters + 2 * n_trained + 12 * shape.n_layer * shape.n_embd * shape.block_size
