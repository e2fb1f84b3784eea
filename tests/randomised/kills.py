"""Signals at random instants: SIGINT, SIGTERM and SIGKILL to a tiny training run, several times. It is resumed until it
ends, and must then have the same bits as a run without signals.
"""
import shutil
import signal

from . import processes

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


class Kills:
    """A training run that is ended by signals again and again."""

    def __init__(self, prepared):
        self.folder = prepared
        self.right = processes.tensors(prepared / "whole")

    def trial(self, rng):
        """Returns None, or what is wrong and how to repeat it."""
        run, story = self.folder / "killed", []
        shutil.rmtree(run, ignore_errors=True)
        for _ in range(10):
            # A resume of a folder without a run is refused with one line: then the run starts from scratch.
            started = (run / "config.json").exists()
            command = processes.resuming("killed") if started else processes.training("killed")
            signals, after = [], None
            if len(story) < 5:
                after = run / f"checkpoints/step_{2 * int(rng.integers(1, 6)):06}.json" if rng.random() < 0.6 else None
                signals = [(float(rng.uniform(0.0, 0.05 if after else 0.3)), int(rng.choice(SIGNALS)))]
                if rng.random() < 0.2:
                    signals.append((float(rng.uniform(0.0, 0.02)), int(rng.choice(SIGNALS))))
            ended = processes.run(command, self.folder, signals, after)
            story.append(f"{'resume' if started else 'train'}, (seconds, signal) {signals} after "
                         f"{after.name if after else 'the start'}: status {ended.status}\n{ended.err}")
            if ended.status == 0:
                break
            ends = {-number for number in SIGNALS} | {128 + number for number in SIGNALS}
            if ended.status not in ends or "Traceback" in ended.err:
                return f"status {ended.status} after {signals}", "\n".join(story)
        if ended.status != 0:
            return "it never ends", "\n".join(story)
        if processes.tensors(run) != self.right:
            return "other bits than an undisturbed run", "\n".join(story)
        return None
