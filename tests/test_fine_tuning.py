"""python train.py --init_from=FOLDER: from a GPT-2 or a run of ours, on texts and on pairs."""
import contextlib
import io
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from gpt2_folder import write_folder
from test_pairs import SUMS, write

import minigrad as mg
import train
from gpt import step, verify
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, failures, folder, plot
from gpt.run import run as run_module
from gpt.run.estimates import activation_bytes, weight_bytes
from gpt.run.evaluate import samples
from gpt.run.options import FINE_TUNING, Options, configure

from gpt.text import dataset
from gpt.text.dataset import open_data
from minigrad.parallel import GradientSum, World

TEXT = "the quick brown fox sees 3 stars\n" * 60
RUN = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=16", "--batch_size=4", "--max_iters=4",
       "--warmup_iters=1", "--eval_iters=2", "--sample_interval=0"]
TUNE = ["--max_iters=4", "--eval_interval=2", "--checkpoint_interval=2", "--gradient_accumulation_steps=2",
        "--learning_rate=1e-2", "--dropout=0.2", "--keep=9"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with texts, pairs, a run, and one that fine-tunes it on the pairs."""
    prepared = tmp_path_factory.mktemp("prepared")
    (prepared / "stars.txt").write_text(TEXT, "utf-8")
    write(prepared / "sums.jsonl", SUMS)
    with pytest.MonkeyPatch.context() as patch:
        drawn = []
        patch.setattr(plot, "draw", lambda *args: drawn.append(args))
        patch.chdir(prepared)
        (prepared / "letters.txt").write_text(TEXT + "0123456789+=!" * 30, "utf-8")
        train.main(["--dataset=letters.txt", "--out_dir=old", *RUN])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            tune()
    return prepared, drawn[1], printed.getvalue()


@pytest.fixture(autouse=True)
def in_a_copy(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(plot, "draw", lambda *_: None)
    monkeypatch.setattr(run_module, "samples", lambda *_: ["a sample"])         # they take most of the time


def tune(*options, dataset="sums.jsonl", out_dir="new"):
    """Fine-tune the run  ->  the tensors of the newest checkpoint."""
    train.main(["--init_from=old", f"--dataset={dataset}", f"--out_dir={out_dir}", *TUNE, *options])
    return saved(out_dir)


def saved(out_dir, step=None):
    paths = checkpoint.newest_first(Path(out_dir))
    path = next(path for path in paths if step in (None, checkpoint.step_of(path)))
    return safetensors.numpy.load(path.with_suffix(".safetensors").read_bytes())


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name].view("u1"), b[name].view("u1")) for name in a)


def refused(capsys, *options):
    """The one line with which train.py ends."""
    with pytest.raises(SystemExit) as end:
        train.main([*options, "--out_dir=refused"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and not Path("refused").exists()
    return error


# ---- options ----

def test_fine_tuning_has_its_own_defaults_below_those_that_are_given():
    o, sources, _ = configure(["--init_from=old", "--dataset=stars.txt", "--dropout=0.3", "--max_iters=40"])
    assert (o.learning_rate, o.dropout, o.batch_size, o.gradient_accumulation_steps) == (3e-5, 0.3, 1, 8)
    assert (o.block_size, o.n_layer, o.n_embd, o.tokenizer, o.init_from) == (16, 1, 16, "model", "old")
    assert (o.max_iters, o.warmup_iters) == (40, 4)
    assert [sources[name] for name in ("learning_rate", "dropout", "n_layer", "seed")] == [
        "fine-tuning", "command line", "old", "default"]
    assert FINE_TUNING.keys() <= vars(o).keys()


def test_the_context_is_256_tokens_where_the_model_has_more_positions(tmp_path):
    GPT(GPTConfig(block_size=300, vocab_size=5, n_layer=1, n_head=1, n_embd=8)).save_pretrained(tmp_path / "gpt2")
    assert configure([f"--init_from={tmp_path / 'gpt2'}"])[0].block_size == 256
    assert configure([f"--init_from={tmp_path / 'gpt2'}", "--block_size=300"])[0].block_size == 300


@pytest.mark.parametrize("options, message", [
    (["--init_from=resum"], "or the folder of a model, and 'resum' is no folder; did you mean resume?"),
    (["--init_from=."], "config.json is missing: the folder of a GPT-2 holds"),
    (["--init_from=old", "--n_layer=3"], "the model in old has n_layer 1: leave out --n_layer=3 (command line)"),
    (["--init_from=old", "--preset=shakespeare-cpu"], "(preset shakespeare-cpu)"),
    (["--init_from=old", "--tokenizer=char"], "the model in old has its own tokenizer: leave out --tokenizer=char"),
    (["--init_from=old", "--block_size=17"], "has positions for 16 tokens: use --block_size=16 or less, got 17"),
    (["--init_from=old", "--break=no-mask"], "leave out --init_from"),
    (["--tokenizer=model"], "give its folder, --init_from=FOLDER"),
    (["--init_from=old", "--dataset=missing.jsonl"], "missing.jsonl: No such file"),
    (["--init_from=old", "--dataset=short.txt"], "the text is too short: its last tenth, to validate on, has 3 tokens"),
    (["--init_from=old", "--dataset=greek.txt"], "the tokenizer has no token for 'α'"),
    (["--init_from=old", "--dataset=wrong.jsonl"], "wrong.jsonl, line 1: no JSON"),
])
def test_what_does_not_fit_is_refused_in_one_line_before_a_folder_is_made(capsys, options, message):
    Path("short.txt").write_text("the quick brown fox sees ")
    Path("greek.txt").write_text("α" * 1000, "utf-8")
    Path("wrong.jsonl").write_text("the quick\n")
    assert message in refused(capsys, *options)


def test_a_folder_without_a_tokenizer_or_with_another_one_is_refused(capsys, tmp_path):
    pytest.importorskip("tokenizers")
    write_folder(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "tokenizer.json").rename("theirs.json")
    given = [f"--init_from={tmp_path / 'gpt2'}", "--dataset=stars.txt"]
    assert "has no tokenizer" in refused(capsys, *given)
    shutil.copy("old/tokenizer.json", tmp_path / "gpt2")
    assert "they are of two models" in refused(capsys, *given)
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(capsys, *given)


def test_the_folder_of_a_model_is_no_run_and_gets_none(capsys, tmp_path):
    GPT(GPTConfig(8, 20, 1, 1, 8)).save_pretrained(tmp_path)
    for options, message in ((["--init_from=resume"], f"holds a model, not a run: give it as --model={tmp_path}"),
                             ([], f"{tmp_path} holds a model: choose another --out_dir")):
        with pytest.raises(SystemExit) as exit:
            train.main([*options, f"--out_dir={tmp_path}"])
        said = capsys.readouterr().err
        assert exit.value.code == 2 and said.count("\n") == 1 and message in said


def test_a_broken_run_is_no_model_to_start_from(capsys):
    train.main(["--dataset=letters.txt", "--out_dir=broken", "--break=no-mask", *RUN])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        train.main(["--init_from=broken", "--dataset=sums.jsonl", "--out_dir=new2"])
    assert exit.value.code == 2 and "every position attends to the whole window; give a whole run" in (
        capsys.readouterr().err)


# ---- runs ----

def test_a_run_starts_from_the_best_checkpoint_of_another_and_records_it(prepared):
    best, _ = checkpoint.load_model(Path("old"))
    first = saved("new", 0)
    assert all(np.array_equal(first[name], x) for name, x in best.state_dict().items())
    assert not np.array_equal(saved("new")["wte.weight"], first["wte.weight"])
    assert folder.read_config(Path("new"))[0]["init_from"] == "old"
    _, _, out = prepared
    assert "\nlines" not in out and "--init_from=old --dataset=my.txt" in out
    assert out.split("Samples, at temperature 0.8:\n")[1].startswith(tuple(p for p, _ in SUMS))


def test_a_gpt2_is_trained_on_with_fewer_positions_and_the_header_says_so(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    write_folder(tmp_path / "gpt2", vocab_size=384)
    tune(f"--init_from={tmp_path / 'gpt2'}", "--block_size=8", dataset="stars.txt", out_dir="gpt2")
    said = " ".join(capsys.readouterr().out.split())
    assert "can read 12 tokens; this run keeps its first 8 positions, and --block_size=12 would keep all" in said
    first, theirs = saved("gpt2", 0), GPT.from_pretrained(tmp_path / "gpt2").state_dict()
    assert np.array_equal(first["wpe.weight"], theirs["wpe.weight"][:8])
    assert np.array_equal(first["wte.weight"], theirs["wte.weight"]) and len(first["wte.weight"]) == 384
    data = open_data(Path("gpt2"))
    assert data.tokenizer.decode(data.train.tokens).startswith("the quick brown fox")


def test_a_fine_tuned_run_resumes_with_the_same_bits_without_the_folder_and_the_pairs():
    whole = saved("new")
    checkpoint.newest_first(Path("new"))[0].unlink()
    shutil.rmtree("old")
    Path("sums.jsonl").unlink()
    train.main(["--init_from=resume", "--out_dir=new"])
    assert same_bits(saved("new"), whole)
    assert folder.read_config(Path("new"))[0]["init_from"] == "old"


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_from_the_folder(capsys):
    whole = saved("new")
    shutil.rmtree("new/checkpoints")
    train.main(["--init_from=resume", "--out_dir=new"])
    assert same_bits(saved("new"), whole)
    shutil.rmtree("new/checkpoints")
    shutil.rmtree("old")
    with pytest.raises(SystemExit):
        train.main(["--init_from=resume", "--out_dir=new"])
    assert "old is no folder" in capsys.readouterr().err


def test_a_copy_of_a_run_on_pairs_for_verify_resumes_with_the_same_bits(tmp_path):
    assert verify.copy_run(Path("new"), tmp_path / "copied", steps=2) == 2
    train.main(["--init_from=resume", f"--out_dir={tmp_path / 'copied'}"])
    assert same_bits(saved(tmp_path / "copied"), saved("new"))


def test_another_shape_of_a_run_that_is_resumed_is_refused(capsys):
    with pytest.raises(SystemExit):
        train.main(["--init_from=resume", "--out_dir=new", "--tokenizer=char"])
    assert "cannot be resumed with another model or text (tokenizer 'model' -> 'char')" in capsys.readouterr().err


def test_samples_of_a_gpt2_follow_the_end_of_a_text_and_those_of_pairs_held_out_prompts(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    write_folder(tmp_path / "gpt2")
    train.main([f"--init_from={tmp_path / 'gpt2'}", "--dataset=stars.txt", "--out_dir=text", *TUNE, "--max_iters=1"])
    model, data = checkpoint.load_model(Path("text"))[0], open_data(Path("text"))
    monkeypatch.setattr(model, "generate", lambda idx, *args, **options: np.append(idx, [[40, 41]], axis=1))
    end = data.tokenizer.end_of_text
    assert end == 0 and samples(model, data, 1, 5, 0) == [data.tokenizer.decode([40, 41])]
    data = dataset.tokenize("sums.jsonl", "model", 330, model=tmp_path / "gpt2").write(Path("pairs"))
    prompts = [data.tokenizer.decode(prompt) for prompt in data.val.prompts(3)]
    monkeypatch.setattr(model, "stream", lambda idx, *args, **options: iter(np.array([[40], [41], [0], [42]])))
    assert samples(model, data, 3, 5, 0) == [prompt + data.tokenizer.decode([40, 41]) for prompt in prompts]


def test_the_curve_of_a_fine_tuned_run_has_the_loss_of_the_model_before(prepared):
    _, (_, _, title, metrics, _, lines, unit), _ = prepared
    before = next(row["val_loss"] for row in metrics if "val_loss" in row)
    assert lines == {"before": before} and re.fullmatch(r"old, a GPT of [\d,]+ parameters is fine-tuned on sums", title)
    assert unit == "character"


def test_the_stepper_shows_the_tokens_around_the_start_of_a_completion(prepared):
    pairs = [("p" * 30 + f"{i % 10}=", "!" * 9) for i in range(20)]
    write(Path("long.jsonl"), pairs)
    train.main(["--dataset=long.jsonl", "--out_dir=long", *RUN, "--block_size=40"])
    record = step.training_step(*step.load(Path("long"), -1))
    targets = record.views[0].step.static["targets"]
    assert targets.tolist()[0][:7] == [-100] * 7 and (targets[0, 8:] != -100).all() and targets.shape == (1, 16)
    assert "tokens 23 to 38, around the start of its completion" in record.notes[-1]


# ---- memory ----

def test_recompute_is_an_attribute_of_the_model_and_keeps_the_bits(monkeypatch):
    models, make = [], train.train
    monkeypatch.setattr(train, "train", lambda run: models.append(run.model) or make(run))
    assert same_bits(tune("--recompute", out_dir="again"), saved("new"))
    assert [model.recompute for model in models] == [True]


def test_the_page_of_a_step_with_recompute_shows_the_ops_of_the_blocks():
    model, *rest = step.load(Path("new"), -1)
    model.recompute = True
    record = step.training_step(model, *rest)
    assert "attention" in {view.op for view in record.views} and model.recompute


def test_the_estimate_with_recompute_has_the_inputs_of_all_blocks_and_the_rest_of_one():
    gpt2 = GPTConfig(block_size=256, vocab_size=50257, n_layer=12, n_head=12, n_embd=768)
    whole, less = (activation_bytes(gpt2, 1, 4, recompute) for recompute in (False, True))
    inputs, one = 12 * 256 * 768 * 4, (whole - 7 * 256 * 768 * 4) / 12
    assert less == pytest.approx(inputs + one + 7 * 256 * 768 * 4)


def test_a_lack_of_memory_names_only_options_that_a_trained_model_leaves_open(monkeypatch, capsys):
    monkeypatch.setattr(failures, "memory", lambda: 1000)
    assert re.search(r"out of memory: .*: lower (--batch_size|--gradient_acc).*, or use --recompute\n",
                     refused(capsys, "--init_from=old", "--batch_size=100"))
    assert "--recompute" not in failures.use_less(Options(recompute=True, tokenizer="model"))


def test_a_checkpoint_is_saved_without_a_copy_of_the_weights_and_moments(tmp_path):
    model = GPT(GPTConfig(block_size=8, vocab_size=500, n_layer=4, n_head=2, n_embd=128))
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    checkpoint.save(tmp_path, model, optimizer, 0)              # makes the moments
    tracemalloc.start()
    checkpoint.save(tmp_path, model, optimizer, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * sum(p.data.nbytes for p in model.parameters())
    tensors = safetensors.numpy.load((tmp_path / "checkpoints" / "step_000001.safetensors").read_bytes())
    assert all(np.array_equal(tensors[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("micro_steps", [1, 2, 3, 7, 8, 9])
def test_the_gradients_of_micro_batches_take_the_memory_of_the_nodes_of_their_tree(micro_steps):
    p = mg.Tensor(np.zeros(1000), requires_grad=True)
    sums = GradientSum([p], micro_steps, World())
    for micro in range(micro_steps):
        sums.backward(micro, (p * p).sum())
    sums.total()
    _, gradients, _ = weight_bytes(1000, 1000, 8, micro_steps)
    assert gradients == (1 + len(sums.free)) * 8 * 1000         # the newest, and the flat arrays
