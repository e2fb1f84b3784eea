"""Sizes that decide how kernels split their work, and which of two methods they use."""
from dataclasses import dataclass


@dataclass
class Settings:
    """Tests set small values, so that small arrays take the same paths as large ones."""
    piece: int = 1 << 16                        # elements in a piece of elementwise work: several fit a core's cache
    summed_rows: int = 512                      # rows that one product adds up
    queries: int = 64                           # queries in a block of attention
    scores: int = 1 << 17                       # scores in a block, of all heads that attention computes at once
    vocabulary: int = 128                       # an embedding's gradient is a product if its table has no more rows
    logits: int = 1 << 24                       # logits that LinearCrossEntropy computes at once
    stretch: int = 1 << 18                      # elements of parameters that AdamW and clipping process at once
    reused_bytes: int = 1 << 16                 # the allocator reuses arrays of at least this many bytes


settings = Settings()
