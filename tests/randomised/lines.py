"""Random source lines: one call of an op each, on the Tensors of the lines before. They run in minigrad and, with
tests/randomised/torch_functions.py as F, in PyTorch."""
import math

SIZES = [1, 1, 2, 3, 3, 4, 5, 7, 11]
LARGEST = 4000                              # elements of a Tensor


class Draft:
    """A program while it is drawn: its lines, and the shape of each Tensor. Everything is a function of rng."""

    def __init__(self, rng):
        self.rng = rng
        self.lines = []
        self.shapes = {}                    # name of a Tensor -> its shape
        self.gradients = []                 # names of those that need a gradient
        self.outputs = []                   # names of the outputs of optimizers' steps
        self.leaves = 0

    # ---- numbers and shapes ----

    def chance(self, p):
        return bool(self.rng.random() < p)

    def among(self, options):
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low, high):
        """low <= an integer <= high."""
        return int(self.rng.integers(low, high + 1))

    def seed(self):
        return self.integer(0, 10 ** 6)

    def shape(self, low=0, high=4):
        while True:
            shape = tuple(self.among(SIZES) for _ in range(self.integer(low, high)))
            if shape and self.chance(0.03):
                shape = (self.among([64, 97]), *shape[1:])
            if math.prod(shape) <= LARGEST:
                return shape

    def broadcasting_with(self, shape):
        """A shape that broadcasts with this one; the result may be larger than both."""
        other = self.part_of(shape)
        if self.chance(0.2):
            pairs = zip(other[::-1], shape[::-1])
            other = tuple(self.among([2, 3]) if n == m == 1 else n for n, m in pairs)[::-1]
            other = (self.among([1, 2, 3]), *([1] * (len(shape) - len(other))), *other)
        return other

    def part_of(self, shape):
        """A shape that broadcasts to this one."""
        first = self.integer(0, len(shape)) if self.chance(0.4) else 0
        return tuple(1 if self.chance(0.3) else n for n in shape[first:])

    def axis(self, ndim):
        return self.integer(-ndim, ndim - 1)

    def reduction(self, ndim):
        """Arguments axis and keepdims, as text."""
        axis = self.among([None, self.axis(ndim), tuple(sorted(self.rng.permutation(ndim)[:self.integer(1, ndim)]))])
        axis = axis if not isinstance(axis, tuple) else tuple(int(a) - (ndim if self.chance(0.3) else 0) for a in axis)
        return f"axis={axis}, keepdims={self.chance(0.5)}"

    def array(self, kind, shape, *bounds):
        """A constant array, as text: integers in low .. high - 1, or booleans."""
        if kind == "integers":
            return f"integers({shape}, {bounds[0]}, {bounds[1]}, seed={self.seed()})"
        return f"booleans({shape}, seed={self.seed()})"

    # ---- Tensors ----

    def leaf(self, shape):
        name = f"x{self.leaves}"
        self.leaves += 1
        self.lines.append(f"{name} = leaf({shape}, seed={self.seed()})")
        self.shapes[name] = shape
        self.gradients.append(name)
        return name

    def pick(self, fits=lambda shape: True, else_shape=None):
        """The name of a Tensor whose shape fits, recent ones more often; a new leaf if there is none."""
        names = [name for name, shape in self.shapes.items() if fits(shape)]
        if self.chance(0.8):                # otherwise most soon have one element
            names = [name for name in names if math.prod(self.shapes[name]) > 1] or names
        if not names or self.chance(0.05):
            shape = else_shape if else_shape is not None else self.shape()
            return self.leaf(shape if fits(shape) else self.drawn(fits))
        return names[-1 - int(min(self.rng.exponential(3.0), len(names) - 1))]

    def drawn(self, fits):
        while not fits(shape := self.shape()):
            pass
        return shape

    def of_shape(self, shape):
        """A Tensor of this shape: one that exists already, or a new leaf."""
        return self.pick(lambda other: other == shape, shape)

    def operand(self, shape):
        """Something that broadcasts with this shape."""
        if self.chance(0.1):
            return str(round(self.rng.uniform(0.3, 2.0), 3))
        return self.of_shape(self.broadcasting_with(shape))

    def with_axes(self, low, high=9):
        name = self.pick(lambda shape: low <= len(shape) <= high)
        return name, self.shapes[name]

    def pair(self):
        x = self.pick()
        return (x, self.operand(self.shapes[x])) if self.chance(0.8) else (x, x)


def full(shape):
    """Whether an array of this shape has elements."""
    return 0 not in shape


def binary(text, numbers=True):
    def line(d):
        a, b = d.pair()
        return text.format(a, b if numbers or b in d.shapes else a)
    return line


def unary(text):
    return lambda d: text.format(d.pick())


def where(d):
    a, b = d.pair()
    return f"F.where({d.array('booleans', d.part_of(d.shapes[a]))}, {a}, {b})"


def reduction(name, least=1, extra=""):
    def line(d):
        x = d.pick(lambda shape: len(shape) >= least and full(shape))
        return f"F.{name}({x}, {d.reduction(len(d.shapes[x]))}{extra})"
    return line


def reshape(d):
    x = d.pick()
    n, shape = math.prod(d.shapes[x]), []
    while n > 1 and len(shape) < 3:
        part = d.among([k for k in range(1, n + 1) if n % k == 0])
        shape.append(part)
        n //= part
    shape = tuple([*shape, n] if n != 1 or d.chance(0.3) else shape)
    if shape and full(shape) and d.chance(0.3):
        at = d.integer(0, len(shape) - 1)
        shape = (*shape[:at], -1, *shape[at + 1:])
    return f"F.reshape({x}, {shape})"


def transpose(d):
    x, shape = d.with_axes(0)
    axes = None if d.chance(0.3) else tuple(int(i) for i in d.rng.permutation(len(shape)))
    return f"F.transpose({x}, {axes})"


def swapaxes(d):
    x, shape = d.with_axes(1)
    return f"F.swapaxes({x}, {d.axis(len(shape))}, {d.axis(len(shape))})"


def broadcast_to(d):
    x = d.pick()
    shape = tuple(d.among([1, 2, 3]) if n == 1 else n for n in d.shapes[x])
    return f"F.broadcast_to({x}, {(d.among([1, 2, 3]), *shape) if d.chance(0.5) else shape})"


def squeeze(d):
    x = d.pick(lambda shape: 1 in shape, (3, 1, 2))
    ones = [i for i, n in enumerate(d.shapes[x]) if n == 1]
    return f"F.squeeze({x}, {d.among([None, d.among(ones), tuple(ones)])})"


def expand_dims(d):
    x, shape = d.with_axes(0, 3)
    return f"F.expand_dims({x}, {d.among([0, -1, (0, -1), len(shape)])})"


def concatenate(d):
    x, shape = d.with_axes(1)
    axis = d.axis(len(shape))
    others = []
    for _ in range(d.integer(0, 3)):
        other = list(shape)
        other[axis] = d.among([shape[axis], 1, 2, 3])
        others.append(d.of_shape(tuple(other)))
    return f"F.concatenate([{', '.join([x, *others])}], axis={axis})"


def stack(d):
    x = d.pick()
    others = [d.of_shape(d.shapes[x]) for _ in range(d.integer(0, 2))]
    return f"F.stack([{', '.join([x, *others])}], axis={d.axis(len(d.shapes[x]) + 1)})"


def split(d):
    x, shape = d.with_axes(1)
    axis = d.axis(len(shape))
    n = shape[axis]
    parts = [k for k in (1, 2, 3, 5) if k <= n and n % k == 0]
    if parts and d.chance(0.5):
        sections = d.among(parts)
        count = sections
    else:
        sections = sorted(d.integer(0, n) for _ in range(d.integer(1, 2)))
        count = len(sections) + 1
    return f"F.split({x}, {sections}, axis={axis})", count


def split_heads(d):
    x = d.pick(lambda shape: len(shape) == 3 and full(shape) and shape[2] % 3 == 0, (2, 5, 12))
    C = d.shapes[x][2] // 3
    return f"F.split_heads({x}, {d.among([n for n in (1, 2, 3, 4) if C % n == 0])})", 3


def merge_heads(d):
    return f"F.merge_heads({d.pick(lambda shape: len(shape) == 4, (2, 3, 5, 4))})"


def index_of(d, shape):
    """An index of any kind for an array of this shape, as text."""
    if d.chance(0.15) and shape:
        return d.array("booleans", shape[:d.integer(1, len(shape))])
    if d.chance(0.1) and len(shape) >= 2 and full(shape[:2]):
        several = d.among([(), (4,), (2, 3)])
        return f"({d.array('integers', several, -shape[0], shape[0])}, " \
               f"{d.array('integers', several, 0, shape[1])})"
    parts = []
    for n in shape[:d.integer(0, len(shape))]:
        kinds = [":", "::-1", f"{d.integer(0, n)}:", f":{d.integer(-n, n)}", f"{d.integer(0, n)}::2", "None, :"]
        if n:
            kinds += [str(d.integer(-n, n - 1)), str([d.integer(-n, n - 1) for _ in range(d.integer(1, 4))]),
                      d.array("integers", d.among([(1,), (6,), (2, 3)]), -n, n)]
        parts.append(d.among(kinds))
    if d.chance(0.2) and len(parts) < 4:
        parts.insert(0 if len(parts) == len(shape) else len(parts), "...")
    if sum("[" in part or "(" in part for part in parts) > 1:       # arrays would have to broadcast
        parts = [":" if "[" in part or "(" in part else part for part in parts]
    return f"np.s_[{', '.join(parts)}]" if parts else "np.s_[...]"


def getitem(d):
    x = d.pick()
    return f"F.getitem({x}, {index_of(d, d.shapes[x])})"


def scatter_add(d):
    x = d.pick(lambda shape: len(shape) >= 1 and full(shape), (4, 3))
    n, *rest = d.shapes[x]
    size = d.among([1, 3, 8])
    return f"F.scatter_add({x}, {d.array('integers', (n,), -size, size)}, {(size, *rest)})"


def matmul(d):
    a, shape = d.with_axes(1)
    k = shape[-1]
    if d.chance(0.2):
        b = d.of_shape((k,))
    else:
        lead = d.broadcasting_with(shape[:-2]) if len(shape) > 2 or d.chance(0.2) else ()
        b = d.of_shape((*lead, k, d.among(SIZES)))
    return d.among([f"F.matmul({a}, {b})", f"{a} @ {b}"])


def linear(d):
    x, shape = d.with_axes(1)
    out = d.among(SIZES)
    w = d.of_shape((shape[-1], out))
    return f"F.linear({x}, {w}, {d.of_shape((out,))})" if d.chance(0.7) else f"F.linear({x}, {w})"


def softmax(name):
    def line(d):
        x = d.pick(lambda shape: shape != () and full(shape))
        return f"F.{name}({x}, axis={d.axis(len(d.shapes[x]))})"
    return line


def layer_norm(d):
    x = d.pick(lambda shape: shape != () and full(shape) and shape[-1] > 1, (3, 5))
    C = d.shapes[x][-1:]
    b = f", {d.of_shape(C)}" if d.chance(0.7) else ""
    return f"F.layer_norm({x}, {d.of_shape(C)}{b}{d.among(['', ', eps=0.1'])})"


def embedding(d):
    w = d.pick(lambda shape: len(shape) == 2 and full(shape), (7, 3))
    return f"F.embedding({w}, {d.array('integers', d.shape(0, 2), 0, d.shapes[w][0])})"


def key(d):
    return f"mg.random.key({d.seed()}, {d.integer(0, 9)})"


def dropout(d):
    return f"F.dropout({d.pick()}, {d.among([0.0, 0.1, 0.5])}, {key(d)})"


def attention(d):
    q = d.pick(lambda shape: len(shape) >= 2 and full(shape), (2, 5, 4))
    *lead, T, D = d.shapes[q]
    S = d.among([T, d.among(SIZES)])
    k, v = d.of_shape((*lead, S, D)), d.of_shape((*lead, S, d.among([D, d.among(SIZES)])))
    mask = d.array("booleans", (T, S) if d.chance(0.7) else (*lead, T, S)) if d.chance(0.4) else None
    drop = f", dropout=0.2, key={key(d)}" if d.chance(0.3) else ""
    return f"F.scaled_dot_product_attention({q}, {k}, {v}, causal={d.chance(0.5)}, mask={mask}{drop})"


def targets(d, shape, classes):
    return f"targets({shape}, {classes}, seed={d.seed()})"          # some of them -100


def cross_entropy(d):
    x = d.pick(lambda shape: shape != () and full(shape), (4, 7))
    *rows, V = d.shapes[x]
    return (f"F.cross_entropy({x}, {targets(d, tuple(rows), V)}, label_smoothing={d.among([0.0, 0.0, 0.1])}, "
            f"reduction={d.among(['mean', 'sum', 'none'])!r})")


def linear_cross_entropy(d):
    x = d.pick(lambda shape: shape != () and full(shape), (2, 3, 5))
    *rows, C = d.shapes[x]
    V = d.among([2, 3, 7, 11])
    return (f"F.linear_cross_entropy({x}, {d.of_shape((V, C))}, {targets(d, tuple(rows), V)}, "
            f"reduction={d.among(['mean', 'sum'])!r}, rows={d.among([1, 2, 1024])})")


def gradient_of(d, p):
    """A Tensor of the shape of p that needs a gradient, so that all outputs of an optimizer's step do."""
    g = d.of_shape(d.shapes[p])
    return g if g in d.gradients else d.leaf(d.shapes[p])


def adamw(d):
    p = d.pick()
    g, m, v = gradient_of(d, p), d.of_shape(d.shapes[p]), d.of_shape(d.shapes[p])
    lr = d.of_shape(()) if d.chance(0.3) else 0.1
    return f"F.adamw({p}, {g}, {m}, F.abs({v}) + 0.3, {lr}, 0.8, 0.9, 0.01, 0.3, t={d.integer(1, 5)})", 3


def sgd(d):
    p = d.pick()
    g, m = gradient_of(d, p), d.of_shape(d.shapes[p])
    momentum = d.of_shape(()) if d.chance(0.3) else 0.8
    return f"F.sgd({p}, {g}, {m}, 0.1, {momentum}, 0.3, nesterov={d.chance(0.5)})", 2


# Name of an op -> a function that draws a call of it: its text, or the text and the number of outputs. The arguments
# keep away from the poles and kinks of an op where the values alone would not.
CALLS = {
    "add": binary("{} + {}"), "sub": binary("{} - {}"), "mul": binary("{} * {}"),
    "div": binary("{} / (F.abs({}) + 0.5)", numbers=False), "neg": unary("-{}"),
    "pow": binary("F.pow(F.abs({}) + 0.5, F.tanh({}))", numbers=False), "exp": unary("F.exp(F.tanh({}))"),
    "log": unary("F.log(F.abs({}) + 0.5)"), "sqrt": unary("F.sqrt(F.abs({}) + 0.5)"), "tanh": unary("F.tanh({})"),
    "sigmoid": unary("F.sigmoid({})"), "relu": unary("F.relu({})"), "gelu": unary("F.gelu({})"),
    "abs": unary("F.abs({})"), "maximum": binary("F.maximum({}, {})"), "minimum": binary("F.minimum({}, {})"),
    "where": where,
    "clip": unary("F.clip({}, -0.7, 0.9)"), "astype": unary("cast({})"),
    "sum": reduction("sum"), "mean": reduction("mean"), "max": reduction("max"), "min": reduction("min"),
    "var": reduction("var"), "logsumexp": reduction("logsumexp"),
    "reshape": reshape, "transpose": transpose, "swapaxes": swapaxes, "broadcast_to": broadcast_to,
    "squeeze": squeeze, "expand_dims": expand_dims, "concatenate": concatenate, "stack": stack, "split": split,
    "split_heads": split_heads, "merge_heads": merge_heads, "getitem": getitem, "scatter_add": scatter_add,
    "matmul": matmul, "linear": linear, "softmax": softmax("softmax"), "log_softmax": softmax("log_softmax"),
    "layer_norm": layer_norm, "embedding": embedding, "dropout": dropout, "attention": attention,
    "cross_entropy": cross_entropy, "linear_cross_entropy": linear_cross_entropy, "adamw": adamw, "sgd": sgd,
    "recompute": binary("recompute(lambda a, b: F.tanh(a) * b + F.relu(b))({}, {})", numbers=False),
}
