"""Random numbers without a state: each is a function of a key (seed, step, micro, stream). There is nothing to save,
and an op that runs again with the same key draws the same numbers, on every device.

The generator is Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), run on the host.
"""
import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(unsafe_hash=True)
class Key:
    """Identifies one stream of random numbers. `fold` and `next` return the keys of further streams."""
    seed: int                   # of the run
    step: int = 0               # training step
    micro: int = 0              # micro-batch within the step
    stream: int = 0             # 64-bit hash of the names given to `fold`
    given: int = field(default=0, compare=False, repr=False)        # number of keys that `next` has returned

    def fold(self, name: str) -> "Key":
        """The key of an independent stream for this name: always the same for the same name."""
        digest = hashlib.blake2b(f"{self.stream}/{name}".encode(), digest_size=8).digest()
        return replace(self, stream=int.from_bytes(digest, "little"), given=0)

    def next(self) -> "Key":
        """The key of another independent stream at each call. Layers with dropout call it, so that no two calls in a
        forward pass draw the same numbers. A forward pass with a new, equal key draws the same numbers again."""
        self.given += 1
        return self.fold(f"next {self.given}")


def key(seed: int, step: int = 0, micro: int = 0) -> Key:
    """The key of one micro-batch of one training step. ValueError unless all three are integers from 0 to 2^64 - 1."""
    for what, n in (("seed", seed), ("step", step), ("micro", micro)):
        if not isinstance(n, (int, np.integer)) or not 0 <= n < 2 ** 64:
            raise ValueError(f"a key's {what} must be an integer from 0 to 2^64 - 1, got {n!r}")
    return Key(int(seed), int(step), int(micro))


def bits(key: Key, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform random 32-bit integers: a uint32 array of this shape on the host. Element i of the flattened array
    depends only on the key and i, not on the shape."""
    n = math.prod(shape)
    words = np.array([key.seed, key.stream, 0, 0, key.micro, key.step], np.uint64)      # a list would become float64
    generator = np.random.Philox(key=words[:2], counter=words[2:])
    return generator.random_raw((n + 1) // 2).astype("<u8", copy=False).view("<u4")[:n].reshape(shape)


def keep_mask(key: Key, shape: tuple[int, ...], p: float) -> np.ndarray:
    """The elements that dropout keeps, each with probability 1 - p: a boolean array of this shape on the host. Errors
    as of `threshold`."""
    limit = threshold(key, p)
    return bits(key, shape) >= limit


def threshold(key: Any, p: float) -> int:
    """The smallest of `bits` of an element that dropout keeps. ValueError unless 0 <= p < 1, and if key is None;
    TypeError if it is not a Key."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")
    if key is None:
        raise ValueError("dropout draws its random numbers from a key: give key=mg.random.key(seed, step)")
    if not isinstance(key, Key):
        raise TypeError(f"a key is made by mg.random.key(seed, step), got {key!r:.80}")
    return round(p * 2 ** 32)
