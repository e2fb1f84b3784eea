"""Random numbers without a state: each is a function of (seed, stream, step, micro), so that there is nothing to save
and every op replays exactly, on any device.

The generator is Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), drawn on the host.
"""
import hashlib
import math
from typing import NamedTuple

import numpy as np

_WORD = 2 ** 64


class Key(NamedTuple):
    """Names one stream of random numbers."""
    seed: int
    step: int = 0
    micro: int = 0
    stream: int = 0

    def fold(self, name: str) -> "Key":
        """The key of a stream of its own, for a user of randomness with this name: a module's path."""
        digest = hashlib.blake2b(f"{self.stream}/{name}".encode(), digest_size=8).digest()
        return self._replace(stream=int.from_bytes(digest, "little"))


def key(seed: int, step: int = 0, micro: int = 0) -> Key:
    """The key of a micro-step of a training run."""
    for what, n in (("seed", seed), ("step", step), ("micro", micro)):
        if not isinstance(n, (int, np.integer)) or n < 0:
            raise ValueError(f"a key's {what} must be an integer of 0 or more, got {n!r}")
    return Key(int(seed), int(step), int(micro))


def bits(key: Key, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform 32-bit integers on the host; element i of the flattened array depends on the key and i alone."""
    n = math.prod(shape)
    generator = np.random.Philox(
        key=[key.seed % _WORD, key.stream], counter=[0, 0, key.micro % _WORD, key.step % _WORD]
    )
    return generator.random_raw((n + 1) // 2).astype("<u8", copy=False).view("<u4")[:n].reshape(shape)


def keep_mask(key: Key | None, shape: tuple[int, ...], p: float) -> np.ndarray:
    """Which elements dropout keeps, each with probability 1 - p: booleans on the host."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")
    if key is None:
        raise ValueError("dropout draws its randomness from a key: give key=mg.random.key(seed, step)")
    return bits(key, shape) >= round(p * 2 ** 32)
