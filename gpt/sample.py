"""Generate text with a trained model: python -m gpt.sample --model=runs/fables-001 --start="the fox " """
import io
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np

from minigrad import device
from minigrad.command import end_on_signals

from gpt import model_folder
from gpt.decoding import penalized, probabilities
from gpt.model import GPT, KVCache
from gpt.run.command_line import bad_input_exits, option, parse
from gpt.text.corpus import read_text
from gpt.text.tokenizer import Tokenizer

CANDIDATES = 6                          # rows of each table of --show_probs
BAR = 30                                # width of the bar of probability 1


@dataclass
class Options:
    """Continue a text with a trained model: python -m gpt.sample --name=value ..."""
    model: str = option("", "the folder of a GPT-2 or of a run")
    out_dir: str = option("", "the folder of a run; this or --model")
    start: str = option("", "the text to continue, or FILE:path")
    num_samples: int = option(1, "how many continuations")
    max_new_tokens: int = option(500, "how many tokens to add")
    temperature: float = option(0.8, "below 1: safer, above: wilder; 0: greedy")
    top_k: int = option(0, "only the k likeliest; 0: all")
    top_p: float = option(1.0, "only the likeliest that sum to this; 1: all")
    repetition_penalty: float = option(1.0, "above 1: repeats less")
    beam: int = option(0, "width of a beam search; 0: sample")
    seed: int = option(0, "of the sampling; of sample i: seed + i")
    stop: str = option("", "end before this text")
    show_probs: bool = option(False, "show the probabilities of each token")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("max_new_tokens", 0), ("top_k", 0), ("beam", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        probabilities(np.zeros(1), self.temperature, None, self.top_p)                  # ValueError out of range
        penalized(np.zeros((1, 1)), np.zeros((1, 1), dtype=int), self.repetition_penalty)
        if self.beam and (self.num_samples > 1 or self.show_probs):
            raise ValueError("--beam does not sample: leave out --num_samples and --show_probs, or --beam")


def prompt(tokenizer: Tokenizer, start: str) -> np.ndarray:
    """The tokens (1, T) of `start`. If it is empty: <|endoftext|>, after which GPT-2 begins a text, or else a newline;
    token 0 if the tokenizer has neither."""
    if not start and tokenizer.end_of_text is not None:
        return np.array([[tokenizer.end_of_text]])
    try:
        return tokenizer.encode(start or "\n")[None]
    except ValueError:
        if start:
            raise
        return np.zeros((1, 1), dtype=np.int32)


def text_of(tokens: Iterable[int], tokenizer: Tokenizer, stop: str = "") -> Iterator[str]:
    """The text of tokens, a piece per token as it comes, up to the first `stop`. Text that may be the beginning of
    `stop`, and tokens that may be part of a character, are held back until the next tokens decide."""
    tail: list[int] = []                # tokens that end within a character
    held = ""                           # text that ends with a prefix of `stop`
    for token in tokens:
        tail.append(token)
        text = tokenizer.decode(tail)
        if text.endswith("\ufffd"):
            continue
        held, tail = held + text, []
        if stop and stop in held:
            yield held[:held.index(stop)]
            return
        prefix = max((n for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
        shown = len(held) - prefix
        yield held[:shown]
        held = held[shown:]
    yield held + tokenizer.decode(tail)


def with_candidates(tokens: Iterable[int], model: GPT, tokenizer: Tokenizer, idx: np.ndarray, o: Options
                    ) -> Iterator[int]:
    """Yield the tokens that continue idx (1, T), and print the table of candidates before each."""
    cache = KVCache()
    print(f"  {'token':<12} {'the model':<{7 + BAR}} {'drawn with':>14}")
    for token in tokens:
        print(candidates(model.next_logits(idx, cache)[0], idx[0], token, tokenizer, o), end="\n\n", flush=True)
        idx = np.append(idx, [[token]], axis=1)
        yield token


def candidates(logits: np.ndarray, seen: np.ndarray, drawn: int, tokenizer: Tokenizer, o: Options) -> str:
    """A table of the most likely tokens, given logits (V,) after the tokens seen (T,), and of the token drawn: for each
    the model's probability and a bar of it, light where a filter removed the token; then the probability with which it
    was sampled, or the filter that removed it. Below, what each filter removed. Lines of at most 80 characters."""
    z = penalized(logits[None], seen[None], o.repetition_penalty)[0]
    unfiltered = probabilities(z, o.temperature or 1.0)
    filters = {"temperature 0": probabilities(z, 0.0)} if o.temperature == 0.0 else {
        "top_k": probabilities(z, o.temperature, o.top_k or None),
        "top_p": probabilities(z, o.temperature, o.top_k or None, o.top_p)}
    removed_by, before, removals = {}, unfiltered, []
    for name, after in filters.items():
        removed = np.flatnonzero((before > 0.0) & (after == 0.0))
        removed_by.update(dict.fromkeys(removed.tolist(), name))
        if len(removed):
            removals.append(f"{name} removed {len(removed)} of {(before > 0.0).sum()} tokens, "
                            f"{before[removed].sum():.1%}")
        before = after
    own, final = probabilities(logits), before
    shown = np.argsort(-z, kind="stable")[:CANDIDATES].tolist()
    lines = []
    for token in shown + [drawn] * (drawn not in shown):
        bar = ("░" if token in removed_by else "█") * round(BAR * own[token])
        what = f"{removed_by[token]:>14}" if token in removed_by else f"{final[token]:14.1%}"
        lines.append(f"{'>' if token == drawn else ' '} {tokenizer.decode([token])!r:<12.12} {own[token]:6.1%} "
                     f"{bar:<{BAR}} {what}")
    return "\n".join(lines + ["  " + line for line in removals])


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.sample"):
        o = parse(Options, arguments)
        model, tokenizer = model_folder.load_given(o.model, o.out_dir, device.resolve(o.device))
        start = read_text(Path(o.start.removeprefix("FILE:"))) if o.start.startswith("FILE:") else o.start
        idx = prompt(tokenizer, start)                                  # (1, T)
        for i in range(o.num_samples):
            if i:
                print("-" * 40)
            if o.beam:
                best = model.generate(idx, o.max_new_tokens, repetition_penalty=o.repetition_penalty, beam=o.beam)
                tokens: Iterable[int] = best[0, idx.shape[1]:].tolist()
            else:
                tokens = (int(new[0]) for new in model.stream(
                    idx, o.max_new_tokens, o.temperature, o.top_k or None, o.top_p, o.seed + i, o.repetition_penalty))
            if o.show_probs:
                tokens = with_candidates(tokens, model, tokenizer, idx, o)
            tokens = itertools.takewhile(lambda token: token != tokenizer.end_of_text, tokens)
            pieces: Iterable[str] = text_of(tokens, tokenizer, o.stop)
            if o.show_probs:
                pieces = list(pieces)                                   # all tables first, then the text
            if start or tokenizer.end_of_text is None:
                print(tokenizer.decode(idx[0]), end="", flush=True)
            for piece in pieces:
                print(piece, end="", flush=True)
            print()


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")                        # "?" for what the terminal cannot show
    end_on_signals()
    main(sys.argv[1:])
