"""The language model: GPT-2's architecture, names and initial weights; what it may see; how it is sampled from.

Its gradients are held against finite differences in test_model_gradients.py."""
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minigrad as mg
from gpt.decoding import next_tokens, probabilities
from gpt.model import GPT, GPTConfig
from minigrad import optim

TINY = dict(block_size=6, vocab_size=11, n_layer=2, n_head=2, n_embd=8)


def tiny_gpt(seed=0, dtype="float32", **config):
    """Weights large enough for logits that differ."""
    model = GPT(GPTConfig(**{**TINY, **config}), seed=seed, dtype=dtype)
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data = p.data + rng.normal(0.0, 0.3, size=p.shape).astype(dtype)
    return model


def tokens(*shape, seed=0, vocab_size=TINY["vocab_size"]):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


# ---- the configuration checks itself ----

@pytest.mark.parametrize("wrong, message", [
    (dict(n_embd=130, n_head=4), "n_embd 130 must be divisible by n_head 4; nearest: 128 or 132"),
    (dict(n_embd=3, n_head=4), "nearest: 4"),
    (dict(n_layer=0), "n_layer must be a whole number of at least 1, got 0"),
    (dict(block_size=-1), "block_size"),
    (dict(vocab_size=2.5), "vocab_size"),
    (dict(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    (dict(dropout=-0.1), "dropout"),
])
def test_a_shape_that_no_gpt_has_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**TINY, **wrong})


# ---- the architecture ----

def test_names_and_shapes_are_gpt2s():
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


def test_parameter_count_of_gpt2_small():
    """Counted by the formula of the shapes: 12 layers, 768 wide, 1024 positions, 50257 tokens make 124,439,808."""
    T, V, L, C = 32, 100, 3, 48
    model = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=4, n_embd=C))
    formula = lambda T, V, L, C: V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C
    assert sum(p.size for p in model.parameters()) == formula(T, V, L, C)
    assert formula(1024, 50257, 12, 768) == 124_439_808


def test_the_forward_pass_is_gpt2s():
    """Against GPT-2 written down once more, in NumPy alone, one window at a time."""
    model, idx = tiny_gpt(dtype="float64"), tokens(3, 5)
    w = model.state_dict()

    def norm(x, name):
        xhat = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return xhat * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    for row, logits in zip(idx, model(idx)[0].numpy()):
        x = w["wte.weight"][row] + w["wpe.weight"][:5]
        for block in ("h.0", "h.1"):
            qkv = linear(norm(x, block + ".ln_1"), block + ".attn.c_attn")
            heads = []
            for q, k, v in zip(*(np.split(part, 2, axis=-1) for part in np.split(qkv, 3, axis=-1))):
                scores = np.where(np.tri(5, dtype=bool), q @ k.T / math.sqrt(4), -np.inf)
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                heads.append(p / p.sum(axis=-1, keepdims=True) @ v)
            x = x + linear(np.concatenate(heads, axis=-1), block + ".attn.c_proj")
            h = linear(norm(x, block + ".ln_2"), block + ".mlp.c_fc")
            gelu = 0.5 * h * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h ** 3)))
            x = x + linear(gelu, block + ".mlp.c_proj")
        assert np.allclose(logits, norm(x, "ln_f") @ w["wte.weight"].T, rtol=0.0, atol=1e-12)


def test_initial_weights_follow_from_the_seed_alone():
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


@pytest.mark.parametrize("bias", [True, False])
def test_it_begins_at_ln_v(bias):
    model = GPT(GPTConfig(block_size=64, vocab_size=65, n_layer=4, n_head=4, n_embd=128, bias=bias), seed=1)
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


def test_no_position_sees_what_comes_later_bit_for_bit():
    model, idx = tiny_gpt(), tokens(2, 6)
    before = model(idx)[0].numpy()
    for t in range(6):
        changed = idx.copy()
        changed[:, t] = (changed[:, t] + 1) % TINY["vocab_size"]
        after = model(changed)[0].numpy()
        assert np.array_equal(before[:, :t], after[:, :t])
        assert (before[:, t:] != after[:, t:]).any(axis=-1).all()       # and every position sees what came before


def test_rows_of_a_batch_do_not_meet():
    model, idx = tiny_gpt(dtype="float64"), tokens(3, 6)
    assert np.allclose(model(idx)[0].numpy()[1:2], model(idx[1:2])[0].numpy(), rtol=0.0, atol=1e-13)


# ---- the loss ----

def test_logits_come_without_a_loss_where_there_are_no_targets():
    model, idx, targets = tiny_gpt(), tokens(2, 5), tokens(2, 5, seed=1)
    logits, none = model(idx)
    same, loss = model(idx, targets)
    assert none is None and logits.shape == (2, 5, 11) and np.array_equal(logits.numpy(), same.numpy())
    assert loss.shape == () and loss.item() == model.loss(idx, targets).item()


def test_the_loss_is_the_mean_over_the_targets_that_count():
    model, idx, targets = tiny_gpt(dtype="float64"), tokens(2, 5), tokens(2, 5, seed=1)
    targets[0, 1:4] = -100
    z = model(idx)[0].numpy()
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    own = [-math.log(p[b, t, targets[b, t]]) for b in range(2) for t in range(5) if targets[b, t] != -100]
    assert model.loss(idx, targets).item() == pytest.approx(np.mean(own), abs=1e-12)
    assert model.loss(idx, np.full_like(targets, -100)).item() == 0.0


def test_dropout_replays_from_its_key_and_rests_in_eval():
    model, idx, targets = tiny_gpt(dropout=0.3), tokens(2, 5), tokens(2, 5, seed=1)
    losses = [model.loss(idx, targets, mg.random.key(0, step)).item() for step in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="key"):
        model.loss(idx, targets)
    model.eval()
    assert model.loss(idx, targets).item() == tiny_gpt(dropout=0.0).loss(idx, targets).item()


def test_every_dropout_has_a_stream_of_its_own():
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
def test_bad_tokens_are_named(idx, targets, error, message):
    with pytest.raises(error, match=message):
        tiny_gpt()(idx, targets)


# ---- sampling ----

def test_greedy_continuation_is_the_likeliest_token_each_time_and_the_context_is_cropped():
    model, idx = tiny_gpt(), tokens(2, 4)
    expected = idx
    for _ in range(7):                                      # beyond block_size 6
        logits, _ = model(expected[:, -6:])
        expected = np.concatenate([expected, logits.numpy()[:, -1:].argmax(axis=-1)], axis=1)
    assert np.array_equal(model.generate(idx, 7, temperature=0.0), expected)
    assert np.array_equal(model.generate(idx, 7, top_k=1), expected)
    assert np.array_equal(model.generate(idx, 7, top_p=1e-9), expected)


def test_a_continuation_follows_from_its_seed():
    model, idx = tiny_gpt(dropout=0.5), tokens(3, 4)
    one, same, other = (model.generate(idx, 20, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (3, 24) and np.array_equal(one[:, :4], idx)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(model.generate(idx, 9), one[:, :13])          # a longer one begins like a shorter one
    assert model.training and all(p.grad is None for p in model.parameters())


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
def test_top_k_and_top_p_against_brute_force(z, temperature, top_k, top_p):
    p = probabilities(np.array([z], dtype=np.float32), temperature, top_k, top_p)
    assert np.allclose(p[0], brute_force(z, temperature, top_k, top_p), rtol=1e-12, atol=1e-12)
    assert p.sum() == pytest.approx(1.0)


def test_top_p_keeps_the_fewest_that_reach_it():
    z = np.log([[0.4, 0.3, 0.2, 0.1]])
    assert np.allclose(probabilities(z, top_p=0.75), [[4 / 9, 3 / 9, 2 / 9, 0.0]])
    assert np.allclose(probabilities(z, top_k=2), [[4 / 7, 3 / 7, 0.0, 0.0]])
    assert np.array_equal(probabilities(np.zeros((1, 4)), top_p=0.5), [[0.5, 0.5, 0.0, 0.0]])   # to reach is enough


def test_temperature_near_0_is_greedy_without_overflow():
    z = np.array([[1e4, 1e4 - 1, -1e4]], dtype=np.float32)
    for temperature in (0.0, 1e-3, 1e-308):
        assert np.array_equal(probabilities(z, temperature), [[1.0, 0.0, 0.0]])


def test_draws_come_as_often_as_their_probability_says():
    """4 standard errors of 20,000 draws; a token of probability 0 never."""
    z = np.tile(np.log([0.5, 0.1, 0.3, 0.1]), (20_000, 1))
    drawn = np.bincount(next_tokens(z, mg.random.key(0), top_k=3), minlength=4) / 20_000
    expected = np.array([5 / 9, 1 / 9, 3 / 9, 0.0])
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected * (1 - expected) / 20_000)).all()


@pytest.mark.parametrize("wrong, message", [
    (dict(temperature=-1.0), "temperature"), (dict(top_k=0), "top_k"), (dict(top_p=0.0), "top_p"),
    (dict(top_p=1.5), "top_p"),
])
def test_filters_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny_gpt().generate(tokens(1, 2), 1, **wrong)


def test_a_diverged_model_does_not_speak():
    model = tiny_gpt()
    model.ln_f.weight.data = np.full(8, np.nan)
    with pytest.raises(ValueError, match="not finite"):
        model.generate(tokens(1, 2), 1)
