"""Training, sampling, the stepper, gpt.verify and gpt.bench on a device: they give the numbers of the CPU, wait for the
device at a log and not between, and say what GPU and memory there is. All on the fake device."""
import contextlib
import gc
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import train
from fake_device import FakeArray, full_pool, synchronizations, used_bytes
from gpt import sample, step as step_command, verify
from gpt.bench import __main__ as bench, presets, report
from gpt.bench.machine import describe
from gpt.bench.presets import Preset
from gpt.bench.sides import MinigradSide
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder, machine, plot
from gpt.run import run as run_module
from gpt.run.command_line import TRAIN
from gpt.run.evaluate import evaluate
from gpt.text.batches import Text
from minigrad import backend, optim

RUN = ["--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=2",
       "--gradient_accumulation_steps=2", "--dropout=0.1", "--max_iters=12", "--warmup_iters=2", "--eval_interval=6",
       "--eval_iters=2", "--log_interval=3", "--stats_interval=4", "--sample_interval=6", "--checkpoint_interval=6"]
ONLY_STEPS = ["--eval_interval=100", "--checkpoint_interval=100", "--sample_interval=0", "--stats_interval=0"]
GPU = {"gpu": "A card", "driver": "580.1", "cuda": "13.0", "cublas": "13.1", "cupy": "14.2.0", "tf32": False}
ASKED = "Out of memory allocating 1,234,567,168 bytes (allocated so far: 70,000,000,000 bytes)."
accumulate_gradient, draw_batch = train.accumulate_gradient, Text.batch


@pytest.fixture(autouse=True)
def short_runs(tmp_path, monkeypatch):
    """In a folder with a text: runs without plots, and with short samples."""
    monkeypatch.chdir(tmp_path)
    Path("stars.txt").write_text("".join(f"the {animal} sees {n} stars\n" for n in range(40)
                                         for animal in ("fox", "owl", "hare")), "utf-8")
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        monkeypatch.setattr(plot, name, lambda *_: None)
    draw = run_module.samples
    monkeypatch.setattr(run_module, "samples", lambda model, data, rows, length, seed: draw(model, data, 1, 5, seed))
    monkeypatch.setattr(machine, "PEAK_SIZE", 32)


@pytest.fixture
def fake_library(monkeypatch):
    """Exchanges functions of the fake device's Backend."""
    def exchange(**functions):
        monkeypatch.setitem(backend.BACKENDS, FakeArray, backend.BACKENDS[FakeArray]._replace(**functions))
    return exchange


def textbook_on(name):
    """The host computes without its kernels, whose sums are in another order."""
    return mg.plain() if name == "cpu" else contextlib.nullcontext()


def run(out_dir, *options, on="fake"):
    with textbook_on(on):
        train.main([*RUN, f"--out_dir={out_dir}", f"--device={on}", *options])


def resume(out_dir, *options, on="fake"):
    with textbook_on(on):
        train.main(["--init_from=resume", f"--out_dir={out_dir}", *options])


def outcome(out_dir):
    """The tensors of the newest checkpoint, the metrics without the speed, and the other logs."""
    newest = checkpoint.newest_first(Path(out_dir))[0]
    metrics = [{name: x for name, x in row.items() if name != "tokens_per_s"}
               for row in folder.read_rows(Path(out_dir, "metrics.jsonl"))]
    return (newest.name, newest.with_suffix(".safetensors").read_bytes(), metrics,
            Path(out_dir, "stats.jsonl").read_text("utf-8"), Path(out_dir, "samples.md").read_text("utf-8"))


def ends_early(capsys, *arguments, on="fake"):
    """The one line with which a run ends early."""
    with pytest.raises(SystemExit) as end:
        run(*arguments, on=on)
    message = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    assert message.strip().count("\n") == 0
    return message.strip()


def at_step(step, do):
    """accumulate_gradient, which calls `do` before it computes the gradient of a step."""
    def replaced(*arguments):
        if arguments[-1] == step:
            do()
        return accumulate_gradient(*arguments)
    return replaced


def waits_of_steps(monkeypatch, *options):
    """How often each training step but the last waits for the device."""
    starts = []
    with synchronizations() as found:
        monkeypatch.setattr(Text, "batch", lambda *args: starts.append(len(found)) or draw_batch(*args))
        run("run", *options)
    return [found[start:end] for start, end in zip(starts, starts[1:])]


# ---- the steps ------------------------------------------------------------------------------------------------------

def test_a_run_gives_the_same_bits_metrics_statistics_and_samples_as_on_the_cpu():
    with mg.plain():
        run("on device")
        run("on host", on="cpu")
    assert outcome("on device") == outcome("on host")


def test_a_training_step_waits_for_the_device_once_at_a_log_and_never_between(monkeypatch):
    waits = waits_of_steps(monkeypatch, *ONLY_STEPS)
    assert [len(found) for found in waits] == [1, 0, 0] * 3 + [1, 0], waits


def test_the_statistics_of_all_tensors_are_read_in_one_copy(monkeypatch):
    waits = waits_of_steps(monkeypatch, *ONLY_STEPS, "--stats_interval=2", "--log_interval=100")
    assert [len(found) for found in waits] == [2] + [0, 1] * 5, waits


def test_a_validation_reads_its_losses_in_one_copy():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8), device="fake")
    with synchronizations() as found:
        evaluate(model, np.zeros((2, 7, 8), int), batch_size=2)
    assert len(found) == 1, found


def test_the_time_in_which_the_device_computes_steps_before_a_validation_counts_as_training(monkeypatch):
    """Their losses are read, which waits for the device, before the clock of the speed is stopped."""
    events = []
    for owner, name in ((run_module.Run, "_read_losses"), (run_module.Progress, "pause")):
        monkeypatch.setattr(owner, name, lambda *args, method=getattr(owner, name): (
            events.append(method.__name__), method(*args))[1])
    run("run", *ONLY_STEPS, "--eval_interval=2", "--max_iters=4", "--log_interval=100")
    log_of_step_0 = ["_read_losses"]
    assert events == ["_read_losses", "pause", *log_of_step_0, *["_read_losses", "pause"] * 2]


def test_a_run_leaves_no_memory_of_the_device_in_use():
    gc.collect()
    before = used_bytes()
    run("run", "--step_at=3")
    gc.collect()
    assert used_bytes() == before


def test_a_run_that_is_stopped_and_resumed_gives_the_same_bits_as_one_in_one_go(monkeypatch):
    run("whole")
    monkeypatch.setattr(train, "accumulate_gradient", at_step(7, lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(SystemExit):
        run("stopped")
    assert checkpoint.newest_step(Path("stopped")) == 8
    resume("stopped")
    assert outcome("stopped") == outcome("whole")


# ---- divergence -----------------------------------------------------------------------------------------------------

DIVERGING = ["--learning_rate=1e30", "--grad_clip=0", "--warmup_iters=0", "--dropout=0", *ONLY_STEPS]


def began(message):
    return int(re.search(r"diverged: the loss is \S+ at step (\d+);", message)[1])


def test_a_divergence_is_noticed_at_the_next_log_and_the_message_names_the_step_at_which_it_began(capsys):
    expected = ends_early(capsys, "on host", *DIVERGING, on="cpu")
    step = began(expected)
    assert "forward of" in expected
    message = ends_early(capsys, "on device", *DIVERGING, f"--log_interval={step + 3}")
    assert began(message) == step
    assert (f"losses are read from the device every --log_interval={step + 3} steps, and the weights have changed "
            "since: with --log_interval=1 this message also says where it began. The checkpoint of step 0 is intact; "
            "try --learning_rate=3e+29 or --grad_clip=1") in message


@pytest.mark.parametrize("interval", ["--log_interval=1", "--log_interval={step}"])
def test_a_divergence_at_a_step_with_a_log_has_the_message_of_the_cpu(capsys, interval):
    expected = ends_early(capsys, "on host", *DIVERGING, on="cpu")
    assert ends_early(capsys, "on device", *DIVERGING, interval.format(step=began(expected))) == expected


@pytest.mark.parametrize("due", ["--eval_interval=5", "--checkpoint_interval=5", "--sample_interval=5", "--step_at=5"])
def test_a_divergence_is_noticed_before_a_validation_a_sample_a_checkpoint_and_a_page(capsys, due):
    message = ends_early(capsys, "run", *DIVERGING, "--log_interval=100", due)
    assert began(message) < 5 and "weights have changed since" in message
    assert checkpoint.newest_step(Path("run")) == 0 and not list(Path("run").glob("step-*"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_after_a_divergence_does_not_save_it(capsys, monkeypatch, stop):
    monkeypatch.setattr(train, "accumulate_gradient", at_step(5, lambda: signal.raise_signal(stop)))
    message = ends_early(capsys, "run", *DIVERGING, "--log_interval=100")
    assert began(message) < 5 and checkpoint.newest_step(Path("run")) == 0


@pytest.mark.parametrize("learning_rate", ["3e4", "1e12"])
@pytest.mark.parametrize("intervals", [["--checkpoint_interval=1"], ["--checkpoint_interval=3", "--log_interval=5"]])
def test_a_run_resumes_from_the_checkpoint_that_is_left_after_a_divergence(capsys, learning_rate, intervals):
    """No checkpoint stays whose weights have a loss of 100 or more: every resume of it would diverge at once."""
    message = ends_early(capsys, "run", *DIVERGING, "--weight_decay=0", f"--learning_rate={learning_rate}", *intervals)
    newest = checkpoint.newest_step(Path("run"))
    assert f"The checkpoint of step {newest} is intact" in message and newest < began(message)
    resume("run", "--learning_rate=1e-3", "--grad_clip=1")
    assert checkpoint.newest_step(Path("run")) == 12


# ---- a device without memory ----------------------------------------------------------------------------------------

def out_of_memory():
    raise MemoryError(ASKED)


def test_a_full_device_is_one_line_with_what_was_asked_what_there_is_and_what_to_lower(capsys, monkeypatch,
                                                                                      fake_library):
    fake_library(memory=lambda: (800_000_000, 70_100_000_000, 69_900_000_000))
    monkeypatch.setattr(train, "accumulate_gradient", at_step(7, out_of_memory))
    message = ends_early(capsys, "run")
    assert message == (
        "train.py: out of memory: Out of memory allocating 1,234,567,168 bytes (allocated so far: 70,000,000,000 "
        "bytes); fake has 800 MB free, and this process holds 70,100 MB, of which 69,900 MB are in use: halve "
        "--batch_size=2 and double --gradient_accumulation_steps=2: the same run in less memory. The checkpoint of "
        "step 7 is intact; --init_from=resume --out_dir=run resumes the run")


@pytest.mark.parametrize("error", ["CUDA_ERROR_OUT_OF_MEMORY: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_lack_of_memory_in_cuda_itself_is_one_line_too_and_other_errors_of_it_are_not(capsys, monkeypatch, error):
    def fail(says):
        raise RuntimeError(says)
    monkeypatch.setattr(train, "accumulate_gradient", at_step(7, lambda: fail(error)))
    message = ends_early(capsys, "run")
    assert f"train.py: out of memory: {error}; fake has" in message and "checkpoint of step 7 is intact" in message
    monkeypatch.setattr(train, "accumulate_gradient", at_step(7, lambda: fail("CUDA_ERROR_ILLEGAL_ADDRESS")))
    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        run("another")


@pytest.mark.parametrize("on", ["fake", "cpu"])
def test_a_run_without_memory_is_saved_at_its_step_and_resumes_with_the_same_bits(capsys, monkeypatch, on):
    run("whole", on=on)
    with monkeypatch.context() as patch:
        patch.setattr(train, "accumulate_gradient", at_step(7, out_of_memory))
        ends_early(capsys, "run", on=on)
    resume("run", on=on)
    assert outcome("run") == outcome("whole")


@pytest.fixture
def fill():
    """fill(free=...): from now on, only so many bytes are free on the device."""
    with contextlib.ExitStack() as filled:
        yield lambda free: filled.enter_context(full_pool(free))


@pytest.mark.parametrize("free", [0, 4096, 16384])
def test_a_run_that_finds_its_device_full_within_a_step_frees_its_arrays_and_is_saved(capsys, monkeypatch, fill, free):
    used, save = [], checkpoint.save

    def full_at_step_7(*arguments):
        if arguments[-1] == 7:
            fill(free)
        return accumulate_gradient(*arguments)

    gc.collect()                                # the runs of other tests
    monkeypatch.setattr(checkpoint, "save", lambda *args, **kwargs: (used.append(used_bytes()), save(*args, **kwargs)))
    monkeypatch.setattr(train, "accumulate_gradient", full_at_step_7)
    message = ends_early(capsys, "run", *ONLY_STEPS)
    assert re.search(r"out of memory: Out of memory allocating [\d,]+ bytes \(allocated so far: [\d,]+ bytes\); fake "
                     r"has 0 MB free, .* The checkpoint of step 7 is intact", message)
    assert len(used) == 2 and used[0] == used[1]        # weights and moments alone, as before the first step


@pytest.mark.parametrize("free", [0, 512, 1024])
def test_weights_are_not_saved_after_a_lack_of_memory_within_the_optimizers_step(capsys, monkeypatch, fill, free):
    """Some of them may have been updated, and others not. The textbook's step allocates arrays."""
    update = optim.AdamW.step

    def full_at_step_7(optimizer):
        if optimizer.states[0].t == 7:
            fill(free)
        update(optimizer)

    monkeypatch.setattr(optim.AdamW, "step", full_at_step_7)
    with mg.plain():
        assert "The checkpoint of step 6 is intact; --init_from=resume" in ends_early(capsys, "run")


@pytest.mark.parametrize("owner, name", [
    (run_module, "evaluate"), (run_module, "samples"), (run_module, "tensor_stats"), (run_module.Run, "log"),
    (run_module, "training_step")])
def test_a_run_without_memory_for_a_validation_a_sample_a_log_or_a_page_resumes_with_the_same_bits_and_logs(
        capsys, monkeypatch, owner, name):
    """It is saved only if nothing is missing in its logs."""
    options, function = ["--checkpoint_interval=12", "--step_at=8"], getattr(owner, name)
    run("whole", *options)
    calls = [0]

    def full(*arguments):                       # at the second call; there is one page
        calls[0] += 1
        return out_of_memory() if calls[0] == (1 if name == "training_step" else 2) else function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        ends_early(capsys, "run", *options)
    resume("run")
    assert outcome("run") == outcome("whole")


def test_a_checkpoint_with_its_validation_loss_is_not_written_again(capsys, monkeypatch):
    monkeypatch.setattr(train, "accumulate_gradient", at_step(6, out_of_memory))
    assert "The checkpoint of step 6 is intact" in ends_early(capsys, "run")
    assert json.loads(Path("run/checkpoints/step_000006.json").read_text())["val_loss"] > 0.0


def test_a_divergence_that_was_not_read_yet_is_not_saved_after_a_lack_of_memory(capsys, monkeypatch):
    monkeypatch.setattr(train, "accumulate_gradient", at_step(5, out_of_memory))
    message = ends_early(capsys, "run", *DIVERGING, "--log_interval=100")
    assert began(message) < 5 and checkpoint.newest_step(Path("run")) == 0


def test_a_run_that_cannot_be_saved_either_names_the_last_checkpoint(capsys, monkeypatch):
    def full(*_, **__):
        raise MemoryError
    monkeypatch.setattr(train, "accumulate_gradient", at_step(7, lambda: (
        monkeypatch.setattr(checkpoint, "save", full), out_of_memory())))
    assert "The checkpoint of step 6 is intact" in ends_early(capsys, "run")


def test_a_model_that_does_not_fit_on_the_device_says_what_there_is_and_what_to_lower(capsys, monkeypatch,
                                                                                     fake_library):
    fake_library(memory=lambda: (8_000_000, 0, 0))
    monkeypatch.setattr(run_module.lab, "make", lambda *_: out_of_memory())
    message = ends_early(capsys, "run", "--n_embd=768")
    assert message == (f"train.py: out of memory: {ASKED[:-1]}; fake has 8 MB free, and this process holds 0 MB, of "
                       "which 0 MB are in use; lower --n_embd=768 or --gradient_accumulation_steps=2")


# ---- the GPU's name and speed ---------------------------------------------------------------------------------------

def test_env_json_and_the_header_name_the_gpu_and_its_libraries(capsys, fake_library):
    fake_library(facts=lambda: GPU)
    run("run", "--max_iters=3")
    assert json.loads(Path("run/env.json").read_text()).items() >= {"device": "fake", **GPU}.items()
    assert "device  fake (A card), " in capsys.readouterr().out


def test_a_run_that_is_resumed_on_another_gpu_or_with_another_library_says_so(capsys, fake_library):
    fake_library(facts=lambda: GPU)
    run("run", "--max_iters=6")
    fake_library(facts=lambda: GPU | {"gpu": "Another card", "tf32": True})
    capsys.readouterr()
    resume("run", "--max_iters=7")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes == ["note    max_iters 6 -> 7 from here on", "note    gpu 'A card' -> 'Another card' from here on",
                     "note    tf32 False -> True from here on"]


def test_a_run_that_is_resumed_on_a_gpu_for_the_first_time_names_the_device_and_what_runs_the_ops(capsys, fake_library):
    run("run", "--max_iters=6", on="cpu")
    fake_library(facts=lambda: GPU)
    capsys.readouterr()
    resume("run", "--max_iters=7", "--device=fake")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    executor = {"note    executor 'textbook' -> 'cuda' from here on"}           # none under MINIGRAD_PLAIN=1
    assert set(notes) - executor == {"note    max_iters 6 -> 7 from here on",
                                     "note    device 'cpu' -> 'fake' from here on"}


def test_the_peak_of_a_device_is_the_median_rate_of_5_products_of_random_matrices_after_a_first_one(fake_library):
    seconds, products = iter([100.0, 3.0, 1.0, 2.0, 50.0, 9.0]), []
    fake_library(seconds=lambda f: products.append(f()) or next(seconds))
    assert machine.matmul_peak("fake", "float64") == 2 * 32 ** 3 / 3.0
    assert len(products) == 6 and all(y.shape == (32, 32) and y.dtype == "float64" for y in products)
    assert len(np.unique(products[0].get())) > 1


@pytest.mark.parametrize("size, free", [(64, (4 * 64 * 64, 3 * 4 * 64 * 64, 4 * 64 * 64)), (16, (0, 0, 0))])
def test_a_device_with_little_free_memory_multiplies_smaller_matrices_for_its_peak(size, free, monkeypatch,
                                                                                  fake_library):
    """Of 16 rows at least: a peak of 0 could not divide the speed of a step."""
    products = []
    monkeypatch.setattr(machine, "PEAK_SIZE", 128)
    fake_library(seconds=lambda f: products.append(f()) or 1.0, memory=lambda: free)
    machine.matmul_peak("fake", "float32")
    assert products[0].shape == (size, size)


# ---- sampling, the stepper, verify ----------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], ["--beam=3"], ["--show_probs"], ["--temperature=0"], ["--top_k=3"],
                                     ["--top_p=0.5", "--repetition_penalty=1.5", "--num_samples=2"]])
def test_a_sample_on_a_device_is_that_on_the_cpu_and_waits_once_for_each_token(capsys, options):
    run("run", "--max_iters=3")
    texts = []
    for name in ("cpu", "fake"):
        capsys.readouterr()
        with synchronizations() as found, textbook_on(name):
            sample.main(["--out_dir=run", "--start=the fox", "--max_new_tokens=9", f"--device={name}", *options])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    per_token = 2 if "--show_probs" in options else 2 if "--num_samples=2" in options else 1
    assert len(found) == 9 * per_token, found


def test_a_page_of_a_step_on_a_device_is_that_on_the_cpu():
    pages = []
    for name in ("cpu", "fake"):
        with mg.plain():
            run(f"on {name}", "--max_iters=5", "--step_at=3", on=name)
        pages.append(Path(f"on {name}/step-3.html").read_text("utf-8"))
    assert pages[0] == pages[1] and outcome("on fake") == outcome("on cpu")


def test_a_run_of_a_device_is_stepped_through_as_one_of_the_cpu():
    for name in ("cpu", "fake"):
        with mg.plain():
            run(f"on {name}", "--max_iters=3", on=name)
        step_command.main([f"--out_dir=on {name}", f"--out={name}.html"])
    assert Path("cpu.html").read_bytes() == Path("fake.html").read_bytes()


def test_gpt_verify_resumes_a_run_of_a_device_with_equal_bits(monkeypatch, capsys):
    run("run", *ONLY_STEPS, "--checkpoint_interval=4")
    Path("train_on_fake.py").write_text(
        f"import runpy, sys\nsys.path[:0] = {[str(TRAIN.parent), str(TRAIN.parent / 'tests')]}\n"
        f"import fake_device\nfrom gpt.run import machine\nmachine.PEAK_SIZE = 32\n"
        f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n", "utf-8")
    monkeypatch.setattr(verify, "TRAIN", Path("train_on_fake.py").resolve())
    assert verify.main(["run", "--steps=4"]) == 0
    assert "equal: weights and moments agree in every bit" in capsys.readouterr().out


# ---- gpt.bench ------------------------------------------------------------------------------------------------------

TINY = Preset(GPTConfig(block_size=7, vocab_size=11, n_layer=2, n_head=2, n_embd=8), batch_size=3)


@pytest.mark.parametrize("generates", [False, True])
def test_bench_on_a_device_reports_its_name_peak_and_memory(generates, capsys, monkeypatch, fake_library):
    fake_library(facts=lambda: GPU, memory=lambda: (10 ** 9, 7_000_000, 5_000_000))
    monkeypatch.setitem(presets.PRESETS, "cpu", TINY._replace(generates=generates))
    monkeypatch.setattr(report, "in_new_process", lambda function, *args: function(*args))  # "fake" is known in this
    bench.main(["--device=fake", "--vs=plain", "--steps=2", "--threads=1", "--json=bench.json"])
    found, out = json.loads(Path("bench.json").read_text()), capsys.readouterr().out
    assert "cores, fake (A card), Python" in out and found["machine"].items() >= {"device": "fake", **GPU}.items()
    assert all(row["memory_bytes"] == 7_000_000 for name, row in found["sides"].items() if name != "floor")
    assert all(0.0 < row["of_peak"] <= 1.0 for name, row in found["sides"].items() if name == "floor")


def test_a_timed_step_waits_for_the_device_at_its_end_alone():
    side, (x, y) = MinigradSide(TINY, "fake"), next(presets.random_batches(TINY))
    with synchronizations() as found:
        side.learn(x, y)
        side.update()
    assert len(found) == 1 and found[0].startswith("synchronize"), found


def test_the_memory_of_a_side_is_that_of_the_pool(fake_library):
    fake_library(memory=lambda: (10 ** 9, 7_000_000, 5_000_000))
    assert MinigradSide(TINY, "fake").device_memory() == 7_000_000
    assert "gpu" not in describe(1, "cpu", with_torch=False)
