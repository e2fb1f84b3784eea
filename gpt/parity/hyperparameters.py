"""The hyper-parameters of AdamW and of training, for all sides."""
from typing import Any

from gpt.bench import presets

CLIP, WEIGHT_DECAY = presets.CLIP, presets.WEIGHT_DECAY
ADAMW: dict[str, Any] = {**presets.ADAMW, "lr": 3e-5}           # of fine-tuning: in larger steps, rounding errors grow
