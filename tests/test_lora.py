"""Low-rank adapters: what they compute, their gradients, and their files, which are PEFT's."""
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
from minigrad import Tensor
from gpt import lora
from gpt.model import GPT, GPTConfig

CONFIG = GPTConfig(block_size=8, vocab_size=23, n_layer=2, n_head=2, n_embd=16)
TOKENS = np.random.default_rng(0).integers(0, 23, (3, 8))
TARGETS = ["c_attn", "c_proj"]


def adapted(rank=3, alpha=6.0, targets=TARGETS, seed=5, dtype="float64", config=CONFIG, trained=True):
    """A GPT with adapters; trained: lora_B is not 0, as after some steps."""
    model = GPT(config, seed=1, dtype=dtype)
    lora.add_adapters(model, rank, alpha, targets, seed)
    if trained:
        rng = np.random.default_rng(7)
        for name, p in model.named_parameters():
            if name.endswith("lora_B"):
                p.data = rng.normal(0.0, 0.3, size=p.shape)
    return model


def logits(model):
    with mg.no_grad():
        return model(TOKENS)[0].numpy()


def names(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def close(a, b, tolerance):
    return np.abs(a - b).max() <= tolerance * np.abs(b).max()


# ---- adapters ----

@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "c_proj", "c_fc"]])
def test_new_adapters_change_no_bit_of_the_logits(dtype, targets):
    assert np.array_equal(logits(adapted(targets=targets, dtype=dtype, trained=False)),
                          logits(GPT(CONFIG, seed=1, dtype=dtype)))


def test_rank_0_leaves_the_model_as_it_is():
    model = GPT(CONFIG)
    lora.add_adapters(model, 0, 16.0, ["c_attn"])
    assert model.adapters is None and names(model) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("targets, layers", [
    (["c_attn"], ["attn.c_attn"]), (["c_proj"], ["attn.c_proj", "mlp.c_proj"]), (["attn.c_proj"], ["attn.c_proj"]),
    (["mlp.c_fc", "c_fc"], ["mlp.c_fc"])])
def test_a_target_is_a_layer_or_the_end_of_its_name_after_a_dot(targets, layers):
    expected = [f"h.{i}.{layer}.{which}" for i in (0, 1) for layer in layers for which in ("lora_A", "lora_B")]
    assert names(adapted(targets=targets)) == expected


def test_a_target_may_be_one_layer_alone():
    model = adapted(targets=["h.1.mlp.c_fc", "transformer.h.0.attn.c_attn"])
    assert names(model) == ["h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.lora_B", "h.1.mlp.c_fc.lora_A",
                            "h.1.mlp.c_fc.lora_B"]
    assert {name: p.shape for name, p in model.named_parameters() if p.requires_grad} == model.adapters.shapes(CONFIG)


@pytest.mark.parametrize("target", ["c_atn", "attn", "proj", "wte", "lm_head", "h.2.mlp.c_fc", "ln_1", ""])
def test_an_unknown_target_is_refused_with_those_there_are_and_changes_nothing(target):
    model = GPT(CONFIG)
    with pytest.raises(ValueError) as raised:
        lora.add_adapters(model, 3, 6.0, ["c_attn", target])
    assert f"no layer of this GPT is called {target!r}" in str(raised.value)
    assert "attn.c_attn, attn.c_proj, c_attn, c_fc, c_proj, mlp.c_fc, mlp.c_proj, or one layer" in str(raised.value)
    assert model.adapters is None and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rank, alpha, targets, words", [
    (-1, 1.0, TARGETS, "rank"), (2.0, 1.0, TARGETS, "rank"), (True, 1.0, TARGETS, "rank"), (2, 0.0, TARGETS, "alpha"),
    (2, float("nan"), TARGETS, "alpha"), (2, "4", TARGETS, "alpha"), (2, 4.0, [], "targets")])
def test_a_rank_alpha_or_targets_out_of_range_are_refused(rank, alpha, targets, words):
    with pytest.raises(ValueError, match=words):
        lora.add_adapters(GPT(CONFIG), rank, alpha, targets)


def test_a_model_with_adapters_gets_no_others():
    with pytest.raises(ValueError, match="has adapters already"):
        lora.add_adapters(adapted(), 2, 4.0, ["c_fc"])


def test_initial_adapters_depend_on_the_seed_and_are_drawn_as_in_peft():
    first, again, other = adapted(trained=False), adapted(trained=False), adapted(trained=False, seed=6)
    A, B = first.h[0].attn.c_attn.lora_A.data, first.h[0].attn.c_attn.lora_B.data
    assert np.array_equal(A, again.h[0].attn.c_attn.lora_A.data)
    assert not np.array_equal(A, other.h[0].attn.c_attn.lora_A.data)
    assert not B.any() and A.shape == (16, 3) and B.shape == (3, 48)
    everything = np.concatenate([p.data.ravel() for name, p in adapted(rank=200, trained=False).named_parameters()
                                 if name.endswith("attn.c_attn.lora_A")])
    assert np.abs(everything).max() <= 1 / np.sqrt(16)          # uniform in +-1 / sqrt(n_in)
    assert abs(everything.std() * np.sqrt(3 * 16) - 1.0) < 0.02 and abs(everything.mean()) < 0.01


# ---- gradients ----

def test_gradients_of_the_adapters_are_the_closed_forms():
    """y = x W + b + (x A) B s   ->   dA = x^T (dy B^T) s, dB = (x A)^T dy s, dx = dy (W + A B s)^T."""
    layer = adapted().h[0].attn.c_attn
    rng = np.random.default_rng(2)
    x, dy = Tensor(rng.normal(size=(5, 16)), requires_grad=True), rng.normal(size=(5, 48))
    layer(x).backward(dy)
    A, B, W, s = layer.lora_A.data, layer.lora_B.data, layer.weight.data, 6.0 / 3
    assert close(layer.lora_A.grad, x.data.T @ (dy @ B.T) * s, 1e-13)
    assert close(layer.lora_B.grad, (x.data @ A).T @ dy * s, 1e-13)
    assert close(x.grad, dy @ (W + A @ B * s).T, 1e-13)


def test_gradients_of_the_adapters_in_a_gpt_equal_finite_differences():
    model = adapted(rank=2, targets=["c_attn", "c_proj", "c_fc"])
    targets = np.roll(TOKENS, -1, axis=1)
    model.loss(TOKENS, targets).backward()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        direction = np.random.default_rng(len(name)).normal(size=p.shape)
        start, sides = p.data.copy(), []
        for h in (1e-6, -1e-6):
            p.data = start + h * direction
            sides.append(model.loss(TOKENS, targets).item())
        p.data = start
        assert abs((sides[0] - sides[1]) / 2e-6 - (p.grad * direction).sum()) < 1e-7, name


def test_frozen_weights_have_neither_gradients_nor_moments_and_stay_as_they_are():
    model = adapted()
    before = model.state_dict()
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    assert {p.name for p in optimizer.params} == set(names(model))
    for _ in range(3):
        model.loss(TOKENS, TOKENS).backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.state_dict().items():
        assert np.array_equal(value, before[name]) != name.endswith(("lora_A", "lora_B")), name


def test_adapters_have_the_same_gradients_with_recomputation():
    gradients = []
    for recompute in (False, True):
        model = adapted(dtype="float32")
        model.recompute = recompute
        model.loss(TOKENS, TOKENS).backward()
        gradients.append({p.name: p.grad for p in model.parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == set(names(model))
    assert all(np.array_equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


# ---- merged ----

@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_merged_model_gives_the_logits_of_the_one_with_adapters(dtype, tolerance, bias):
    config = GPTConfig(**{**vars(CONFIG), "bias": bias})
    model, whole = adapted(dtype=dtype, config=config), GPT(config, dtype=dtype)
    whole.load_state_dict(lora.merged(model))
    assert close(logits(whole), logits(model), tolerance)
    assert not close(logits(whole), logits(GPT(config, seed=1, dtype=dtype)), 0.01)


def test_merging_a_model_without_adapters_gives_its_weights():
    model = GPT(CONFIG)
    assert all(np.array_equal(x, model.state_dict()[name]) for name, x in lora.merged(model).items())


# ---- files ----

def test_saved_adapters_are_loaded_bit_for_bit_into_a_model_with_and_without_adapters(tmp_path):
    model = adapted()
    lora.save_adapters(tmp_path, model, "gpt2/")
    for other in (GPT(CONFIG, seed=1, dtype="float64"), adapted(trained=False)):
        lora.load_adapters(tmp_path, other)
        assert np.array_equal(logits(other), logits(model)) and names(other) == names(model)


def test_the_files_have_pefts_names_and_orientation(tmp_path):
    model = adapted(targets=["c_attn"])
    lora.save_adapters(tmp_path, model, "gpt2/")
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert {name: x.shape for name, x in tensors.items()} == {
        f"base_model.model.transformer.h.{i}.attn.c_attn.lora_{which}.weight": shape
        for i in (0, 1) for which, shape in (("A", (3, 16)), ("B", (48, 3)))}
    assert np.array_equal(tensors["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"],
                          model.h[1].attn.c_attn.lora_A.data.T)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM" and config["fan_in_fan_out"] is True
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 6, ["c_attn"])
    assert config["base_model_name_or_path"] == "gpt2/"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("damage, words", [
    (lambda f: shutil.rmtree(f), "adapter_config.json cannot be read"),
    (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 50), "adapter_model.safetensors is damaged"),
    (lambda f: safetensors.numpy.save_file({"a": np.zeros(2, np.int64)}, f / "adapter_model.safetensors"), "dtype I64"),
    (lambda f: edit(f, peft_type="IA3"), "peft_type is 'IA3'"),
    (lambda f: edit(f, use_dora=True), "use_dora is True, which is not supported"),
    (lambda f: edit(f, rank_pattern={"c_attn": 4}), "rank_pattern is"),
    (lambda f: edit(f, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    (lambda f: edit(f, arrow_config={"a": 1}), "arrow_config is"),
    (lambda f: edit(f, r=4), "has shape (3, 16), expected (4, 16)"),
    (lambda f: edit(f, r="3"), "rank of adapters must be a whole number"),
    (lambda f: edit(f, target_modules="c_.*"), "target_modules must be a list"),
    (lambda f: edit(f, target_modules=["q_proj"]), "is of another model: no layer of this GPT is called 'q_proj'"),
    (lambda f: edit(f, target_modules=["c_attn"]), "unexpected: base_model.model.transformer.h.0.attn.c_proj"),
], ids=range(15))
def test_a_damaged_or_unfit_folder_of_adapters_is_refused_in_one_line_and_changes_nothing(tmp_path, damage, words):
    folder = tmp_path / "adapters"
    lora.save_adapters(folder, adapted())
    damage(folder)
    model = GPT(CONFIG, dtype="float64")
    with pytest.raises(ValueError) as raised:
        lora.load_adapters(folder, model)
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert model.adapters is None and all(p.requires_grad for p in model.parameters())


def test_adapters_of_another_size_of_model_or_other_adapters_than_the_models_are_refused(tmp_path):
    lora.save_adapters(tmp_path, adapted())
    with pytest.raises(ValueError, match="has rank 3, alpha 6 on c_attn, c_proj, and the model rank 2"):
        lora.load_adapters(tmp_path, adapted(rank=2))
    wider = GPTConfig(**{**vars(CONFIG), "n_embd": 32})
    with pytest.raises(ValueError, match=r"lora_A.weight has shape \(3, 16\), expected \(3, 32\)"):
        lora.load_adapters(tmp_path, GPT(wider))


# ---- beside PEFT ----

future_warnings = pytest.mark.filterwarnings("ignore::FutureWarning")      # of transformers, by peft


@pytest.fixture(scope="module")
def peft_model(tmp_path_factory):
    """A folder with a GPT-2, and transformers' model of it with trained adapters by PEFT, also in the folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    GPT(CONFIG, seed=1).save_pretrained(folder)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained(folder), peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=TARGETS, task_type="CAUSAL_LM", fan_in_fan_out=True)).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder / "adapters")
    return folder, model


@future_warnings
def test_logits_and_gradients_of_adapters_by_peft_are_those_of_peft(peft_model):
    import torch
    folder, theirs = peft_model
    model = GPT.from_pretrained(folder)
    lora.load_adapters(folder / "adapters", model)
    expected = theirs(torch.tensor(TOKENS), labels=torch.tensor(TOKENS))
    expected.loss.backward()
    assert close(logits(model), expected.logits.detach().numpy(), 1e-5)
    model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    gradients = {name.replace(".default.weight", "").removeprefix("base_model.model.transformer."): p.grad.numpy().T
                 for name, p in theirs.named_parameters() if p.grad is not None}
    assert gradients.keys() == set(names(model))
    for name, p in model.named_parameters():
        assert not p.requires_grad or close(p.grad, gradients[name], 1e-4), name


@future_warnings
def test_peft_reads_saved_adapters_and_gives_the_same_logits(peft_model, tmp_path):
    import peft
    import torch
    import transformers
    folder, _ = peft_model
    model = adapted(dtype="float32")
    lora.save_adapters(tmp_path, model, str(folder))
    theirs = peft.PeftModel.from_pretrained(transformers.GPT2LMHeadModel.from_pretrained(folder), tmp_path).eval()
    with torch.no_grad():
        assert close(logits(model), theirs(torch.tensor(TOKENS)).logits.numpy(), 1e-5)
