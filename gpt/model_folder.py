"""A model from its folder: that of a GPT-2 as transformers writes it, or of a run, at its best checkpoint. config.json
tells which: a run's has "options"."""
import dataclasses
from pathlib import Path

from gpt import files, lab, lora, pretrained
from gpt.model import GPT, GPTConfig, cropped
from gpt.run import checkpoint, folder as run_folder
from gpt.text import tokenizer
from gpt.text.tokenizer import Tokenizer


def load_model(folder: str | Path, device: str = "cpu", dtype: str = "float32", block_size: int | None = None,
               dropout: float = 0.0) -> GPT:
    """The model in a folder, to be trained on: see GPT.from_pretrained for the arguments. ValueError names what is
    missing, damaged, or of another kind of model."""
    if not is_run(folder):
        return GPT.from_pretrained(folder, device, dtype, block_size, dropout)
    trained, _ = checkpoint.load_model(Path(folder))
    if isinstance(trained, lab.BrokenGPT):
        raise ValueError(f"{folder} is {lab.description(trained.mistake)}; give a whole run")
    config = dataclasses.replace(cropped(trained.config, block_size, folder), dropout=dropout)
    state = lora.merged(trained)
    model = GPT(config, None, device, dtype)
    model.load_state_dict(state | {"wpe.weight": state["wpe.weight"][:config.block_size]})
    return model


def load(folder: str | Path, device: str = "cpu") -> tuple[GPT, Tokenizer]:
    """The model in a folder, to be used as it is, and its tokenizer. ValueError as load_model, and if the folder has no
    tokenizer, or one that does not fit the model."""
    if is_run(folder):
        return checkpoint.load_model(Path(folder), device)
    config = pretrained.read_config(Path(folder))
    encoding = tokenizer.of_folder(Path(folder))
    tokenizer.check_fits(encoding, config["vocab_size"], Path(folder))
    return GPT.from_pretrained(folder, device), encoding


def shape_of(folder: Path) -> GPTConfig:
    """The shape of the model in a folder. ValueError if its config.json is missing, damaged or of another model."""
    return run_folder.read_config(folder)[2] if is_run(folder) else GPTConfig(**pretrained.read_config(folder))


def load_given(model: str, out_dir: str, device: str = "cpu") -> tuple[GPT, Tokenizer]:
    """`load` for a command's options --model and --out_dir. ValueError as `given` and `load`."""
    folder = given(model, out_dir)
    return load(folder, device) if model else checkpoint.load_model(folder, device)


def given(model: str, out_dir: str) -> Path:
    """The folder of a command's options --model and --out_dir. ValueError unless one of them is given."""
    if model and out_dir:
        raise ValueError(f"--model={model} and --out_dir={out_dir} are two models: give one of them")
    if not model and not out_dir:
        raise ValueError("which model? Give --model=FOLDER, the folder of a GPT-2 or a run")
    return Path(model or out_dir)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run, by its config.json. False if that cannot be read."""
    try:
        return "options" in files.read_json(Path(folder) / "config.json")
    except (OSError, ValueError):
        return False
