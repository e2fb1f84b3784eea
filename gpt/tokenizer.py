"""Text to tokens and back, one token for each character."""
from typing import Any

import numpy as np

_CODE_POINTS = 0x110000                 # how many there are in Unicode


class CharTokenizer:
    """Token i stands for character i of the vocabulary, a string without repeats."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self._token_of = np.full(_CODE_POINTS, -1, dtype=np.int32)
        self._token_of[_code_points(vocabulary)] = np.arange(len(vocabulary))

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """For all characters of a text, in the order of Unicode."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """Tokens (len(text),). ValueError lists the characters that the vocabulary does not have."""
        tokens = self._token_of[_code_points(text)]
        if (tokens < 0).any():
            unknown = " ".join(map(repr, sorted(set(text) - set(self.vocabulary))))
            raise ValueError(f"this tokenizer has never seen {unknown}; it knows {self.vocabulary!r}")
        return tokens

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,)."""
        return "".join(self.vocabulary[token] for token in tokens)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
