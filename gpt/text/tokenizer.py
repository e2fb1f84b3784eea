"""Text to tokens and back: one token per character, per byte, or per frequent sequence of bytes (BPE)."""
import contextlib
import json
from pathlib import Path
from typing import Any, Iterator, Protocol

import numpy as np

from gpt import files

MAX_BYTES = 2 ** 24                     # of a file: more than any vocabulary needs, all of Unicode included
END = "<|endoftext|>"                   # GPT-2's special token before and after each text
PADDING = 128                           # a table has fewer rows than this without a token: sizes are often rounded up
_CODE_POINTS = 0x110000                 # number of code points in Unicode


class Tokenizer(Protocol):
    """The interface of all tokenizers; len() is the size of the vocabulary."""
    unit: str                           # plural noun for the tokens: "characters"
    end_of_text: int | None             # the special token <|endoftext|>; None if there is none

    def __len__(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """The tokens (n,) of a text, integers."""

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,)."""

    def to_json(self) -> dict[str, Any]:
        """The tokenizer as JSON, for from_json."""


class CharTokenizer:
    """Token i is character i of the vocabulary, a string of distinct characters."""
    unit = "characters"
    end_of_text: int | None = None

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self._token_of = np.full(_CODE_POINTS, -1, dtype=np.int32)
        self._token_of[_code_points(vocabulary)] = np.arange(len(vocabulary))

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """A tokenizer for the characters of a text, in the order of their code points."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """Tokens (len(text),). ValueError lists the characters that are not in the vocabulary."""
        tokens = self._token_of[_code_points(text)]
        if (tokens < 0).any():
            unknown = " ".join(map(repr, sorted(set(text) - set(self.vocabulary))))
            raise ValueError(f"the tokenizer has no token for {unknown}; its characters are {self.vocabulary!r}")
        return tokens

    def decode(self, tokens: Any) -> str:
        return "".join(self.vocabulary[token] for token in tokens)

    def to_json(self) -> dict[str, Any]:
        return {"type": "char", "vocabulary": self.vocabulary}


class ByteTokenizer:
    """The tokens are the bytes of the text in UTF-8: 256 of them, and every text can be encoded."""
    unit = "bytes"
    end_of_text: int | None = None

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,); bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return bytes(list(tokens)).decode("utf-8", errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"type": "byte"}


class BPETokenizer:
    """Byte-pair encoding: starting from the 256 bytes, the most frequent pair of adjacent tokens within words becomes a
    new token, repeatedly (Sennrich et al. 2016; on bytes as in GPT-2, Radford et al. 2019). Every text can be encoded.
    Needs the tokenizers library: ValueError says how to install it."""
    unit = "BPE tokens"

    def __init__(self, model: Any) -> None:
        self._model = model             # a tokenizers.Tokenizer
        special = {token.content: i for i, token in model.get_added_tokens_decoder().items() if token.special}
        self.end_of_text = special.get(END)
        self._size = 1 + max(model.get_vocab().values(), default=-1)        # with special tokens

    @classmethod
    def of(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """A tokenizer of vocab_size tokens learned from a text; fewer where the text has no more pairs to merge."""
        if vocab_size < 256:
            raise ValueError(f"--vocab_size={vocab_size} is too small: BPE starts from the 256 bytes; try 1024")
        library = _tokenizers()
        byte_level = library.pre_tokenizers.ByteLevel
        model = library.Tokenizer(library.models.BPE())
        model.pre_tokenizer = byte_level(add_prefix_space=False)
        model.decoder = library.decoders.ByteLevel()
        model.train_from_iterator([text], library.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(byte_level.alphabet()), show_progress=False))
        return cls(model)

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str, special: bool = True) -> np.ndarray:
        """The tokens (n,) of a text. special=False: the name of a special token, such as <|endoftext|>, is encoded like
        any other text. UnicodeEncodeError, a ValueError, for a byte of the command line that is not UTF-8."""
        text.encode("utf-8")                                            # the library would raise TypeError
        self._model.encode_special_tokens = not special
        return np.array(self._model.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,), special tokens by their names; bytes that are not UTF-8, such as half a character,
        become U+FFFD. Numbers without a token, which a padded table of embeddings has, have no text."""
        return self._model.decode([int(token) for token in tokens], skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        """The type, and the library's own JSON."""
        return {"type": "bpe", "tokenizer": json.loads(self._model.to_str())}


def make(kind: str, text: str, vocab_size: int) -> Tokenizer:
    """A tokenizer for a text: char, byte, or bpe with vocab_size tokens. ValueError for an unknown kind."""
    if kind == "char":
        return CharTokenizer.of(text)
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return BPETokenizer.of(text, vocab_size)
    raise ValueError(f"--tokenizer must be char, byte or bpe, got {kind!r}")


def from_json(saved: dict[str, Any]) -> Tokenizer:
    """The tokenizer from its to_json(). KeyError or ValueError for anything else."""
    if saved["type"] == "char":
        vocabulary = saved["vocabulary"]
        if not isinstance(vocabulary, str) or not 0 < len(vocabulary) == len(set(vocabulary)):
            raise ValueError("the vocabulary must be a string of distinct characters")
        return CharTokenizer(vocabulary)
    if saved["type"] == "byte":
        return ByteTokenizer()
    if saved["type"] == "bpe":
        content, library = json.dumps(saved["tokenizer"]), _tokenizers()
        try:
            return BPETokenizer(library.Tokenizer.from_str(content))
        except Exception as error:      # the library has no type for it
            raise ValueError(str(error)) from None
    raise KeyError(f"unknown type of tokenizer {saved['type']!r}")


def save(path: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer.json of a run."""
    files.write_sealed(path, tokenizer.to_json())


def load(path: Path) -> Tokenizer:
    """The tokenizer of a run from its tokenizer.json. ValueError if the file is missing or damaged."""
    try:
        saved = files.read_sealed(path, ("type", "vocabulary", "tokenizer"), MAX_BYTES)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: is this the folder of a run?") from None
    if saved.get("type") == "bpe":
        _tokenizers()                   # ValueError says how to install the library
    try:
        return from_json(saved)
    except (KeyError, ValueError) as error:
        raise files.damaged(path, error) from None


# ---- the folder of a model ----

def of_folder(folder: Path) -> Tokenizer:
    """The tokenizer in the folder of a model: from tokenizer.json, the tokenizers library's or a run's, or else from
    GPT-2's vocab.json and merges.txt. <|endoftext|> is a special token where the vocabulary has it. ValueError if there
    is none, if a file is damaged, or without the library."""
    path, vocab, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    if path.exists():
        with _named(path):
            text = _text(path)
            of_run = "type" in files.json_object(text)
        if of_run:
            return load(path)
        library = _tokenizers(str(path))
        with _named(path):
            model = library.Tokenizer.from_str(text)
        model.no_truncation()
        model.no_padding()
    elif vocab.exists() and merges.exists():
        library = _tokenizers(str(vocab))
        with _named(vocab):
            tokens = files.json_object(_text(vocab))
        with _named(merges):
            lines = [line for line in _text(merges).split("\n") if line and not line.startswith("#version")]
            pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
            unmade = [token for token in tokens.keys() - set(map("".join, pairs)) if len(token) > 1]
            if len(unmade) >= PADDING:          # a few are special tokens
                raise ValueError(f"{len(unmade)} tokens of {vocab.name}, such as {min(unmade)!r:.40}, have no merge: "
                                 "is the end of the file missing?")
            model = library.Tokenizer(library.models.BPE(vocab=tokens, merges=pairs))
        model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = library.decoders.ByteLevel()
    else:
        raise ValueError(f"{folder} has no tokenizer: expected {path.name}, or {vocab.name} and {merges.name}")
    if model.token_to_id(END) is not None:
        model.add_special_tokens([END])
    return BPETokenizer(model)


def to_folder(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer into the folder of a model: a BPE with the tokenizer.json and tokenizer_config.json that
    transformers' AutoTokenizer reads, others with the tokenizer.json of a run."""
    if not isinstance(tokenizer, BPETokenizer):
        save(folder / "tokenizer.json", tokenizer)
        return
    special = {} if tokenizer.end_of_text is None else dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    for name, content in (("tokenizer.json", tokenizer.to_json()["tokenizer"]),
                          ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})):
        files.write_atomically(folder / name, json.dumps(content, ensure_ascii=False, indent=2).encode("utf-8"))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Inside, an exception becomes a ValueError in one line that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:          # the library has no type for its own
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split()):.200}") from None


def _text(path: Path) -> str:
    with files.open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return data.decode("utf-8")


def check_fits(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """ValueError unless a model with this vocab_size can have this tokenizer: each token has a row in the table of
    embeddings, and fewer than 128 rows have no token."""
    if not 0 <= vocab_size - len(tokenizer) < PADDING:
        raise ValueError(f"the tokenizer in {folder} has {len(tokenizer)} tokens, and the model {vocab_size}: they are "
                         "of two models")


def _tokenizers(what: str = "--tokenizer=bpe") -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(f'{what} needs the tokenizers library: pip install "minigrad[bpe]"') from None
    return tokenizers


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
