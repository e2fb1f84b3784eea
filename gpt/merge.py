"""Write a trained model as a whole folder for transformers: python -m gpt.merge --model=runs/my-001 --out=my-model

The weights are those of a run's best checkpoint, with its adapters added to them; or of a GPT-2 and of PEFT's adapters.
"""
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from minigrad.command import end_on_signals

from gpt import lab, lora, model_folder, pretrained
from gpt.run.command_line import bad_input_exits, option, parse
from gpt.run.report import print_report
from gpt.text import tokenizer


@dataclass
class Options:
    """Write a model as a folder that transformers reads: python -m gpt.merge --name=value ..."""
    model: str = option("", "the folder of a run or of a GPT-2: needed")
    out: str = option("", "the folder to write: needed")
    adapters: str = option("", "a folder of adapters, by PEFT, for a GPT-2")

    def __post_init__(self) -> None:
        if not self.model or not self.out:
            raise ValueError("give the folder of a model and the folder to write, --model=FOLDER --out=FOLDER")


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.merge"):
        o = parse(Options, arguments)
        out = Path(o.out)
        for name in (pretrained.CONFIG, pretrained.TENSORS, pretrained.INDEX, "tokenizer.json", lora.CONFIG):
            if os.path.lexists(out / name):             # transformers would add adapters that it finds once more
                what = "adapters" if name == lora.CONFIG else "a model"
                raise ValueError(f"{out} holds {what} already, {out / name}: choose another --out")
        model, encoding = model_folder.load(Path(o.model))
        if isinstance(model, lab.BrokenGPT):
            raise ValueError(f"{o.model} is {lab.description(model.mistake)}; GPT-2 does not have it, give a whole run")
        if o.adapters and model.adapters:
            raise ValueError(f"{o.model} has adapters of its own: leave out --adapters={o.adapters}")
        if o.adapters:
            lora.load_adapters(Path(o.adapters), model)
        pretrained.write(out, model.config, lora.merged(model), encoding.end_of_text)
        tokenizer.to_folder(out, encoding)
        print_report("wrote", f"{out}, a GPT-2 of {model.config.n_layer} layers with its tokenizer")
        print(f"next    python -m gpt.sample --model={shlex.quote(str(out))}")


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
