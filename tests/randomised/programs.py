"""Random programs: a graph of 5 to 40 ops, and what a user does with it. Every value and every gradient must be right;
only where a graph was freed or its inputs were changed, the call may be refused instead.

A program is text. GRAPH has a line per op; USES a line per use, each a call of a method of `Session`:

    x0 = leaf((3, 4), seed=7)               backward("l0", retain_graph=True)
    t1 = F.gelu(x0)                         interrupt("l0", after=211)
    l0 = total(t1, x0)                      rebuild()

x... are leaves, t... results, l... sums over several results, v... arrays that the user holds. The gradients are
compared with PyTorch's for the same lines where it is installed. Where it is not, they are compared with those of the
textbook's ops, recorded as primitives in float64, and these with a finite difference along a random direction.
"""
import contextlib
import copy
import math
import pickle
import re
import sys
import traceback

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.modes import switch

from ..small_kernels import small_kernels
from .lines import CALLS, LARGEST, Draft

try:
    import torch
    from . import torch_functions
except ImportError:
    torch = None

MODES = {"kernels": lambda: switch(plain=False), "small kernels": small_kernels, "plain": mg.plain,
         "unfused": mg.unfused}
EXACT = {"float64": 1e-9, "float32": 2e-4}          # relative differences that need no second look
SMALL = {"float64": 1e-2, "float32": 1e-1}          # differences are relative to this where numbers are smaller
NOISE = {"float64": 1e-13, "float32": 3e-6}         # relative changes that show what rounding could do
EVERY = 10 ** 6                                     # more steps than any backward has


class Wrong(Exception):
    """Something that must not happen. The message says what."""


class Boom(Exception):
    """Raised by a hook."""


# ---- what the lines of a graph may use ------------------------------------------------------------------------------

def uniform(shape, seed):
    return np.asarray(np.random.default_rng(seed).uniform(-1.5, 1.5, shape))


def integers(shape, low, high, seed):
    return np.asarray(np.random.default_rng(seed).integers(low, high, shape))


def booleans(shape, seed):
    return np.asarray(np.random.default_rng(seed).random(shape) < 0.6)


def targets(shape, classes, seed):
    rng = np.random.default_rng(seed)
    return np.asarray(np.where(rng.random(shape) < 0.2, -100, rng.integers(0, classes, shape)))


def total_of(F, constant):
    """total(a, b, ...): the sum of all elements of all of them, each times another constant."""
    def total(*ts):
        sums = [F.sum(t * constant(uniform(tuple(t.shape), i))) for i, t in enumerate(ts)]
        return sums[0] if len(sums) == 1 else sums[0] + F.sum(F.stack(sums[1:]))
    return total


CONSTANTS = dict(np=np, mg=mg, integers=integers, booleans=booleans, targets=targets)


def minigrad_names(dtype):
    other = {"float64": "float32", "float32": "float64"}[dtype]

    def leaf(shape, seed):
        return Tensor(uniform(shape, seed).astype(dtype), requires_grad=True)

    def copied(x, how):
        return copy.deepcopy(x) if how == "deepcopy" else pickle.loads(pickle.dumps(x))

    def cast(x):                            # through float64 in a program in float32, which changes no value
        return x.astype(other).astype(dtype) if dtype == "float32" else x.astype(dtype)

    drawn = []                              # indices, masks and targets, which the user may write into later

    def recorded(draw):
        def array(*arguments, **named):
            drawn.append(draw(*arguments, **named))
            return drawn[-1]
        return array

    return dict(CONSTANTS, F=F, leaf=leaf, copied=copied, cast=cast, no_grad=mg.no_grad, array=lambda t: t.data,
                total=total_of(F, lambda a: Tensor(a.astype(dtype))), drawn=drawn, recompute=mg.recompute,
                integers=recorded(integers), booleans=recorded(booleans), targets=recorded(targets))


def torch_names():
    def leaf(shape, seed):
        return torch.tensor(uniform(shape, seed), requires_grad=True)

    return dict(CONSTANTS, F=torch_functions, leaf=leaf, copied=lambda x, how: x.detach().clone().requires_grad_(),
                cast=lambda x: x + 0.0, no_grad=torch.no_grad, array=lambda t: t.detach(), recompute=lambda f: f,
                total=total_of(torch_functions, torch.tensor))


def target(line):
    """The names that a line assigns: [] for a call alone."""
    found = re.match(r"(?:with no_grad\(\): )?((?:\w+, ?)*\w*) = ", line)
    return re.findall(r"\w+", found[1]) if found else []


def cut_off(line):
    """Whether no gradient flows through a line."""
    return "no_grad()" in line or ".detach()" in line


# ---- the right gradients --------------------------------------------------------------------------------------------

class Reference:
    """The values and gradients of a graph for given values of its leaves, in float64. frozen: values of results through
    which no gradient flows, which are then not computed. noise: a function of a shape; all values are multiplied by
    what it returns."""

    def __init__(self, graph, values, hooks=True, frozen=None, noise=None):
        self.names = torch_names() if torch else minigrad_names("float64")
        with contextlib.nullcontext() if torch else switch(plain=True, unfused=True):
            for line in graph:
                names = target(line)
                if not hooks and "register_hook" in line or "retain_grad" in line or line.startswith(("del ", "v")):
                    continue
                if names and names[0] in values:
                    self.names[names[0]] = self.constant(values[names[0]], requires_grad=True)
                elif frozen is not None and cut_off(line):
                    self.names |= {name: self.constant(frozen[name]) for name in names}
                else:
                    exec(line, self.names)
                for name in names:
                    if noise is not None and name[0] == "t":
                        self.names[name] = self.names[name] * self.constant(noise(self.names[name].shape))
                    if name[0] in "tl" and self.names[name].requires_grad:
                        self.names[name].retain_grad()

    def constant(self, value, requires_grad=False):
        value = np.asarray(value, "float64")
        return torch.tensor(value, requires_grad=requires_grad) if torch else Tensor(
            value.copy(), requires_grad=requires_grad)

    def tensors(self):
        return {name: x for name, x in self.names.items() if re.fullmatch(r"[xtl]\d+", name)}

    def values(self):
        return {name: x.detach().numpy() for name, x in self.tensors().items()}

    def gradients(self, name, dy=None):
        """Name -> gradient of the Tensor `name`, for every Tensor. None where there is none."""
        for x in self.tensors().values():
            x.grad = None
        self.names[name].backward(None if dy is None else self.constant(dy), retain_graph=True)
        grads = {n: x.grad for n, x in self.tensors().items()}
        return {n: None if g is None else np.array(g.numpy() if torch else g) for n, g in grads.items()}


def largest(*arrays):
    return max((float(np.abs(a).max()) for a in arrays if a is not None and np.size(a)), default=0.0)


def difference(got, want):
    """The largest difference of two gradients, where None counts as 0. Infinite for another shape and for NaN."""
    if got is None or want is None:
        return largest(got, want)
    if np.shape(got) != np.shape(want):
        return math.inf
    d = largest(np.asarray(got, "float64") - want)
    return math.inf if math.isnan(d) else d


# ---- running a program ----------------------------------------------------------------------------------------------

class Session:
    """A graph in minigrad and what is done with it. Each use checks all values that it changes, and raises `Wrong`."""

    def __init__(self, graph, dtype="float64", mode="kernels"):
        self.graph, self.dtype, self.mode = graph, dtype, mode
        self.first = [line for line in graph if line.startswith("x")]          # leaves live on when a graph is rebuilt
        self.rest = [line for line in graph if not line.startswith("x")]
        self.names = minigrad_names(dtype)
        for line in self.first:
            exec(line, self.names)
        self.totals = {name: None for name in self.leaves()}           # what .grad must be
        self.kept = []                                                  # (what, array, copy): arrays the user holds
        self.build()

    def leaves(self):
        return {name: x for name, x in self.names.items() if re.fullmatch(r"x\d+", name)}

    def build(self):
        """Run the lines of the graph, and compare all values."""
        for line in self.rest:
            exec(line, self.names)
        self.values = {name: x.numpy() for name, x in self.leaves().items()}
        self.reference, self.known, self.spoiled = Reference(self.graph, self.values), {}, False
        self.retained = {re.match(r"\w+", line)[0]: None for line in self.rest if ".retain_grad()" in line}
        self.kept = [held for held in self.kept if not held[0].startswith("v")]
        self.kept += [(name, a, a.copy()) for name, a in self.names.items() if re.fullmatch(r"v\d+", name)]
        for name, want in self.reference.values().items():
            if name in self.names:
                self.compare(f"the value of {name}", self.names[name].data, want, lambda r, name=name: r.values()[name])

    def compare(self, what, got, want, of):
        """Raise Wrong unless got is want. of: computes want from a Reference. If they differ, all values are changed by
        a little more than rounding does: near a kink or a pole want then changes as much, which is no fault."""
        scale, off = max(largest(want), SMALL[self.dtype]), difference(got, want)
        if off <= EXACT[self.dtype] * scale:
            return
        rng = np.random.default_rng(0)
        for _ in range(6):
            noise = lambda shape: 1.0 + NOISE[self.dtype] * rng.normal(size=shape)
            near = {name: v * noise(v.shape) for name, v in self.values.items()}
            if off <= 3.0 * difference(of(Reference(self.graph, near, noise=noise)), want):
                return
        raise Wrong(f"{what} is off by {off:.3g}, its largest is {largest(want):.3g}")

    def gradients(self, name, dy):
        """The right gradients of a result, and a function that computes them from another Reference."""
        array = None if dy is None else uniform(self.names[name].shape, dy)
        if (name, dy) not in self.known:
            self.known[name, dy] = self.reference.gradients(name, array)
            if not torch:
                self.check_along_a_direction(name, array)
        return self.known[name, dy], lambda reference: reference.gradients(name, array)

    def check_along_a_direction(self, name, dy):
        """Compare the gradient of the textbook's ops, without hooks, with a difference along a random direction."""
        base = Reference(self.graph, self.values, hooks=False)
        frozen, g, rng = base.values(), base.gradients(name, dy), np.random.default_rng(1)
        direction = {n: rng.normal(size=v.shape) for n, v in self.values.items()}

        def slope(start, end):
            def f(step):
                moved = {n: v + step * direction[n] for n, v in self.values.items()}
                y = Reference(self.graph, moved, hooks=False, frozen=frozen).values()[name]
                return float((y * (1.0 if dy is None else dy)).sum())
            return (f(end) - f(start)) / (end - start)

        along = sum(float((g[n] * d).sum()) for n, d in direction.items() if g.get(n) is not None)
        slopes = [slope(-eps, eps) for eps in (1e-5, 1e-6, 2e-7)]
        spread = max(slopes) - min(slopes)                             # large where a kink is between the points
        if min(abs(s - along) for s in slopes) > 1e-5 * max(1.0, abs(along)) + 3.0 * spread:
            before, after = sorted((slope(-1e-6, 0.0), slope(0.0, 1e-6)))
            if before <= along <= after:                               # a kink at the point itself: a tie of maxima
                return
            raise Wrong(f"the textbook's gradient of {name} gives {along:.9g} along a direction, differences {slopes}")

    # ---- uses: each may be a line of a program ----

    @contextlib.contextmanager
    def use(self, name, dy=None, complete=True, whole=True):
        """Around a use of `name`: checks that it adds the gradients of all leaves or, if it is interrupted or refused,
        of none. complete=False: each leaf may get its gradient or none, as where only some steps of a backward are run.
        whole=False: after a refusal any .grad is accepted."""
        before = {n: x.grad for n, x in self.leaves().items()}
        copies = {n: None if g is None else g.copy() for n, g in before.items()}
        interrupted = False
        try:
            yield
        except (Boom, KeyboardInterrupt):
            complete, interrupted, self.spoiled = False, True, True
        except ValueError as error:
            self.check_refused(error)
            if not whole:
                self.accept_grads()
                return
            complete, interrupted = False, True
        wanted, of = self.gradients(name, dy)
        added = []
        for n, x in self.leaves().items():
            want = sum_of(self.totals[n], wanted.get(n))
            if not complete and difference(x.grad, copies[n]) == 0.0:
                added += [] if wanted.get(n) is None or not largest(wanted[n]) else [False]
                continue
            self.compare(f"{n}.grad", x.grad, want, lambda r, n=n: sum_of(self.totals[n], of(r).get(n)))
            added += [] if wanted.get(n) is None or not largest(wanted[n]) else [True]
        if whole and interrupted and len(set(added)) > 1:
            raise Wrong("an interrupted backward has changed the .grad of some leaves and not of others")
        for n, old in self.retained.items() if complete else ():       # else complete or not: both are right
            self.compare(f"the retained {n}.grad", self.names[n].grad, sum_of(old, wanted.get(n)),
                         lambda r: sum_of(old, of(r).get(n)))
        self.accept_grads()                                             # so that rounding does not add up
        for what, array, copied in self.kept + [(f"an earlier {n}.grad", before[n], copies[n]) for n in before]:
            if array is not None and not np.array_equal(array, copied):
                raise Wrong(f"{what}, which the user holds, was written into")

    def check_refused(self, error):
        """Raise the error again unless it refuses a graph that was freed or whose inputs were changed."""
        if not self.spoiled or not re.search("freed|changed", str(error)):
            raise error

    def accept_grads(self):
        """From now on the .grad that is there counts as right."""
        for grads in (self.totals, self.retained):
            for n in grads:
                g = self.names[n].grad
                grads[n] = None if g is None else np.array(g, "float64")

    def backward(self, name, retain_graph=False, dy=None):
        with self.use(name, dy):
            self.names[name].backward(self.start(name, dy), retain_graph=retain_graph)
        self.spoiled = self.spoiled or not retain_graph

    def start(self, name, dy):
        return None if dy is None else uniform(self.names[name].shape, dy).astype(self.dtype)

    def steps(self, name, count=EVERY, other=None, retain_graph=False):
        """Step through the backward of `name`: all steps, or `count` of them; then run that of another, and go on
        with the first."""
        steps = iter(())
        with self.use(name, complete=count == EVERY, whole=False):
            steps = self.names[name].backward_steps(retain_graph=retain_graph)
            self.take(steps, count)
        self.spoiled = True
        if other is not None:
            with self.use(other):
                self.names[other].backward(retain_graph=retain_graph)
            with self.use(name, complete=False, whole=False):
                self.take(steps, EVERY)

    def take(self, steps, count):
        for _ in range(count):
            step = next(steps, None)
            if step is None:
                break
            for array in (step.dy if isinstance(step.dy, tuple) else (step.dy,)):
                self.kept.append((f"the dy of a Step of {step.op}", array, np.array(array)))
        self.kept = self.kept[-40:]

    def grad(self, name, *wanted):
        """mg.grad of a result with respect to some Tensors. No .grad may change."""
        before = {n: (self.names[n].grad, np.copy(self.names[n].grad)) for n in [*self.totals, *self.retained]}
        try:
            found = mg.grad(self.names[name], [self.names[n] for n in wanted])
        except ValueError as error:
            self.check_refused(error)
            found = None
        right, of = self.gradients(name, None)
        for n, g in zip(wanted, found or ()):
            self.compare(f"mg.grad({name}, {n})", g.data, right.get(n), lambda r, n=n: of(r).get(n))
        for n, (grad, copied) in before.items():
            if self.names[n].grad is not grad or grad is not None and not np.array_equal(grad, copied):
                raise Wrong(f"mg.grad has changed {n}.grad")
        self.spoiled = True

    def second(self, name, x):
        """The gradient of a product of mg.grad(name, x) with a constant, against a difference of gradients."""
        weights = uniform(self.names[x].shape, 5)
        with mg.unfused():
            names = minigrad_names(self.dtype)
            for line in self.graph:
                exec(line, names)
            g = mg.grad(names[name], names[x], create_graph=True)
            if not g.requires_grad:
                return
            found = mg.grad((g * Tensor(weights.astype(self.dtype))).sum(), names[x]).data
        values = {n: names[n].numpy() for n in self.values}
        frozen = Reference(self.graph, values).values()
        sides = []
        for eps in (1e-5, 1e-6):
            plus, minus = (Reference(self.graph, values | {x: values[x] + eps * sign * weights}, frozen=frozen)
                           .gradients(name)[x] for sign in (1.0, -1.0))
            sides.append((plus - minus) / (2.0 * eps))
        allowed = 1e-3 * max(1.0, largest(sides[0])) + 10.0 * difference(*sides)
        if min(difference(found, side) for side in sides) > allowed:
            raise Wrong(f"the second derivative of {name} by {x} is off by {difference(found, sides[0]):.3g} of "
                        f"{largest(sides[0]):.3g}")

    def fail(self, name, at, again=None):
        """A backward of `name` in which a hook on `at` raises an error."""
        raising = [True]

        def hook(g):
            if raising:
                raise Boom
        self.names[at].register_hook(hook)
        try:
            with self.use(name):
                self.names[name].backward(retain_graph=bool(again))
        finally:
            raising.clear()
        self.spoiled = True

    def interrupt(self, name, after, retain_graph=False):
        """A backward of `name` that Ctrl-C ends before a bytecode of minigrad's, the one with this number."""
        with self.use(name):
            with interrupted(after):
                self.names[name].backward(retain_graph=retain_graph)
        self.spoiled = True

    def rebuild(self, after=0):
        """Run the graph's lines again, with the values that the leaves have now; once before, interrupted by Ctrl-C."""
        modes = mg.modes.mode()
        if after:
            names = dict(self.names)
            with contextlib.suppress(KeyboardInterrupt), interrupted(after):
                for line in self.rest:
                    exec(line, names)
        if mg.modes.mode() != modes:
            raise Wrong("an interrupted forward has left another mode")
        self.build()

    def assign(self, x, seed):
        """New values for a leaf."""
        self.names[x].data = uniform(self.names[x].shape, seed).astype(self.dtype)
        self.spoiled, self.kept = True, [held for held in self.kept if held[0][0] != "v"]      # may be views of it

    def change_indices(self):
        """Write other values into all indices, masks and targets that the graph's lines have used."""
        for array in self.names["drawn"]:
            array[...] = array.ravel()[::-1].reshape(array.shape)
        self.spoiled = True

    def same_bits(self, name):
        """A backward run in one go and one run step by step, on two new graphs."""
        found = []
        for stepped in (False, True):
            names = minigrad_names(self.dtype)
            for line in self.graph:
                exec(line, names)
            if stepped:
                for _ in names[name].backward_steps():
                    pass
            else:
                names[name].backward()
            found.append({n: names[n].grad for n in self.totals})
        for n in self.totals:
            if difference(*(grads[n] for grads in found)) > 0.0:
                raise Wrong(f"{n}.grad has other bits after the steps of a backward than after the backward")

    def zero(self, x):
        self.names[x].zero_grad()
        self.totals[x] = None


USES = ("backward", "steps", "grad", "second", "fail", "interrupt", "rebuild", "assign", "zero",
        "change_indices", "same_bits")


def sum_of(a, b):
    return a if b is None else b if a is None else a + b


@contextlib.contextmanager
def interrupted(after):
    """Raise KeyboardInterrupt before a bytecode that is run in minigrad, the one with this number."""
    left = [after]

    def trace(frame, event, argument):
        if "minigrad" not in frame.f_code.co_filename or "randomised" in frame.f_code.co_filename or (
                frame.f_code.co_name == "__del__"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def check(graph, uses, dtype="float64", mode="kernels"):
    """Run a program, given as two texts or two lists of lines. Raises Wrong."""
    graph, uses = (text.strip().splitlines() if isinstance(text, str) else text for text in (graph, uses))
    line = "the graph"
    try:
        with MODES[mode](), np.errstate(all="ignore"):
            session = Session(graph, dtype, mode)
            for line in uses:
                exec(line, {name: getattr(session, name) for name in USES})
    except Wrong as error:
        raise Wrong(f"{line}: {error}") from None
    except Exception as error:
        raise Wrong(f"{line}: {type(error).__name__}: {error}\n"
                    f"{''.join(traceback.format_exception(error, chain=False))}") from None


# ---- drawing a program ----------------------------------------------------------------------------------------------

def draw(rng):
    """A random program: the arguments of `check`."""
    d, calls = Draft(rng), list(CALLS)
    dtype = d.among(["float64", "float64", "float32"])
    mode = d.among(["kernels", "small kernels", "small kernels", "plain", "unfused"])
    names, chosen = minigrad_names("float64"), [d.among(calls) for _ in range(4)]
    n = 0                                   # how many results there are

    def run(line):
        exec(line, names)
        d.lines.append(line)

    for _ in range(d.integer(5, 40)):
        before = len(d.lines)
        call = CALLS[d.among(chosen) if d.chance(0.3) else d.among(calls)](d)
        text, count = call if isinstance(call, tuple) else (call, None)
        for line in d.lines[before:]:
            exec(line, names)                                          # new leaves
        out = [f"t{n + i}" for i in range(count or 1)]
        line = f"{', '.join(out)}{',' if count == 1 else ''} = {text}"
        line = f"with no_grad(): {line}" if d.chance(0.04) else line
        with mg.plain(), np.errstate(all="ignore"):
            try:
                exec(line, names)
            except Exception:                   # a fault: `check` will find it
                return [*d.lines, line], ["rebuild()"], dtype, mode
        results = [names[name] for name in out]
        if any(t.size > LARGEST or not largest(t.data) < 1e3 for t in results):
            for name in out:
                del names[name]
            continue
        d.lines.append(line)
        n += len(out)
        for name, t in zip(out, results):
            d.shapes[name] = t.shape
            d.gradients += [name] if t.requires_grad else []
        if "F.adamw" in text or "F.sgd" in text:        # the composed form computes one output from another
            d.outputs += out
        extra(d, out[0], names, run, n)
        if f"t{n}" in names:
            d.shapes[f"t{n}"] = names[f"t{n}"].shape
            n += 1
    alive = [name for name in d.gradients if name[0] == "t" and name in d.shapes]
    if not alive:
        return draw(rng)
    used = re.findall(r"\w+", "\n".join(line.partition(" = ")[2] for line in d.lines))
    ends = [name for name in alive if name not in used]                # with these, l0 depends on every line
    losses = {"l0": ends or alive[-1:]}
    for i in range(1, d.integer(1, 3)):
        losses[f"l{i}"] = dict.fromkeys(d.among(alive) for _ in range(d.integer(1, 4)))
    for name, terms in losses.items():
        run(f"{name} = total({', '.join(terms)})")
    return d.lines, draw_uses(d, list(losses), alive, len(d.lines)), dtype, mode


def extra(d, name, names, run, n):
    """At random: what users do to a result besides computing with it."""
    x = d.among([x for x in d.shapes if x[0] == "x"] or [None])
    if names[name].requires_grad and name not in d.outputs and d.chance(0.06):
        run(f"{name}." + d.among(["register_hook(lambda g: None)", "register_hook(lambda g: g * 2.0)",
                                  "retain_grad()"]))
    if x and d.chance(0.03):
        run(f"{x}.register_hook(lambda g: {d.among(['None', 'g * 3.0'])})")
    if d.chance(0.04):
        run(f"t{n} = {d.among(list(d.shapes))}.detach()")
    if d.chance(0.08):
        run(f"v{n} = array({name})")
    if x and d.chance(0.03) and not any(line.startswith(f"{x}.register_hook") for line in d.lines):
        run(f"x{d.leaves} = copied({x}, {d.among(['deepcopy', 'pickle'])!r})")
        d.shapes[f"x{d.leaves}"] = d.shapes[x]
        d.gradients.append(f"x{d.leaves}")
        d.leaves += 1
    if d.chance(0.1):
        gone = d.among([t for t in d.shapes if t[0] == "t"])
        if not any(line.startswith(f"{gone}.retain_grad") for line in d.lines):
            run(f"del {gone}")
            del d.shapes[gone]


def draw_uses(d, losses, alive, size):
    """Lines for a Session."""
    names = [name for name in d.shapes if name[0] == "x"] + [name for name in alive if name not in d.outputs]
    leaves = [name for name in d.shapes if name[0] == "x"]
    keep = lambda: f", retain_graph={d.chance(0.7)}"
    loss = lambda: repr(d.among(losses))
    kinds = [
        lambda: f"backward({loss()}{keep()})", lambda: f"backward({loss()}{keep()})",
        lambda: f"backward({d.among(alive)!r}{keep()}, dy={d.seed()})",
        lambda: f"steps({loss()}{keep()})", lambda: f"steps({loss()}, {d.integer(1, size)}{keep()})",
        lambda: f"steps({loss()}, {d.integer(1, size)}, other={loss()}{keep()})",
        lambda: f"grad({loss()}, {', '.join(repr(d.among(names)) for _ in range(d.integer(1, 3)))})",
        lambda: f"fail({loss()}, {d.among(names)!r})", lambda: f"fail({loss()}, {d.among(names)!r})",
        lambda: f"interrupt({loss()}, after={d.integer(1, 150 * size)}{keep()})",
        lambda: f"interrupt({loss()}, after={d.integer(1, 150 * size)}{keep()})",
        lambda: f"assign({d.among(leaves)!r}, seed={d.seed()})", lambda: f"zero({d.among(leaves)!r})",
        lambda: "change_indices()", lambda: f"same_bits({loss()})",
        lambda: f"rebuild({d.among(['', f'after={d.integer(1, 150 * size)}'])})", lambda: "rebuild()",
    ]
    uses = []
    for _ in range(d.integer(1, 6)):
        uses += [d.among(kinds)()] + (["rebuild()"] if d.chance(0.3) else [])
    hooked = any("register_hook" in line or "retain_grad" in line or "copied" in line for line in d.lines)
    if not hooked and d.chance(0.2):
        uses.append(f"second({loss()}, {d.among(leaves)!r})")
    return [*uses, f"backward({loss()})"]


# ---- shrinking and printing -----------------------------------------------------------------------------------------

def smaller(graph, uses, i):
    """Programs in which line i of the graph is gone, because no other line needs it; is a sum of fewer terms; or is a
    new leaf in place of a result."""
    line, before, after = graph[i], graph[:i], graph[i + 1:]
    names = target(line)
    words = re.findall(r"\w+", "\n".join([*before, *after, *uses]))
    if not any(name in words for name in names):
        yield [*before, *after], uses
    start, _, terms = line.partition(" = total(")
    terms = terms.rstrip(")").split(", ")
    for k in range(len(terms) if len(terms) > 1 else 0):
        yield [*before, f"{start} = total({', '.join(terms[:k] + terms[k + 1:])})", *after], uses
    if len(names) == 1 and names[0][0] == "t" and (shape := shape_of(graph[:i + 1], names[0])) is not None:
        new = f"x{1 + max((int(word[1:]) for word in words if re.fullmatch('x[0-9]+', word)), default=0)}"
        after, renamed = ([re.sub(rf"\b{names[0]}\b", new, part) for part in part_of] for part_of in (after, uses))
        yield [*before, f"{new} = leaf({shape}, seed={i})", *after], renamed


def pruned(graph, uses):
    """The program without the lines that its uses do not depend on."""
    kept, needed = [], set(re.findall(r"\w+", "\n".join(uses)))
    for line in reversed(graph):
        if needed.intersection(target(line) or re.findall(r"\w+", line)):
            kept.insert(0, line)
            needed.update(re.findall(r"\w+", line))
    return kept, uses


def shape_of(graph, name):
    names = minigrad_names("float64")
    try:
        with np.errstate(all="ignore"):
            for line in graph:
                exec(line, names)
    except Exception:
        return None
    return names[name].shape


def shrink(graph, uses, dtype, mode, message, tries=300):
    """The smallest program found that fails in the same way, and its message."""
    def kind(message):
        return re.sub(r"[\W\d]+", " ", message.split(": ", 1)[-1])[:25]

    def fails(less, prune=True):
        nonlocal graph, uses, message, tries
        less = pruned(*less) if prune else less
        tries -= 1
        try:
            if tries > 0 and less[1] and less != (graph, uses):
                check(*less, dtype, mode)
        except Wrong as error:
            if kind(str(error)) == kind(message):
                (graph, uses), message = less, str(error)
                return True
        return False

    prune = fails((graph, uses))
    size = None
    while size != (size := len("".join([*graph, *uses]))):
        for i in reversed(range(len(uses))):
            fails((graph, uses[:i] + uses[i + 1:]), prune)
        for i in reversed(range(len(graph))):
            if i < len(graph):              # it may have become shorter
                any(fails(less, prune) for less in smaller(graph, uses, i))
    return graph, uses, message


def script(graph, uses, dtype, mode):
    """A program that repeats a fault, to run from the root of the repository."""
    text = "\n".join
    return (f'from tests.randomised.programs import check\n\nGRAPH = """\n{text(graph)}\n"""\nUSES = """\n{text(uses)}'
            f'\n"""\ncheck(GRAPH, USES, dtype={dtype!r}, mode={mode!r})\n')


def trial(rng):
    """Draw a program and run it. Returns None, or what is wrong and a script that repeats it."""
    graph, uses, dtype, mode = draw(rng)
    try:
        check(graph, uses, dtype, mode)
    except Wrong as error:
        graph, uses, message = shrink(graph, uses, dtype, mode, str(error))
        return message, script(graph, uses, dtype, mode)
    return None
