"""The tokens that both sides are given."""
from pathlib import Path

import numpy as np

from minigrad.words import plural

from gpt.parity.options import Options
from gpt.text import tokenizer
from gpt.text.corpus import read_text

WINDOWS = 64                                    # of random tokens
STATES = 32                                     # different random tokens, each followed by one of two


def random_tokens(vocab_size: int, n: int, seed: int) -> np.ndarray:
    """n tokens (n,) with a structure that a model can learn: of at most STATES tokens of the vocabulary, each is
    followed by one of two, with equal chances."""
    rng = np.random.default_rng(seed)
    used = rng.choice(vocab_size, min(STATES, vocab_size), replace=False)
    followers = rng.integers(len(used), size=(len(used), 2))
    at, found = 0, []
    for side in rng.integers(2, size=n):
        found.append(at)
        at = followers[at, side]
    return used[found]


def read_tokens(o: Options, vocab_size: int) -> np.ndarray:
    """The tokens (n,) of --text, or random ones. ValueError for a folder without a tokenizer that fits, and for a text
    that cannot be read or is too short."""
    if not o.text:
        return random_tokens(vocab_size, WINDOWS * o.block_size + 1, o.seed)
    encoder = tokenizer.of_folder(Path(o.model))
    tokenizer.check_fits(encoder, vocab_size, Path(o.model))
    tokens = encoder.encode(read_text(Path(o.text)))
    if len(tokens) < o.batch_size * o.block_size + 1:
        raise ValueError(f"{o.text} has {plural(len(tokens), 'token')}, and --batch_size={o.batch_size} "
                         f"--block_size={o.block_size} need {o.batch_size * o.block_size + 1}: give a longer text")
    return tokens
