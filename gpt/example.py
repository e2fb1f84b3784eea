"""The small GPT of the stepper's example. `python -m gpt.example` trains it again and writes gpt/example.safetensors.

Heads of its second layer attend to what the model copies: at the space after "'is the", to the thing that the line
before names. The first letter of that thing is the next token.
"""
from pathlib import Path

import numpy as np
import safetensors.numpy

from minigrad import optim
from minigrad.command import run_command

from gpt import files
from gpt.model import GPT
from gpt.run import checkpoint
from gpt.run.options import Options
from gpt.text import fables
from gpt.text.batches import Text
from gpt.text.dataset import Data
from gpt.text.tokenizer import CharTokenizer

PATH = Path(__file__).parent / "example.safetensors"    # in float16; in place of v its square root, as v is too small
PROMPT = "fig.\n'is the f"
CHARACTERS = 1_000_000                                  # to train on
OPTIONS = Options(n_layer=2, n_head=4, n_embd=32, block_size=24, batch_size=32, sampling="random", max_iters=4000,
                  learning_rate=5e-3, min_lr=5e-4, seed=0)


def text(characters: int) -> Data:
    """The first characters of endless fables as tokens, all of them to train on."""
    read = fables.text(characters, OPTIONS.seed)
    tokenizer = CharTokenizer.of(read)
    tokens = tokenizer.encode(read)
    return Data("fables", "", tokenizer, Text(tokens), Text(tokens), 1.0)


def untrained(vocab_size: int, dtype: str) -> tuple[GPT, optim.Optimizer, list[str]]:
    """The model, its optimizer, and the name of each parameter of the optimizer."""
    model = GPT(OPTIONS.shape(vocab_size), OPTIONS.seed, dtype=dtype)
    for p in model.parameters():                # GPT-2's standard deviation of 0.02 is for a width of 768; here 0.16,
        if p.ndim == 2:                         # about 1 / sqrt(n_embd), so that attention is not uniform at first
            p.data = 8.0 * p.data
    optimizer = model.configure_optimizer(OPTIONS.weight_decay, (OPTIONS.beta1, OPTIONS.beta2))
    names = {id(p): name for name, p in model.named_parameters()}
    return model, optimizer, [names[id(p)] for p in optimizer.params]


def load() -> tuple[GPT, optim.Optimizer, Data]:
    """The trained model and its optimizer in float64, and some of its text."""
    data = text(CHARACTERS // 20)
    model, optimizer, names = untrained(len(data.tokenizer), "float64")
    tensors = {name: x.astype(np.float64) for name, x in safetensors.numpy.load(PATH.read_bytes()).items()}
    model.load_state_dict(checkpoint.weights(tensors))
    optimizer.load_state_dict({"t": [OPTIONS.max_iters] * len(names),
                               "m": [tensors[f"optimizer.m.{name}"] for name in names],
                               "v": [np.square(tensors[f"optimizer.v.{name}"]) for name in names]})
    return model, optimizer, data


def main() -> int:
    """Train the model, and write its weights and moments."""
    data = text(CHARACTERS)
    model, optimizer, names = untrained(len(data.tokenizer), "float32")
    for step in range(OPTIONS.max_iters):
        for group in optimizer.groups:
            group["lr"] = OPTIONS.learning_rate_at(step)
        x, y = data.train.batch(OPTIONS.block_size, OPTIONS.batch_size, OPTIONS.seed, step, OPTIONS.sampling)  # (B, T)
        loss = model.loss(x, y)
        loss.backward()
        optim.clip_grad_norm(optimizer.params, OPTIONS.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        if step % 500 == 0 or step + 1 == OPTIONS.max_iters:
            print(f"step {step:5} of {OPTIONS.max_iters}  loss {loss.item():.3f}", flush=True)
    state = optimizer.state_dict()
    tensors = model.state_dict() | {f"optimizer.m.{name}": m for name, m in zip(names, state["m"])}
    tensors |= {f"optimizer.v.{name}": np.sqrt(v) for name, v in zip(names, state["v"])}
    files.write_atomically(PATH, safetensors.numpy.save({name: x.astype(np.float16) for name, x in tensors.items()}))
    print(f"wrote {PATH}")
    return 0


if __name__ == "__main__":
    run_command("gpt.example", main)
