"""The small GPT of the stepper's example. `python -m gpt.example` trains it again and writes gpt/example.safetensors.

Heads of its second layer attend to what they copy: at the space after "'is the" to the thing that the line before has
named, whose first letter comes next.
"""
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from minigrad import optim
from minigrad.command import run_command

from gpt import files
from gpt.model import GPT
from gpt.run.options import Options
from gpt.text import fables
from gpt.text.batches import batch
from gpt.text.dataset import Data
from gpt.text.tokenizer import CharTokenizer

WEIGHTS = Path(__file__).parent / "example.safetensors"
PROMPT = "fig.\n'is the fig "                   # 16 tokens to read, and the last to predict
MOMENTS = 30
OPTIONS = Options(n_layer=2, n_head=4, n_embd=32, block_size=24, batch_size=32, sampling="random", max_iters=4000,
                  learning_rate=5e-3, min_lr=5e-4, seed=0)


def read(characters: int) -> Data:
    """The first characters of endless fables as tokens, all of them to train on."""
    text = fables.text(characters, OPTIONS.seed)
    tokenizer = CharTokenizer.of(text)
    tokens = tokenizer.encode(text)
    return Data("fables", "", tokenizer, tokens, tokens, 1.0)


def train_step(model: GPT, optimizer: optim.Optimizer, tokens: np.ndarray, step: int, lr: float) -> float:
    """One step on the batch of this number  ->  the loss before it."""
    for group in optimizer.groups:
        group["lr"] = lr
    x, y = batch(tokens, OPTIONS.block_size, OPTIONS.batch_size, OPTIONS.seed, step, OPTIONS.sampling)      # (B, T)
    loss = model.loss(x, y)
    loss.backward()
    optim.clip_grad_norm(optimizer.params, OPTIONS.grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item())


def load() -> tuple[GPT, optim.Optimizer, Data]:
    """The trained model in float64; its optimizer, with the moments of MOMENTS batches at these weights; its text."""
    data = read(50_000)
    model = GPT(OPTIONS.shape(len(data.tokenizer)), dtype="float64")
    weights = safetensors.numpy.load(WEIGHTS.read_bytes())
    model.load_state_dict({name: x.astype(np.float64) for name, x in weights.items()})
    optimizer = new_optimizer(model)
    for step in range(OPTIONS.max_iters - MOMENTS, OPTIONS.max_iters):
        train_step(model, optimizer, data.train, step, lr=0.0)
    return model, optimizer, data


def new_optimizer(model: GPT) -> optim.Optimizer:
    return model.configure_optimizer(OPTIONS.weight_decay, (OPTIONS.beta1, OPTIONS.beta2))


def main() -> int:
    """Train the model, and write its weights in float16: they are only to be looked at."""
    data = read(1_000_000)
    model = GPT(OPTIONS.shape(len(data.tokenizer)), OPTIONS.seed)
    for p in model.parameters():                # GPT-2's standard deviation of 0.02 is for a width of 768; here 0.16,
        if p.ndim == 2:                         # about 1 / sqrt(n_embd), so that attention is not uniform at first
            p.data = 8.0 * p.data
    optimizer = new_optimizer(model)
    for step in range(OPTIONS.max_iters):
        loss = train_step(model, optimizer, data.train, step, OPTIONS.learning_rate_at(step))
        if step % 500 == 0 or step + 1 == OPTIONS.max_iters:
            print(f"step {step:5} of {OPTIONS.max_iters}  loss {loss:.3f}", flush=True)
    weights = {name: x.astype(np.float16) for name, x in model.state_dict().items()}
    files.write_atomically(WEIGHTS, safetensors.numpy.save(weights))
    print(f"wrote {WEIGHTS}")
    return 0


if __name__ == "__main__":
    run_command("gpt.example", main)
