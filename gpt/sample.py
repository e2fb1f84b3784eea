"""Let a trained model speak: python -m gpt.sample --out_dir=runs/python-001 --start="def " """
import sys
from dataclasses import dataclass
from pathlib import Path

from minigrad import device

from gpt import checkpoint
from gpt.config import bad_input_exits, option, parse
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer


@dataclass
class Options:
    """Continue a text with a trained model: python -m gpt.sample --name=value ..."""
    out_dir: str = option("", "the folder that train.py wrote: needed")
    start: str = option("", "the text to continue; default a new line")
    max_new_tokens: int = option(500, "how many characters to add")
    temperature: float = option(0.8, "below 1 tamer, above 1 wilder, 0 greedy")
    top_k: int = option(0, "only the k likeliest; 0: all")
    top_p: float = option(1.0, "only the fewest that reach this; 1: all")
    seed: int = option(0, "the same seed says the same")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")


def continue_text(model: GPT, tokenizer: CharTokenizer, start: str = "", max_new_tokens: int = 500,
                  temperature: float = 0.8, top_k: int | None = None, top_p: float | None = None, seed: int = 0) -> str:
    """`start` and what the model makes of it. An empty start is a new line, or the first character of a vocabulary
    without one. ValueError for characters that the model has never seen."""
    start = start or ("\n" if "\n" in tokenizer.vocabulary else tokenizer.vocabulary[0])
    idx = tokenizer.encode(start)[None]                                 # (1, T)
    tokens = model.generate(idx, max_new_tokens, temperature, top_k, top_p, seed)
    return tokenizer.decode(tokens[0])


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.sample"):
        o = parse(Options, arguments)
        if not o.out_dir:
            raise ValueError("which run? Give --out_dir=FOLDER, the one that train.py wrote")
        model, tokenizer = checkpoint.load(Path(o.out_dir), device.resolve(o.device))
        print(continue_text(model, tokenizer, o.start, o.max_new_tokens, o.temperature, o.top_k or None, o.top_p,
                            o.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
