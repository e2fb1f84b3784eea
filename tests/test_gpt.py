"""The language model: GPT-2's architecture, names and initial weights; causality; sampling; Hugging Face's files.

Its gradients are compared with finite differences in test_model_gradients.py."""
import itertools
import json
import math

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings, strategies as st

import fake_device  # noqa: F401  (makes the device "fake" known)
import minigrad as mg
from gpt.decoding import beam_search, next_tokens, penalized, probabilities
from gpt.model import GPT, GPTConfig, KVCache
from minigrad import functional as F, gradcheck, nn, optim

TINY = dict(block_size=6, vocab_size=11, n_layer=2, n_head=2, n_embd=8)


def tiny_gpt(seed=0, dtype="float32", **config):
    """Weights large enough for logits that differ clearly."""
    model = GPT(GPTConfig(**{**TINY, **config}), seed=seed, dtype=dtype)
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data = p.data + rng.normal(0.0, 0.3, size=p.shape).astype(dtype)
    return model


def tokens(*shape, seed=0, vocab_size=TINY["vocab_size"]):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


# ---- the configuration ----

@pytest.mark.parametrize("wrong, message", [
    (dict(n_embd=130, n_head=4), "n_embd 130 must be divisible by n_head 4; nearest: 128 or 132"),
    (dict(n_embd=3, n_head=4), "nearest: 4"),
    (dict(n_layer=0), "n_layer must be a whole number of at least 1, got 0"),
    (dict(block_size=-1), "block_size"),
    (dict(vocab_size=2.5), "vocab_size"),
    (dict(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    (dict(dropout=-0.1), "dropout"),
])
def test_an_impossible_shape_is_rejected(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**TINY, **wrong})


# ---- the architecture ----

def test_parameters_have_the_names_and_shapes_of_gpt2():
    T, V, C = TINY["block_size"], TINY["vocab_size"], TINY["n_embd"]
    block = {"ln_1.weight": (C,), "ln_1.bias": (C,), "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
             "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,), "ln_2.weight": (C,), "ln_2.bias": (C,),
             "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,), "mlp.c_proj.weight": (4 * C, C),
             "mlp.c_proj.bias": (C,)}
    blocks = {f"h.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    expected = {"wte.weight": (V, C), "wpe.weight": (T, C), **blocks, "ln_f.weight": (C,), "ln_f.bias": (C,)}
    assert {name: p.shape for name, p in GPT(GPTConfig(**TINY)).state_dict().items()} == expected
    without = {name: shape for name, shape in expected.items() if not name.endswith(".bias")}
    assert {name: p.shape for name, p in GPT(GPTConfig(**TINY, bias=False)).state_dict().items()} == without
    untied = {**expected, "lm_head.weight": (V, C)}
    assert {name: p.shape for name, p in GPT(GPTConfig(**TINY, tied=False)).state_dict().items()} == untied


def test_the_number_of_parameters_follows_the_formula_of_gpt2():
    """The formula gives 124,439,808 for GPT-2 small: 12 layers, 768 wide, 1024 positions, 50257 tokens."""
    T, V, L, C = 32, 100, 3, 48
    model = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=4, n_embd=C))
    formula = lambda T, V, L, C: V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
    assert sum(p.size for p in model.parameters()) == formula(T, V, L, C)
    assert formula(1024, 50257, 12, 768) == 124_439_808


def gpt2_in_numpy(w, idx, n_layer, n_head):
    """GPT-2 in NumPy alone, one window at a time: idx (B, T) -> logits (B, T, V)."""

    def norm(x, name):
        xhat = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return xhat * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    logits = []
    for row in idx:
        T = len(row)
        x = w["wte.weight"][row] + w["wpe.weight"][:T]
        for block in (f"h.{i}" for i in range(n_layer)):
            qkv = linear(norm(x, block + ".ln_1"), block + ".attn.c_attn")
            heads = []
            for q, k, v in zip(*(np.split(part, n_head, axis=-1) for part in np.split(qkv, 3, axis=-1))):
                scores = np.where(np.tri(T, dtype=bool), q @ k.T / math.sqrt(q.shape[-1]), -np.inf)
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                heads.append(p / p.sum(axis=-1, keepdims=True) @ v)
            x = x + linear(np.concatenate(heads, axis=-1), block + ".attn.c_proj")
            h = linear(norm(x, block + ".ln_2"), block + ".mlp.c_fc")
            gelu = 0.5 * h * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h ** 3)))
            x = x + linear(gelu, block + ".mlp.c_proj")
        logits.append(norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T)
    return np.stack(logits)


@pytest.mark.parametrize("tied", [True, False])
def test_the_forward_pass_equals_gpt2_in_numpy(tied):
    model, idx = tiny_gpt(dtype="float64", tied=tied), tokens(3, 5)
    expected = gpt2_in_numpy(model.state_dict(), idx, n_layer=2, n_head=2)
    assert np.allclose(model(idx)[0].numpy(), expected, rtol=0.0, atol=1e-12)


def test_an_untied_head_has_its_own_gradient():
    """Gradients equal finite differences; a token that is not in the input has a gradient in the head alone."""
    shape = dict(block_size=4, vocab_size=5, n_layer=1, n_head=2, n_embd=4, tied=False)
    model, x, y = tiny_gpt(dtype="float64", **shape), np.array([[0, 1, 2, 1]]), np.array([[1, 4, 1, -100]])
    report = gradcheck.check_model(lambda: model.loss(x, y), model.named_parameters())
    assert report.ok and {row.what for row in report.rows} == set(model.state_dict())
    model.loss(x, y).backward()
    assert (model.wte.weight.grad[4] == 0.0).all() and (model.lm_head.weight.grad[4] != 0.0).all()


def test_tied_and_untied_models_start_with_the_same_embeddings_and_blocks():
    tied, untied = GPT(GPTConfig(**TINY)).state_dict(), GPT(GPTConfig(**TINY, tied=False)).state_dict()
    assert all(np.array_equal(x, untied[name]) for name, x in tied.items())
    assert untied["lm_head.weight"].std() == pytest.approx(0.02, rel=0.2)


def test_initial_weights_depend_on_the_seed_alone():
    shape = GPTConfig(block_size=32, vocab_size=50, n_layer=2, n_head=2, n_embd=64)
    one, same, other = (GPT(shape, seed=seed).state_dict() for seed in (3, 3, 4))
    double = GPT(shape, seed=3, dtype="float64").state_dict()
    for name, x in one.items():
        assert x.dtype == np.float32 and np.array_equal(x, same[name])
        assert np.array_equal(x, double[name].astype("float32"))
        if name.endswith("weight") and "ln_" not in name:
            std = 0.02 / math.sqrt(2 * 2) if "c_proj" in name else 0.02
            assert x.std() == pytest.approx(std, rel=0.05) and abs(x.mean()) < std / 10
            assert not np.array_equal(x, other[name])
        else:
            assert (x == (1.0 if name.endswith("weight") else 0.0)).all()


@pytest.mark.parametrize("config", [{}, {"bias": False}, {"tied": False}])
def test_the_initial_loss_is_about_ln_v(config):
    model = GPT(GPTConfig(block_size=64, vocab_size=65, n_layer=4, n_head=4, n_embd=128, **config), seed=1)
    x, y = tokens(2, 8, 64, vocab_size=65)
    assert model.loss(x, y).item() == pytest.approx(math.log(65), rel=0.02)


def test_it_overfits_one_batch():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=32))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    x, y = tokens(4, 8), tokens(4, 8, seed=1)
    for _ in range(150):
        loss = model.loss(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.01


def test_logits_do_not_depend_on_later_tokens_in_any_bit():
    model, idx = tiny_gpt(), tokens(2, 6)
    before = model(idx)[0].numpy()
    for t in range(6):
        changed = idx.copy()
        changed[:, t] = (changed[:, t] + 1) % TINY["vocab_size"]
        after = model(changed)[0].numpy()
        assert np.array_equal(before[:, :t], after[:, :t])
        assert (before[:, t:] != after[:, t:]).any(axis=-1).all()       # and those of later positions do depend on it


def test_rows_of_a_batch_are_independent():
    model, idx = tiny_gpt(dtype="float64"), tokens(3, 6)
    assert np.allclose(model(idx)[0].numpy()[1:2], model(idx[1:2])[0].numpy(), rtol=0.0, atol=1e-13)


# ---- the loss ----

def test_without_targets_there_are_logits_and_no_loss():
    model, idx, targets = tiny_gpt(), tokens(2, 5), tokens(2, 5, seed=1)
    logits, none = model(idx)
    same, loss = model(idx, targets)
    assert none is None and logits.shape == (2, 5, 11) and np.array_equal(logits.numpy(), same.numpy())
    assert loss.shape == () and loss.item() == model.loss(idx, targets).item()


def test_the_loss_is_the_mean_over_the_counted_targets():
    model, idx, targets = tiny_gpt(dtype="float64"), tokens(2, 5), tokens(2, 5, seed=1)
    targets[0, 1:4] = -100
    z = model(idx)[0].numpy()
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    own = [-math.log(p[b, t, targets[b, t]]) for b in range(2) for t in range(5) if targets[b, t] != -100]
    assert model.loss(idx, targets).item() == pytest.approx(np.mean(own), abs=1e-12)
    assert model.loss(idx, np.full_like(targets, -100)).item() == 0.0


def test_dropout_depends_on_its_key_and_is_off_in_eval_mode():
    model, idx, targets = tiny_gpt(dropout=0.3), tokens(2, 5), tokens(2, 5, seed=1)
    losses = [model.loss(idx, targets, mg.random.key(0, step)).item() for step in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="key"):
        model.loss(idx, targets)
    model.eval()
    assert model.loss(idx, targets).item() == tiny_gpt(dropout=0.0).loss(idx, targets).item()


def test_every_dropout_has_its_own_random_stream():
    with mg.plain():                                # the textbook's ops save the masks
        loss = tiny_gpt(dropout=0.5).loss(tokens(2, 6), tokens(2, 6, seed=1), mg.random.key(0))
        kept = [step.saved["keep"] for step in loss.backward_steps() if step.saved.get("keep") is not None]
    assert len(kept) == 1 + 3 * TINY["n_layer"]     # embedding; each block's attention, its output and the MLP's
    assert len({mask.tobytes()[:64] for mask in kept}) == len(kept)


@pytest.mark.parametrize("idx, targets, error, message", [
    (np.zeros((1, 7), int), None, ValueError, r"block_size 6, got \(1, 7\)"),
    (np.zeros(5, int), None, ValueError, r"\(B, T\)"),
    (np.zeros((1, 0), int), None, ValueError, r"\(B, T\)"),
    (np.array([[1, 11]]), None, IndexError, "token 11 is out of range"),
    (np.array([[1, -1]]), None, IndexError, "token -1 is out of range"),
    (np.array([[1.0, 2.0]]), None, TypeError, "integer"),
    (np.array([[1, 2]]), np.array([[1, 11]]), IndexError, "target 11 is out of range"),
    (np.array([[1, 2]]), np.array([[1]]), ValueError, r"targets \(1, 1\)"),
])
def test_bad_tokens_are_rejected_and_named(idx, targets, error, message):
    with pytest.raises(error, match=message):
        tiny_gpt()(idx, targets)


# ---- sampling ----

def test_greedy_continuation_takes_the_most_likely_token_given_the_last_block_size_tokens():
    model, idx = tiny_gpt(), tokens(2, 4)
    expected = idx
    for _ in range(7):                                      # beyond block_size 6
        logits, _ = model(expected[:, -6:])
        expected = np.concatenate([expected, logits.numpy()[:, -1:].argmax(axis=-1)], axis=1)
    assert np.array_equal(model.generate(idx, 7, temperature=0.0), expected)
    assert np.array_equal(model.generate(idx, 7, top_k=1), expected)
    assert np.array_equal(model.generate(idx, 7, top_p=1e-9), expected)


def test_a_continuation_depends_on_its_seed_alone():
    model, idx = tiny_gpt(dropout=0.5), tokens(3, 4)
    one, same, other = (model.generate(idx, 20, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (3, 24) and np.array_equal(one[:, :4], idx)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(model.generate(idx, 9), one[:, :13])          # a longer one begins like a shorter one
    assert model.training and all(p.grad is None for p in model.parameters())


def test_stream_yields_the_tokens_of_generate_and_may_be_abandoned():
    model, idx = tiny_gpt(dropout=0.5), tokens(3, 4)
    expected = model.generate(idx, 5, seed=2)[:, 4:]
    assert np.array_equal(np.stack(list(model.stream(idx, 5, seed=2)), axis=1), expected)
    stream = model.stream(idx, 5, seed=2)
    assert np.array_equal(next(stream), expected[:, 0])
    assert model.training and model.loss(idx, idx, mg.random.key(0)).requires_grad  # training mode between two tokens


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"beam": 2}])
@pytest.mark.parametrize("idx, error, message", [
    ([1, 2, 3], ValueError, r"shape \(B, T\)"), ([[]], ValueError, r"got \(1, 0\)"),
    ([[1, 11]], IndexError, "token 11 is out of range"), ([[1.0]], TypeError, "integer"),
])
def test_a_prompt_of_wrong_shape_or_tokens_is_rejected(idx, error, message, options):
    with pytest.raises(error, match=message):
        tiny_gpt().generate(idx, 2, **options)


def test_no_new_tokens_leave_the_prompt_unchanged():
    model, idx = tiny_gpt(), tokens(3, 4)
    assert np.array_equal(model.generate(idx, 0), idx) and np.array_equal(model.generate(idx, 0, beam=2), idx)


# ---- the cache of keys and values ----

@given(T=st.integers(1, 9), n=st.integers(1, 9), rows=st.integers(1, 3), tied=st.booleans(), bias=st.booleans(),
       options=st.sampled_from([dict(temperature=0.0), dict(), dict(top_k=3, repetition_penalty=1.5), dict(beam=3)]))
@settings(max_examples=40, deadline=None)
def test_generate_with_and_without_the_cache_gives_the_same_tokens(T, n, rows, tied, bias, options):
    """Up to block_size 6, and beyond, where all tokens are processed again."""
    model, idx = tiny_gpt(tied=tied, bias=bias), tokens(rows, T, seed=T)
    assert np.array_equal(model.generate(idx, n, **options), model.generate(idx, n, use_cache=False, **options))


def test_logits_with_and_without_the_cache_are_equal_up_to_rounding():
    model, idx, cache = tiny_gpt(dtype="float64"), tokens(2, 8), KVCache()
    for T in (2, 3, 5, 6, 7, 8):
        assert np.allclose(model.next_logits(idx[:, :T], cache), model.next_logits(idx[:, :T]), rtol=0.0, atol=1e-12)


def replaced(model):
    """A model with the same weights, in new layers for some of its projections, as for LoRA."""
    for block in model.h:
        for part, name in ((block.attn, "c_attn"), (block.attn, "c_proj"), (block.mlp, "c_fc")):
            old = getattr(part, name)
            new = nn.Linear(*old.weight.shape, dtype="float64")
            new.load_state_dict(old.state_dict())
            setattr(part, name, new)
    return model


def with_one_block_used_twice(model):
    model.h = [model.h[0], model.h[0]]
    return model


def with_blocks_of_another_model(model):
    model.h = [*tiny_gpt(dtype="float64").h, *model.h]
    return model


@pytest.mark.parametrize("change", [replaced, with_one_block_used_twice, with_blocks_of_another_model])
def test_the_cache_gives_the_same_tokens_after_parts_of_the_model_were_exchanged(change):
    model = tiny_gpt(dtype="float64")
    for p in model.parameters():
        p.data = p.data * 8.0
    model = change(model)
    logits = [model.next_logits(tokens(2, 3)), model.next_logits(tokens(2, 3), KVCache())]
    np.testing.assert_allclose(*logits, rtol=0.0, atol=1e-9)
    for options in ({"temperature": 0.0}, {"seed": 3}, {"beam": 2}):
        cached, plain = (model.generate(tokens(2, 3), 4, use_cache=c, **options) for c in (True, False))
        np.testing.assert_array_equal(cached, plain)


def test_the_cache_is_right_after_a_forward_that_was_interrupted():
    model, cache, idx = tiny_gpt(dtype="float64"), KVCache(), tokens(2, 8)
    model.next_logits(idx[:, :3], cache)
    mlp, model.h[0].mlp = model.h[0].mlp, None
    with pytest.raises(TypeError):
        model.next_logits(idx[:, :6], cache)
    model.h[0].mlp = mlp
    cached, plain = model.next_logits(idx[:, :6], cache), model.next_logits(idx[:, :6])
    np.testing.assert_allclose(cached, plain, rtol=0.0, atol=1e-12)


def test_with_the_cache_each_token_is_processed_once(monkeypatch):
    model, idx, processed = tiny_gpt(), tokens(2, 3), []
    embed = model.wte.forward
    monkeypatch.setattr(model.wte, "forward", lambda idx: processed.append(idx.shape) or embed(idx))
    model.generate(idx, 4)
    assert processed == [(2, 3), (2, 1), (2, 1), (2, 1)]
    processed.clear()
    model.generate(idx, 6)
    assert processed[4:] == [(2, 6), (2, 6)]                     # 7 and 8 tokens do not fit: the last 6 again


@pytest.mark.parametrize("options", [dict(), dict(repetition_penalty=1.3, top_k=3), dict(beam=3)])
def test_generate_on_another_device_gives_the_same_tokens(options):
    model, idx = tiny_gpt(), tokens(2, 3)
    on_device = GPT(model.config, device="fake")
    on_device.load_state_dict(model.state_dict())
    assert np.array_equal(on_device.generate(idx, 6, **options), model.generate(idx, 6, **options))


def test_a_full_cache_rejects_more_tokens():
    cache = KVCache()
    model = tiny_gpt()
    with mg.no_grad():
        model.hidden(tokens(1, 5), cache=cache)
        with pytest.raises(ValueError, match="got .1, 2. after 5 in the cache"):
            model.hidden(tokens(1, 2), cache=cache)


@pytest.mark.parametrize("change, rows", [
    (lambda model: model, 1), (lambda model: model, 3),
    (lambda model: setattr(model, "h", model.h[:1]), 2),
    (lambda model: setattr(model, "h", [*model.h, model.h[0]]), 2),
    (lambda model: setattr(model.h[0].attn, "n_head", 1), 2),
])
def test_a_cache_of_another_batch_or_model_is_rejected(change, rows):
    model, cache = tiny_gpt(), KVCache()
    model.next_logits(tokens(2, 3), cache)
    change(model)
    with pytest.raises(ValueError, match="use a new KVCache for another"):
        model.next_logits(tokens(rows, 4), cache)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sampling_is_without_any_dropout_and_leaves_every_mode_as_it_was(dropout):
    class Noisy(nn.Linear):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, mg.random.key(0)) if self.training else super().forward(x)

    model = tiny_gpt(dropout=dropout)
    expected = model.next_logits(tokens(2, 3))
    noisy = Noisy(*model.h[0].mlp.c_fc.weight.shape)
    noisy.load_state_dict(model.h[0].mlp.c_fc.state_dict())
    model.h[0].mlp.c_fc = noisy
    model.h[1].eval()
    np.testing.assert_array_equal(model.next_logits(tokens(2, 3)), expected)
    assert {path for path, m in model.named_modules() if not m.training} == {
        path for path, _ in model.named_modules() if f"{path}.".startswith("h.1.")}
    model.eval()
    noisy.training = True
    np.testing.assert_array_equal(model.next_logits(tokens(2, 3)), expected)


@pytest.mark.parametrize("idx", [
    np.ma.array([[1, 2]], mask=[[False, True]]), ([1, 2] for _ in range(1)), np.array([["a"]]), np.array([[1, None]]),
])
def test_tokens_that_are_no_integers_are_refused(idx):
    with pytest.raises(TypeError, match="masked array|holds numbers"):
        tiny_gpt().generate(idx, 2)


def test_a_cache_outside_no_grad_is_rejected():
    with pytest.raises(ValueError, match="no gradients: use it inside `with mg.no_grad"):
        tiny_gpt().hidden(tokens(1, 5), cache=KVCache())


# ---- probabilities of the next token ----

def brute_force(z, temperature, top_k, top_p):
    """The definition, token by token, in plain Python."""
    ranked = sorted(range(len(z)), key=lambda i: (-z[i], i))
    weight = {i: math.exp((z[i] - max(z)) / temperature) for i in ranked}
    kept = ranked[:top_k]
    total, reached, nucleus = sum(weight[i] for i in kept), 0.0, []
    for i in kept:
        if top_p is not None and reached >= top_p * total:
            break
        nucleus.append(i)
        reached += weight[i]
    return [weight[i] / reached if i in nucleus else 0.0 for i in range(len(z))]


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.sampled_from([0.5, 1.0, 2.0]),
       st.none() | st.integers(1, 12), st.none() | st.sampled_from([0.1, 0.33, 0.77, 0.95, 1.0]))
@settings(max_examples=200, deadline=None)
def test_top_k_and_top_p_equal_brute_force(z, temperature, top_k, top_p):
    p = probabilities(np.array([z], dtype=np.float32), temperature, top_k, top_p)
    assert np.allclose(p[0], brute_force(z, temperature, top_k, top_p), rtol=1e-12, atol=1e-12)
    assert p.sum() == pytest.approx(1.0)


def test_top_p_keeps_the_smallest_set_of_tokens_that_sums_to_it():
    z = np.log([[0.4, 0.3, 0.2, 0.1]])
    assert np.allclose(probabilities(z, top_p=0.75), [[4 / 9, 3 / 9, 2 / 9, 0.0]])
    assert np.allclose(probabilities(z, top_k=2), [[4 / 7, 3 / 7, 0.0, 0.0]])
    assert np.array_equal(probabilities(np.zeros((1, 4)), top_p=0.5), [[0.5, 0.5, 0.0, 0.0]])   # 0.5 is enough


def test_a_temperature_near_0_is_greedy_without_overflow():
    z = np.array([[1e4, 1e4 - 1, -1e4]], dtype=np.float32)
    for temperature in (0.0, 1e-3, 1e-308):
        assert np.array_equal(probabilities(z, temperature), [[1.0, 0.0, 0.0]])


def test_frequencies_of_samples_agree_with_their_probabilities():
    """Within 4 standard errors of 20,000 samples; a token of probability 0 never."""
    z = np.tile(np.log([0.5, 0.1, 0.3, 0.1]), (20_000, 1))
    drawn = np.bincount(next_tokens(z, mg.random.key(0), top_k=3), minlength=4) / 20_000
    expected = np.array([5 / 9, 1 / 9, 3 / 9, 0.0])
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected * (1 - expected) / 20_000)).all()


@pytest.mark.parametrize("wrong, message", [
    (dict(temperature=-1.0), "temperature"), (dict(top_k=0), "top_k"), (dict(top_p=0.0), "top_p"),
    (dict(top_p=1.5), "top_p"), (dict(repetition_penalty=0.0), "repetition_penalty must be positive"),
    (dict(temperature=math.nan), "temperature"), (dict(repetition_penalty=math.nan), "repetition_penalty"),
    (dict(beam=0), "beam must be at least 1"),
])
def test_arguments_of_generate_out_of_range_are_rejected(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny_gpt().generate(tokens(1, 2), 1, **wrong)


@pytest.mark.parametrize("penalty", [1e-308, 1e308])
def test_a_repetition_penalty_that_makes_logits_infinite_is_rejected(penalty):
    with pytest.raises(ValueError, match="makes logits infinite: use one nearer to 1"):
        penalized(np.float32([[2.0, -2.0]]), np.array([[0, 1]]), penalty)


def test_generate_with_logits_that_are_not_finite_is_rejected():
    model = tiny_gpt()
    model.ln_f.weight.data = np.full(8, np.nan)
    with pytest.raises(ValueError, match="not finite"):
        model.generate(tokens(1, 2), 1)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.lists(st.integers(0, 8), max_size=6),
       st.sampled_from([0.5, 1.0, 1.2, 3.0]))
@settings(max_examples=100, deadline=None)
def test_the_repetition_penalty_equals_brute_force(z, seen, penalty):
    """For tokens seen once or more: positive logits are divided, negative ones multiplied."""
    seen = [token for token in seen if token < len(z)]
    expected = [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(z)]
    before = np.array([z], dtype=np.float64)
    after = penalized(before, np.array([seen], dtype=int), penalty)
    assert np.array_equal(after, [expected]) and np.array_equal(before, [z])
    if penalty > 1.0:
        assert all(after[0, i] <= z[i] for i in range(len(z)))          # no token becomes more likely


def test_the_repetition_penalty_covers_the_prompt_and_all_generated_tokens():
    model, idx = tiny_gpt(), tokens(2, 3)
    expected = idx
    for _ in range(9):
        z = penalized(model.next_logits(expected), expected, 1e6)
        expected = np.column_stack([expected, z.argmax(axis=-1)])
    generated = model.generate(idx, 9, temperature=0.0, repetition_penalty=1e6)
    assert np.array_equal(generated, expected)
    assert len(set(generated[0])) > len(set(model.generate(idx, 9, temperature=0.0)[0]))


# ---- beam search ----

def log_probability(model, text, T, penalty=1.0):
    """The sum over the tokens of a text from position T on, each given those before it."""
    total = 0.0
    for t in range(T, len(text)):
        z = penalized(model.next_logits(text[None, :t]), text[None, :t], penalty)[0].astype(np.float64)
        total += z[text[t]] - np.log(np.exp(z).sum())
    return total


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("T, n", [(2, 3), (4, 4)])                      # the second goes beyond block_size 6
def test_a_sufficiently_wide_beam_finds_the_most_probable_continuation(T, n, penalty):
    V = 3
    model, start = tiny_gpt(dtype="float64", vocab_size=V, tied=False), tokens(T, vocab_size=V)
    every = [np.append(start, new) for new in itertools.product(range(V), repeat=n)]
    best = max(every, key=lambda text: log_probability(model, text, T, penalty))
    found = model.generate(start[None], n, beam=V ** (n - 1), repetition_penalty=penalty)
    assert np.array_equal(found, [best])


@given(seed=st.integers(0, 1000), V=st.integers(1, 4), n=st.integers(1, 4), width=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_beam_search_equals_its_definition(seed, V, n, width):
    """On a random tree of probabilities: repeatedly extend all texts by one token and keep the best `width`."""

    def log_p(text):
        z = np.random.default_rng([seed, *map(int, text)]).normal(size=V)
        return z - np.log(np.exp(z).sum())

    beams = [((), 0.0)]
    for _ in range(n):
        longer = [(text + (new,), score + log_p(text)[new]) for text, score in beams for new in range(V)]
        beams = sorted(longer, key=lambda beam: -beam[1])[:width]
    previous = [np.zeros((1, 0), dtype=int)]

    def next_logits(texts, parents):
        assert np.array_equal(texts[:, :-1], previous[0][parents][:, :texts.shape[1] - 1])
        previous[0] = texts
        return np.stack([log_p(text) for text in texts]) + 7.0          # logits are invariant to a shift

    assert tuple(beam_search(next_logits, np.zeros(0, dtype=int), n, width)) == beams[0][0]


def test_beam_width_1_is_greedy_and_rows_are_searched_independently():
    model, idx = tiny_gpt(), tokens(3, 4)
    assert np.array_equal(model.generate(idx, 6, beam=1), model.generate(idx, 6, temperature=0.0))
    together = model.generate(idx, 4, beam=4)
    assert np.array_equal(together, np.concatenate([model.generate(row[None], 4, beam=4, seed=9) for row in idx]))


def test_a_beam_finds_a_more_probable_continuation_than_greedy_search():
    """0 is the more probable first token, but after it both tokens are equally probable; after 1 they are not."""
    p = {(): [0.6, 0.4], (0,): [0.5, 0.5], (1,): [0.1, 0.9]}
    next_logits = lambda texts, parents: np.log([p[tuple(text.tolist())] for text in texts])
    nothing = np.zeros(0, dtype=int)
    assert beam_search(next_logits, nothing, 2, width=1).tolist() == [0, 0]         # 0.6 x 0.5
    assert beam_search(next_logits, nothing, 2, width=2).tolist() == [1, 1]         # 0.4 x 0.9


# ---- Hugging Face's files ----

CONFIG = dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", activation_function="gelu_new", n_positions=5,
              vocab_size=7, n_layer=2, n_head=3, n_embd=6, n_inner=None, layer_norm_epsilon=1e-05, attn_pdrop=0.1)
IDX = np.array([[3, 1, 4, 1, 5], [6, 0, 2, 2, 6]])


def gpt2_weights():
    """Weights for CONFIG from a formula; none is near 0, and LayerNorm's are not near 1."""
    C, per_block = 6, {"ln_1": (), "attn.c_attn": (18,), "attn.c_proj": (6,), "ln_2": (), "mlp.c_fc": (24,),
                       "mlp.c_proj": (6,)}
    shapes = {"wte.weight": (7, C), "wpe.weight": (5, C)}
    for name, out in [*((f"h.{i}.{name}", out) for i in range(2) for name, out in per_block.items()), ("ln_f", ())]:
        n_in = 24 if name.endswith("mlp.c_proj") else C
        shapes |= {name + ".weight": (n_in, *out), name + ".bias": out or (C,)}
    shapes |= {"lm_head.weight": (7, C)}
    return {name: np.sin(0.7 * np.arange(math.prod(shape)) ** 2 + k + 1.0).reshape(shape)
            for k, (name, shape) in enumerate(shapes.items())}


# The logits of the last tokens of IDX, tied and untied: computed by transformers' GPT2LMHeadModel in float64.
LAST_LOGITS = {
    True: [[1.5071922, 1.2910925, 1.5798875, 2.4570612, 0.4776891, 0.0985255, -0.8782138],
           [1.6086335, 0.8522731, 1.2031285, 2.5281938, 0.3254089, 0.0528467, -0.8030721]],
    False: [[-0.9694790, -1.2432996, -1.4873585, -2.3111696, -0.7704711, -0.4893694, 0.1893048],
            [-1.0667667, -0.8190264, -1.1593416, -2.3747714, -0.5077531, -0.3420281, 0.0895217]],
}


def write_gpt2(folder, tied=True, prefix="transformer.", shards=1, masks=False, head=False, change=None, **config):
    """Write a folder as Hugging Face's transformers does. change: a function on the tensors."""
    tensors = {name if name.startswith("lm_head") else prefix + name: x for name, x in gpt2_weights().items()
               if name != "lm_head.weight" or not tied or head}
    if masks:                                               # buffers that old versions saved
        for i in range(2):
            tensors[f"{prefix}h.{i}.attn.bias"] = np.tri(5, dtype=bool)[None, None]
            tensors[f"{prefix}h.{i}.attn.masked_bias"] = np.array(-1e4)
    tensors = change(tensors) if change else tensors
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied, **config}))
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        weight_map |= dict.fromkeys(part, file)
        safetensors.numpy.save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", [{}, {"shards": 3}, {"prefix": ""}, {"masks": True}, {"prefix": "", "masks": True},
                                    {"head": True}])
def test_from_pretrained_reads_what_hugging_face_writes(tmp_path, tied, layout):
    """The last logits equal the stored ones, and all logits those of GPT-2 in NumPy."""
    model = GPT.from_pretrained(write_gpt2(tmp_path, tied, **layout), dtype="float64")
    logits = model(IDX)[0].numpy()
    weights = {name: x for name, x in gpt2_weights().items() if name != "lm_head.weight" or not tied}
    assert np.allclose(logits[:, -1], LAST_LOGITS[tied], rtol=0.0, atol=1e-6)
    assert np.allclose(logits, gpt2_in_numpy(weights, IDX, n_layer=2, n_head=3), rtol=0.0, atol=1e-12)
    assert model.config == GPTConfig(5, 7, 2, 3, 6, tied=tied)
    single = GPT.from_pretrained(tmp_path)
    assert single.wte.weight.dtype == np.float32 and np.allclose(single(IDX)[0].numpy(), logits, rtol=0.0, atol=1e-5)


def test_from_pretrained_reads_the_old_name_of_a_setting_and_defaults_of_missing_ones(tmp_path):
    write_gpt2(tmp_path)
    config = {name: CONFIG[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")} | {"n_ctx": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert GPT.from_pretrained(tmp_path).config == GPTConfig(5, 7, 2, 3, 6)


def without(name):
    return lambda tensors: {n: x for n, x in tensors.items() if not n.endswith(name)}


@pytest.mark.parametrize("wrong, message", [
    (dict(activation_function="relu"), "activation_function is 'relu', but this GPT has 'gelu_new' or"),
    (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06, but this GPT has 1e-05 only"),
    (dict(n_inner=7), "n_inner is 7"), (dict(model_type="llama"), "model_type is 'llama'"),
    (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
    (dict(n_layer=None), "config.json has no n_layer: is it of a GPT-2?"), (dict(n_head=4), "divisible by n_head 4"),
    (dict(change=without("h.1.ln_2.bias")), "missing: h.1.ln_2.bias"),
    (dict(tied=False, change=without("lm_head.weight")), "missing: lm_head.weight"),
    (dict(change=lambda t: {**t, "transformer.h.0.attn.q": np.zeros(2)}), "unexpected: h.0.attn.q"),
    (dict(n_layer=1), "unexpected: h.1.attn.c_attn.bias, .*h.1.mlp.c_proj.weight"),
    (dict(vocab_size=8), r"wte.weight has shape \(7, 6\), expected \(8, 6\)"),
])
def test_files_of_another_model_are_rejected(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        GPT.from_pretrained(write_gpt2(tmp_path, **wrong))
    assert str(tmp_path) in str(error.value) or "n_head" in wrong


def test_all_tensors_that_do_not_fit_are_listed(tmp_path):
    write_gpt2(tmp_path, change=lambda t: without("ln_f.bias")({**t, "other": np.zeros(1)}), vocab_size=8)
    with pytest.raises(ValueError, match="missing: ln_f.bias; unexpected: other; wte.weight has shape"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path, file):
    write_gpt2(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        GPT.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        GPT.from_pretrained(str(tmp_path))


def test_a_config_that_is_a_list_is_rejected(tmp_path):
    (write_gpt2(tmp_path) / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="config.json is damaged: expected {name: value, ...}, got a list"):
        GPT.from_pretrained(tmp_path)


def test_model_safetensors_is_read_even_if_there_are_shards(tmp_path):
    model = GPT.from_pretrained(write_gpt2(tmp_path, shards=3))
    model.ln_f.bias.data = np.arange(6.0)
    model.save_pretrained(tmp_path)
    assert np.array_equal(GPT.from_pretrained(tmp_path).ln_f.bias.data, np.arange(6.0))


def test_a_missing_shard_and_a_pickle_are_named(tmp_path):
    write_gpt2(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00003.safetensors is missing"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="model.safetensors is missing; pytorch_model.bin is a pickle, .*: convert it"):
        GPT.from_pretrained(tmp_path)


def test_half_precision_is_read_and_8_bit_floats_are_named(tmp_path):
    write_gpt2(tmp_path, change=lambda tensors: {name: x.astype(np.float16) for name, x in tensors.items()})
    exact = gpt2_in_numpy(gpt2_weights() | {"lm_head.weight": gpt2_weights()["wte.weight"]}, IDX, n_layer=2, n_head=3)
    assert np.allclose(GPT.from_pretrained(tmp_path)(IDX)[0].numpy(), exact, rtol=0.0, atol=0.02)
    header = json.dumps({"wte.weight": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(ValueError, match="model.safetensors: wte.weight has dtype F8_E4M3, .*: save it as float32"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [{}, {"tied": False}, {"bias": False}, {"dropout": 0.1}])
def test_a_saved_and_loaded_model_gives_the_same_logits(tmp_path, config):
    """A model without biases is loaded with biases of 0."""
    model, idx = tiny_gpt(**config).eval(), tokens(2, 6)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = GPT.from_pretrained(tmp_path / "new" / "folder")
    assert np.allclose(again(idx)[0].numpy(), model(idx)[0].numpy(), rtol=0.0, atol=1e-6)
    assert again.config == GPTConfig(**TINY, tied=config.get("tied", True))
    state = again.state_dict()
    assert all(np.array_equal(state.pop(name), x) for name, x in model.state_dict().items())
    assert all(name.endswith("bias") and (x == 0.0).all() for name, x in state.items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_transformers_reads_a_saved_model_and_gives_the_same_logits(tmp_path, tied, bias):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, idx = tiny_gpt(tied=tied, bias=bias), tokens(3, 6)
    model.save_pretrained(tmp_path)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(idx)).logits.numpy()
    assert np.allclose(model(idx)[0].numpy(), expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("largest_shard", ["1GB", "2KB"])
def test_a_model_written_by_transformers_is_read(tmp_path, tied, largest_shard):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_positions=6, vocab_size=11, n_layer=2, n_head=2, n_embd=8, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=largest_shard)
    assert (tmp_path / "model.safetensors").exists() == (largest_shard == "1GB")
    idx = tokens(3, 6)
    with torch.no_grad():
        expected = theirs(torch.tensor(idx)).logits.numpy()
    assert np.allclose(GPT.from_pretrained(tmp_path)(idx)[0].numpy(), expected, rtol=0.0, atol=1e-5)
