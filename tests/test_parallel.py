"""minigrad.parallel without MPI: the tree of sums, and GradientSum on ranks that are threads. The oracle is a tree that
is written as a recursion."""
import inspect
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fake_device import synchronizations
from fake_world import on_ranks
from minigrad import Tensor, detect_nan, device
from minigrad.parallel import GradientSum, World, gradient_sum
from minigrad.parallel.gradient_sum import fold, merge, nodes_of

SIZES = [(G, K) for G in range(1, 41) for K in range(1, G + 1)]     # micro-batches, ranks


def tree_sum(leaves):
    """The oracle: the sum of the first 2 ** k leaves, with the largest k that leaves some, plus the sum of the rest."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return tree_sum(leaves[:left]) + tree_sum(leaves[left:])


class Text(str):
    """A sum as it is written: the order of its additions is its text."""

    def __add__(self, other):
        return Text(f"({self!s}+{other!s})")


def share(G, K, r):
    return range(G * r // K, G * (r + 1) // K)


def folded(leaves, K, add):
    """The sum of leaves that K ranks compute: each one the nodes of its share, and then all nodes together."""
    stack = []
    for r in range(K):
        nodes = []
        for i in share(len(leaves), K, r):
            nodes.append((0, i, leaves[i]))
            merge(nodes, add)
        for node in nodes:
            stack.append(node)
            merge(stack, add)
    return fold(stack, add)


# ---- the tree ----

def test_the_sum_of_six_leaves_adds_pairs_then_pairs_of_pairs_then_what_is_left():
    assert folded([Text(i) for i in range(6)], 1, Text.__add__) == "(((0+1)+(2+3))+(4+5))"


def test_every_number_of_ranks_adds_in_the_order_of_the_tree():
    for G, K in SIZES:
        leaves = [Text(i) for i in range(G)]
        assert folded(leaves, K, Text.__add__) == tree_sum(leaves), (G, K)


def test_the_nodes_of_the_ranks_cover_each_leaf_once_and_in_order():
    for G, K in SIZES:
        covered = []
        for r in range(K):
            nodes = nodes_of(share(G, K, r))
            covered += [leaf for level, index, _ in nodes for leaf in range(index << level, index + 1 << level)]
        assert covered == list(range(G)), (G, K)


def test_a_rank_whose_share_is_a_power_of_two_has_one_node_and_another_one_few():
    for G, K in SIZES:
        most = max(len(nodes_of(share(G, K, r))) for r in range(K))
        assert most == 1 if (G / K).is_integer() and (G // K).bit_count() == 1 else most <= 2 * math.log2(G / K + 1)


def test_the_sum_of_whole_numbers_is_exact_and_that_of_others_is_off_by_a_rounding_per_level():
    rng = np.random.default_rng(0)
    for G, K in SIZES:
        whole = rng.integers(-1 << 40, 1 << 40, G).astype(float).tolist()
        assert folded(whole, K, float.__add__) == math.fsum(whole)
        xs = (rng.standard_normal(G) * 10.0 ** rng.integers(-8, 8, G)).tolist()
        bound = math.ceil(math.log2(G)) * 2.0 ** -53 * math.fsum(map(abs, xs))
        assert abs(folded(xs, K, float.__add__) - math.fsum(xs)) <= 1.01 * bound


# ---- the ranks of a GradientSum ----

def gradients(G, shapes, dtype, seed=0):
    """A gradient for each micro-batch and parameter, of very unlike sizes: every other order of additions gives other
    bits. With some zeros of both signs, subnormal numbers and infinities."""
    rng = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal, np.inf], dtype)

    def array(shape):
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)
        return np.where(rng.random(shape) < 0.02, rng.choice(special, shape), x)
    return [[array(shape) for shape in shapes] for _ in range(G)]


def losses_of(G, dtype):
    return np.random.default_rng(1).standard_normal(G).astype(dtype)


def summed(world, grads, kind=GradientSum, on="cpu", stops=(), steps=1):
    """What a rank has after some steps  ->  its gradients on the host, its loss, whether to stop."""
    G, losses = len(grads), losses_of(len(grads), grads[0][0].dtype)
    params = [Tensor(np.zeros_like(g), requires_grad=True, device=on) for g in grads[0]]
    sums = kind(params, G, world)
    for _ in range(steps):
        for micro in sums.mine:
            for p, g in zip(params, grads[micro]):
                p.grad = device.put(g.copy(), on)
            sums.add(micro, params[0].xp.asarray(losses[micro]))
        loss, stop = sums.total(stop=world.rank in stops)
    return [device.host(p.grad) for p in params], device.host(loss), stop


def expected(grads):
    return [tree_sum(leaves) for leaves in zip(*grads)], tree_sum(list(losses_of(len(grads), grads[0][0].dtype)))


def bits(arrays):
    return [(a.dtype, a.shape, a.tobytes()) for a in map(np.asarray, arrays)]


def check_bits(K, grads, **options):
    """Each of K ranks has the sums of the oracle, bit for bit."""
    sums, loss = expected(grads)
    for theirs, their_loss, _ in on_ranks(K, lambda world: summed(world, grads, **options)):
        assert bits([*theirs, their_loss]) == bits([*sums, loss])


@pytest.fixture
def small_buckets(monkeypatch):
    """An exchange of a few numbers at a time."""
    monkeypatch.setattr(gradient_sum, "BUCKET", 7)


@pytest.mark.parametrize("bucket", [5, 7, 1 << 20])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 7),
       st.lists(st.sampled_from([(), (1,), (3,), (2, 5), (0, 3), (13,)]), min_size=1, max_size=3),
       st.sampled_from(["float32", "float64"]), st.integers(0, 99))
def test_ranks_get_the_bits_of_one_process(bucket, K, more, shapes, dtype, seed):
    """With sizes that the number of ranks does not divide, and with a bucket that has fewer numbers than ranks."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr(gradient_sum, "BUCKET", bucket)
        grads = gradients(K + more, shapes, dtype, seed)
        check_bits(K, grads)


@pytest.mark.parametrize("G", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_process_adds_in_the_order_of_the_tree(G, dtype):
    grads = gradients(G, [(3, 5), (4,)], dtype)
    sums, loss = expected(grads)
    ours, our_loss, stop = summed(World(), grads)
    assert bits([*ours, our_loss]) == bits([*sums, loss]) and stop is False


@pytest.mark.parametrize("K", [1, 2, 3])
def test_memory_that_is_used_again_does_not_change_the_next_step(small_buckets, K):
    check_bits(K, gradients(7, [(3, 5), (4,)], "float32"), steps=3)


def test_rank_r_of_K_has_the_micro_batches_from_G_r_over_K_to_the_next_rank():
    for G, K in SIZES[::7]:
        params = [Tensor(np.zeros(2), requires_grad=True)]
        assert on_ranks(K, lambda world: GradientSum(params, G, world).mine) == [share(G, K, r) for r in range(K)]


@pytest.mark.parametrize("stops", [(), (0,), (2,), (0, 1, 2)])
def test_every_rank_learns_that_one_of_them_wishes_to_stop(stops):
    found = on_ranks(3, lambda world: summed(world, gradients(5, [(4,)], "float32"), stops=stops))
    assert [stop for _, _, stop in found] == [bool(stops)] * 3


@pytest.mark.parametrize("K", [1, 2, 3])
def test_a_parameter_without_a_gradient_in_some_micro_batches_counts_as_zero_there(K):
    grads = gradients(6, [(3,), (4,)], "float32")

    def do(world):
        params = [Tensor(np.zeros_like(g), requires_grad=True) for g in grads[0]]
        sums = GradientSum(params, 6, world)
        for micro in sums.mine:
            params[0].grad = grads[micro][0].copy()
            if micro == 4:
                params[1].grad = grads[4][1].copy()
            sums.add(micro, np.float32(0.0))
        sums.total()
        return [p.grad for p in params]
    for grad in on_ranks(K, do):
        assert np.array_equal(grad[0], expected(grads)[0][0]) and np.array_equal(grad[1], grads[4][1])


def test_the_only_micro_batch_of_one_process_keeps_its_gradients_as_they_are():
    p, unused = Tensor(np.zeros(3), requires_grad=True), Tensor(np.zeros(3), requires_grad=True)
    sums, grad, loss = GradientSum([p, unused], 1, World()), np.ones(3), np.array(2.0)
    p.grad = grad
    sums.add(0, loss)
    assert sums.total()[0] is loss
    assert p.grad is grad and unused.grad is None


def test_the_loss_and_the_gradients_of_a_model_are_added_up_in_a_loop_of_ones_own():
    """K ranks train three steps of a linear model as one process does."""
    x, y = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)        # steps, micro-batches, 4

    def train(world):
        w = Tensor(np.full(4, 0.5, np.float32), requires_grad=True)
        sums, losses = GradientSum([w], 6, world), []
        for step in range(3):
            for micro in sums.mine:
                loss = ((w * x[step, micro] - y[step, micro]) ** 2.0).sum()
                loss.backward()
                sums.add(micro, loss.data)
            losses.append(sums.total()[0])
            w.data = w.data - 0.01 * w.grad
            w.grad = None
        return bits([w.data, *losses])
    one = train(World())
    assert all(found == one for K in (2, 3) for found in on_ranks(K, train))


# ---- an exchange that goes on behind the last backward ----

def layers(seed=0):
    """Weights of a small network, one of which is used twice and one not at all."""
    rng = np.random.default_rng(seed)
    return [Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
            for shape in [(5, 5), (5,), (5, 5), (), (0, 5), (5, 5), (9,)]]


def loss_of(weights, micro):
    x = Tensor(np.random.default_rng(micro).standard_normal((4, 5)).astype(np.float32))
    first, bias, second, scale, empty, third, _ = weights
    return (((x @ first + bias).tanh() @ second * scale + empty.sum()).tanh() @ third @ first).sum()


def step(sums, backward):
    for micro in sums.mine:
        backward(sums, micro, loss_of(sums.params, micro))
    early = [bucket for bucket, missing in sums.missing.items() if not missing]
    loss, _ = sums.total()
    return bits([loss, *(p.grad for p in sums.params)]), early


def at_the_end(sums, micro, loss):
    loss.backward()
    sums.add(micro, loss.data)


@pytest.mark.parametrize("K, G", [(1, 1), (1, 3), (2, 2), (2, 4), (3, 3), (3, 12), (4, 4), (3, 4), (2, 3), (3, 8)])
def test_gradients_that_leave_during_the_last_backward_have_the_bits_of_those_that_leave_after_it(
        small_buckets, K, G):
    def bits_of(backward):
        return on_ranks(K, lambda world: [step(sums, backward)[0] for sums in [GradientSum(layers(), G, world)]
                                          for _ in range(3)])
    assert bits_of(GradientSum.backward) == bits_of(at_the_end)


@pytest.mark.parametrize("K, G", [(2, 2), (2, 4), (3, 3)])
def test_a_bucket_leaves_when_it_is_complete_and_the_rest_with_the_loss(small_buckets, K, G):
    """Of the 14 buckets of 7 numbers, the first has the loss, and the last 3 a weight that no backward reaches."""
    for _, early in on_ranks(K, lambda world: step(GradientSum(layers(), G, world), GradientSum.backward)):
        assert early == list(range(1, 11))


def test_a_gradient_that_was_set_before_the_backward_counts(small_buckets):
    def total(world, backward):
        weights = layers()
        for p in weights:
            p.grad = np.full_like(p.data, 0.5)
        return step(GradientSum(weights, 2, world), backward)[0]
    assert (on_ranks(2, lambda world: total(world, GradientSum.backward))
            == on_ranks(2, lambda world: total(world, at_the_end)))


def test_hooks_and_retained_gradients_are_as_in_a_backward(small_buckets):
    def do(world):
        weights = layers()
        weights[0].register_hook(lambda g: 2.0 * g)
        hidden = weights[2] * 3.0
        hidden.retain_grad()
        sums = GradientSum(weights, 2, world)
        sums.backward(world.rank, (hidden * weights[0]).sum())
        loss, _ = sums.total()
        return [hidden.grad, weights[0].grad, weights[2].grad]
    for grads in on_ranks(2, do):
        first, _, second, *_ = [p.data for p in layers()]
        assert bits(grads) == bits([first, 2.0 * (3.0 * second + 3.0 * second), 3.0 * first + 3.0 * first])


def test_a_backward_that_looks_for_nan_sends_nothing_as_it_may_fail_on_one_rank_alone(small_buckets):
    def do(world):
        sums = GradientSum(layers(), 2, world)
        with detect_nan():
            sums.backward(world.rank, loss_of(sums.params, 0))
        return world.sent_bytes, sums.under_way
    assert on_ranks(2, do) == [(0, [])] * 2


def test_a_step_that_begins_while_gradients_are_being_sent_is_an_error(small_buckets):
    def do(world):
        sums = GradientSum(layers(), 2, world)
        sums.backward(world.rank, loss_of(sums.params, 0))
        with pytest.raises(ValueError, match=r"^the gradients of this step are being sent: call total before the next"):
            sums.backward(world.rank, loss_of(sums.params, 0))
    on_ranks(2, do)


# ---- bad input ----

def test_more_ranks_than_micro_batches_is_an_error():
    with pytest.raises(ValueError, match=r"^3 processes need 3 micro-batches in a step or more, got 2$"):
        on_ranks(3, lambda world: summed(world, gradients(2, [(4,)], "float32")))


def test_parameters_of_several_dtypes_are_an_error():
    params = [Tensor(np.zeros(2, dtype), requires_grad=True) for dtype in ("float64", "float32")]
    with pytest.raises(ValueError, match=r"^the parameters must have one dtype, got float32, float64$"):
        GradientSum(params, 2, World())


def added(sums, *micros):
    for micro in micros:
        sums.params[0].grad = np.full(2, 10.0 ** micro)
        sums.add(micro, np.array(0.0))


@pytest.mark.parametrize("micros", [[1], [0, 2], [0, 1, 1], [0, 1, 2, 3]])
def test_a_micro_batch_that_is_not_the_next_one_of_this_process_is_an_error(micros):
    sums = GradientSum([Tensor(np.zeros(2), requires_grad=True)], 3, World())
    with pytest.raises(ValueError, match=rf"^got micro-batch {micros[-1]}: a step adds those of this process, "
                                         r"\[0, 1, 2\], in order$"):
        added(sums, *micros)


@pytest.mark.parametrize("G", [1, 3])
def test_a_sum_without_all_micro_batches_is_an_error(G):
    sums = GradientSum([Tensor(np.zeros(2), requires_grad=True)], G, World())
    for _ in range(2):
        added(sums, *range(G - 1))
        with pytest.raises(ValueError, match=rf"^the micro-batches \[{G - 1}\] of this process have not been added$"):
            sums.total()
        added(sums, *range(G))
        sums.total()
        with pytest.raises(ValueError, match="have not been added"):
            sums.total()


def test_a_step_that_was_given_up_leaves_nothing_in_the_next_one():
    sums = GradientSum([Tensor(np.zeros(2), requires_grad=True)], 3, World())
    added(sums, 0, 1)
    added(sums, 0, 1, 2)
    sums.total()
    assert sums.params[0].grad.tolist() == [111.0, 111.0]


# ---- what it costs ----

N = 100_003


@pytest.mark.parametrize("K, G", [(1, 4), (2, 2), (2, 8), (3, 6), (4, 4), (4, 16), (7, 7)])
def test_a_rank_sends_two_times_k_minus_one_kths_of_the_gradient_where_its_share_is_a_power_of_two(monkeypatch, K, G):
    monkeypatch.setattr(gradient_sum, "BUCKET", 1 << 13)
    for dtype in (np.float32, np.float64):
        grads = [[np.ones(N, dtype)]] * G
        sent = on_ranks(K, lambda world: (summed(world, grads), world.sent_bytes)[1])
        assert max(sent) <= 1.01 * 2 * (K - 1) / K * grads[0][0].nbytes, sent


@pytest.mark.parametrize("K, G", [(1, 2), (1, 8), (1, 7), (2, 2), (2, 8), (2, 5), (3, 6), (3, 8)])
def test_a_rank_holds_the_logarithm_of_its_share_plus_three_gradients_at_most(monkeypatch, K, G):
    """The gradient of the micro-batch is one of them."""
    monkeypatch.setattr(gradient_sum, "BUCKET", 1 << 10)
    grads = [[np.ones(N, np.float32)]] * G
    tracemalloc.start()
    try:
        on_ranks(K, lambda world: summed_into_views(world, grads))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= K * (math.log2(G / K) + 3.1) * grads[0][0].nbytes


def summed_into_views(world, grads):
    """Two steps in which all is given back that a training loop gives back."""
    params = [Tensor(np.broadcast_to(np.float32(0.0), N), requires_grad=True)]
    sums = GradientSum(params, len(grads), world)
    for _ in range(2):
        for micro in sums.mine:
            params[0].grad = grads[micro][0].copy()
            sums.add(micro, np.float32(1.0))
        sums.total()
        params[0].grad = None


# ---- on a device ----

@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_with_a_device_get_the_bits_of_the_host(small_buckets, K, dtype):
    with np.errstate(invalid="ignore"):
        check_bits(K, gradients(7, [(3, 5), (4,)], dtype), on="fake", steps=2)


def test_adding_micro_batches_on_a_device_in_one_process_never_waits_for_it():
    grads = [[device.put(np.ones(5, np.float32), "fake")] for _ in range(6)]
    p = Tensor(np.zeros(5, np.float32), requires_grad=True, device="fake")
    sums, losses = GradientSum([p], 6, World()), [p.xp.asarray(np.float32(micro)) for micro in range(6)]
    with synchronizations() as waits:
        for micro in sums.mine:
            p.grad = grads[micro][0]
            sums.add(micro, losses[micro])
        sums.total()
    assert not waits, waits


# ---- planted faults: the checks above notice them ----

class InOrderOfRanks(GradientSum):
    """Adds up the sums of the ranks one after the other, as an MPI_Allreduce may."""

    def total(self, stop=False):
        world, p = self.world, self.params[0]
        world.own = fold(self.stack, np.add)
        world.barrier.wait()
        total = sum(rank.own for rank in world.ranks)
        p.grad = total[self.places[p.key]].reshape(p.shape)
        return total[:1].reshape(()), False


def test_sums_in_the_order_of_the_ranks_have_other_bits():
    for K, G in (1, 4), (2, 4):                             # the tree adds in this order too
        check_bits(K, gradients(G, [(50,)], "float32"), kind=InOrderOfRanks)
    for K, G in (4, 4), (3, 5), (2, 5):
        with pytest.raises(AssertionError):
            check_bits(K, gradients(G, [(50,)], "float32"), kind=InOrderOfRanks)


def with_mistake(right, wrong):
    """GradientSum with a mistake in its source."""
    source = inspect.getsource(GradientSum)
    assert right in source
    names = {**vars(gradient_sum)}
    exec(source.replace(right, wrong), names)
    return names["GradientSum"]


@pytest.mark.parametrize("wrong", ["(micro_steps * r + 1) // K", "micro_steps * r // K + 1"])
@pytest.mark.parametrize("K, G", [(1, 4), (2, 3), (3, 4), (3, 7)])
def test_a_share_that_starts_one_micro_batch_too_late_is_noticed(wrong, K, G):
    kind = with_mistake("micro_steps * r // K", wrong)
    with pytest.raises((AssertionError, IndexError)):
        check_bits(K, gradients(G, [(50,)], "float32"), kind=kind)
