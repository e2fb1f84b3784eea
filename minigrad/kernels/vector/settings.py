"""Sizes at which one way of computing becomes faster than another."""
from dataclasses import dataclass


@dataclass
class Settings:
    """Tests set small ones, so that small arrays take every path. docs/speed.md says how they were chosen."""
    piece: int = 1 << 16                        # elements of a piece of elementwise work: several fit a core's cache
    queries: int = 64                           # in a block of attention
    scores: int = 1 << 17                       # of a block, for all heads that attention computes at once
    vocabulary: int = 128                       # rows up to which the gradient of an embedding is a product
    logits: int = 1 << 24                       # that the head with its loss computes at once
    stretch: int = 1 << 18                      # elements of parameters that are updated at once
    reused_bytes: int = 1 << 16                 # size of an array from which its memory is used again


settings = Settings()
