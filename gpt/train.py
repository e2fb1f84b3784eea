"""Train a GPT: python -m gpt.train is the same program as train.py. An installed wheel has no other command for it."""
import runpy

from gpt.run.command_line import TRAIN

if __name__ == "__main__":
    runpy.run_path(str(TRAIN), run_name="__main__")
