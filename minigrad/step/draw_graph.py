"""The graph of a forward as a picture, in SVG: on each wire the value above, and its gradient below.

Boxes stand in layers, each to the right of everything that it depends on. The order within the layers and the heights
follow Sugiyama, Tagawa & Toda 1981, "Methods for visual understanding of hierarchical system structures": wires that
span several layers pass through a point in each, barycentres of the neighbours reduce the crossings, and each box is
put as near to the mean height of its neighbours as its layer allows.
"""
import html
import math
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np

from minigrad import device
from minigrad.step.caller_names import names_of_caller
from minigrad.step.rerun import nodes_of, on_host
from minigrad.step.step import backward_steps
from minigrad.tape import Node
from minigrad.tensor import Tensor
from minigrad.words import plural

MOST_OPS = 16                                   # graphs of more are folded
LIMIT = 600                                     # boxes that are drawn at all
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "/", "neg": "−", "pow": "**", "matmul": "@"}
SWEEPS = 12
PITCH, GAP = 42, 14                             # between the outputs of a box; between the boxes of a layer
CHARACTER = 7.3                                 # width of one
MARGIN = 12
PAPER = 'style="color:#1b2230;background:#fff" '            # of a file; in a notebook its colours are inherited

STYLE = """
.minigrad-graph text { font: 13px system-ui, sans-serif; fill: currentColor; text-anchor: middle; }
.minigrad-graph .note { font-size: 12px; opacity: .75; }
.minigrad-graph .leaf { font-weight: 600; }
.minigrad-graph .symbol { font-size: 17px; }
.minigrad-graph .value { fill: #15803d; fill: color-mix(in srgb, #16a34a 72%, currentColor); }
.minigrad-graph .gradient { fill: #c62828; fill: color-mix(in srgb, #ef4444 78%, currentColor); }
.minigrad-graph .value, .minigrad-graph .gradient { font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: 12px; font-weight: 600; }
.minigrad-graph .box { fill: currentColor; fill-opacity: .06; stroke: currentColor; stroke-opacity: .65; }
.minigrad-graph .constant { stroke-dasharray: 3 3; }
.minigrad-graph .wire { fill: none; stroke: currentColor; stroke-opacity: .55; stroke-width: 1.4; }
.minigrad-graph .tip { fill: currentColor; fill-opacity: .7; }
"""


def draw(loss: Tensor, path: str | Path | None = None, *, gradients: bool = True, depth: int | None = None,
         names: Mapping[str, Tensor] | None = None) -> "Drawing":
    """The graph that a Tensor depends on, as a Drawing, which a notebook shows.

    On each wire stand the value, in green above it, and the gradient of the loss with respect to it, in red below; of
    an array its shape and its norm. A backward runs for this, which leaves the graph and every `.grad` as they are.
    Without one there are no gradients in the picture: with gradients=False, and for a Tensor of several elements.

    Args:
        path: also write the picture into this file: "graph.svg".
        depth: fold modules so that of their paths at most this many parts are seen: with 2, everything in "h.0" is one
            box. By default nothing is folded in a graph of up to 16 ops; in a larger one as little as makes it so.
        names: what to call leaves, as for `record`.

    Raises ValueError for a Tensor that has no graph, a graph that was freed by a backward or has more than 600 boxes, a
    depth below 1, and a path that does not end in ".svg".
    """
    if not isinstance(loss, Tensor) or loss.node is None:
        given = f"a leaf of shape {loss.shape}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError("draw needs a Tensor made from at least one that has requires_grad=True, outside no_grad(); "
                         f"got {given}")
    if path is not None and Path(path).suffix != ".svg":
        raise ValueError(f"the picture is in SVG: give a file like {Path(path).with_suffix('.svg').name!r}, not "
                         f"{Path(path).name!r}")
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be a whole number of at least 1, got {depth}")
    called = names_of_caller() | {t.key: name for name, t in (names or {}).items()}
    boxes = _boxes(loss, depth, called)
    if len(boxes) > LIMIT:
        raise ValueError(f"this graph has {len(boxes)} boxes, draw takes up to {LIMIT}: draw the loss of one example, "
                         "or put parts of the model into modules, which are folded")
    if gradients and loss.size == 1:
        _add_gradients(boxes, loss)
    folded = sum(box.kind == "module" for box in boxes)
    drawing = Drawing(_svg(_layers(boxes)), f"graph of {plural(len(list(nodes_of(loss))), 'op')}" +
                      (f", {plural(folded, 'module')} folded" if folded else ""))
    if path is not None:
        drawing.save(path)
    return drawing


class Drawing:
    """A picture in SVG. As the last line of a notebook's cell it is shown."""

    def __init__(self, svg: str, title: str) -> None:
        self.svg, self.title = svg, title

    def save(self, path: str | Path) -> None:
        """Write the picture into a file that a browser opens."""
        Path(path).write_text(self.svg, encoding="utf-8")

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg.replace(PAPER, "")}</div>'

    def __repr__(self) -> str:
        return f'<{self.title}: shown in a notebook; .save("graph.svg") writes a file>'


# ---- what is drawn --------------------------------------------------------------------------------------------------

@dataclass(eq=False)
class Output:
    """A value on the wires that leave a box."""
    key: Any                        # Tensor.key
    value: str = ""                 # "d = -6", "(4, 3) norm 2.31"
    gradient: str = ""


@dataclass(eq=False)
class Box:
    """A leaf, a constant, an op, a folded module, or a bend: a point where a long wire passes through a layer."""
    kind: str
    label: str
    note: str = ""                  # in a second line
    place: str = ""                 # the line of the forward
    ins: list[tuple["Box", int]] = field(default_factory=list)         # of each wire that enters it: box and output
    outs: list[Output] = field(default_factory=list)
    layer: int = 0
    position: float = 0.0           # in its layer
    y: float = 0.0                  # of its centre

    @property
    def width(self) -> float:
        if self.kind == "bend":
            return 0.0
        return max(34.0, 20.0 + CHARACTER * max(len(self.label) if len(self.label) > 2 else 0, 0.92 * len(self.note)))

    @property
    def height(self) -> float:
        if self.kind == "bend":
            return 0.0
        return max(42.0 if self.note else 34.0, PITCH * len(self.outs) - 8.0, 14.0 * len(self.ins) + 6.0)

    def enters(self, i: int) -> float:
        """Height at which wire number i enters."""
        n = len(self.ins)
        return self.y + (i - 0.5 * (n - 1)) * min(14.0, (self.height - 6.0) / max(n, 1))

    def leaves(self, out: int) -> float:
        """Height at which the wires of an output leave."""
        return self.y + (out - 0.5 * (len(self.outs) - 1)) * PITCH


def _boxes(loss: Tensor, depth: int | None, called: Mapping[Any, str]) -> list[Box]:
    """The boxes of a graph, each after those that it depends on. called: names of variables, by Tensor.key."""
    groups = _groups(list(nodes_of(loss)), depth)
    home = {node.seq: g for g, (_, group) in enumerate(groups) for node in group}
    tensors: dict[Any, Tensor] = {loss.key: loss}
    used_in: dict[Any, set[int]] = {loss.key: {len(groups)}}    # Tensor.key -> groups; one more for the loss
    inputs = [[pair for node in group for pair in _inputs(node)] for _, group in groups]
    for g, pairs in enumerate(inputs):
        for x, _ in pairs:
            tensors[x.key] = x
            used_in.setdefault(x.key, set()).add(g)
    made_in: list[set[Any]] = [set() for _ in groups]
    for key, x in tensors.items():
        if x.node is not None:
            made_in[home[x.node.seq]].add(key)
    boxes: list[Box] = []
    wires: dict[Any, tuple[Box, int]] = {}      # Tensor.key -> the box that it leaves, and which output it is there
    for g, ((path, group), pairs) in enumerate(zip(groups, inputs)):
        folded = len(group) > 1
        ins: list[tuple[Box, int]] = []
        inside: set[Any] = set()                # the leaves that only this folded module uses
        for x, name in pairs:
            if x.node is None and x.key not in wires:
                if folded and used_in[x.key] == {g} and x.key not in called:
                    inside.add(x.key)
                    continue
                unnamed = f"leaf{sum(box.kind == 'leaf' for box in boxes)}" if x.requires_grad else "constant"
                label = getattr(x, "name", "") or called.get(x.key) or called.get(id(x.data)) or name or unnamed
                boxes.append(Box("leaf" if x.requires_grad else "constant", label, outs=[Output(x.key, _value(x))]))
                wires[x.key] = boxes[-1], 0
            if x.key not in made_in[g] and not (folded and wires[x.key] in ins):
                ins.append(wires[x.key])
        last = group[-1]
        if folded:
            parameters = f", {plural(len(inside), 'parameter')}" if inside else ""
            box = Box("module", path, f"{len(group)} ops{parameters}", ins=ins)
        else:
            box = Box("op", _op_label(last), last.module, last.created_at, ins)
        boxes.append(box)
        for key in sorted(made_in[g]):
            if used_in[key] != {g}:
                wires[key] = box, len(box.outs)
                box.outs.append(Output(key, (f"{called[key]} = " if key in called else "") + _value(tensors[key])))
    return boxes


def _inputs(node: Node) -> Iterator[tuple[Tensor, str]]:
    """The Tensors among the inputs of a node, and its keyword arguments that are arrays, with their names."""
    yield from ((x, "") for x in node.inputs if isinstance(x, Tensor))
    yield from ((Tensor(a), name) for name, a in node.static.items() if device.is_array(a) and a.ndim)


def _groups(nodes: list[Node], depth: int | None) -> list[tuple[str, list[Node]]]:
    """The nodes, oldest first, in groups of which each becomes a box, with the path of the module that it is: single
    nodes, whose path does not matter, and runs within one module."""
    if depth is None:
        found = [("", [node]) for node in nodes]
        depths = iter(range(max(node.module.count(".") for node in nodes) + 1, 0, -1))
        while len(found) > MOST_OPS and (depth := next(depths, None)):
            found = _groups(nodes, depth)
        return found
    groups = []
    for path, run in groupby(nodes, lambda node: _prefix(node, depth)):
        groups += [(path, list(run))] if path else [("", [node]) for node in run]
    return groups


def _prefix(node: Node, depth: int) -> str:
    """The first `depth` parts of the path of a node's module; "" if the path has fewer."""
    parts = node.module.split(".")
    return ".".join(parts[:depth]) if len(parts) >= depth else ""


def _op_label(node: Node) -> str:
    """The op as it is written in code, with its inputs that are numbers: "+", "2 ×", "tanh"."""
    symbol = SYMBOLS.get(node.op_class.name, node.op_class.name)
    numbers = [x if not isinstance(x, Tensor) else None for x in node.inputs]
    if len(numbers) == 2 and symbol != node.op_class.name:
        before, after = (f"{x:.4g}" if x is not None else "" for x in numbers)
        return f"{before} {symbol} {after}".strip()
    return symbol


def _value(x: Any) -> str:
    """A number, or the shape and norm of an array; of integers the dtype in place of the norm."""
    a = np.asarray(on_host(x))
    if a.size == 1:
        return f"{a.item():.4g}"
    return f"{a.shape} {_norm(a)}" if a.dtype.kind not in "biu" else f"{a.shape} {a.dtype}"


def _norm(a: Any) -> str:
    return f"norm {float(np.linalg.norm(a.astype(np.float64))):.3g}"


def _add_gradients(boxes: list[Box], loss: Tensor) -> None:
    """Run a backward that changes no `.grad` and write the gradients to the outputs."""
    found: dict[Any, str] = {}

    def add(key: Any, gradient: Any) -> None:
        a = np.asarray(on_host(gradient))
        found[key] = f"{a.item():.4g}" if a.size == 1 else _norm(a)

    for step in backward_steps(loss, retain_graph=True, deliver=lambda leaf, gradient: add(leaf.key, gradient)):
        for out, dy in enumerate(step.dy if type(step.dy) is tuple else (step.dy,)):
            add((step.node.seq, out), dy)
    for box in boxes:
        for output in box.outs:
            output.gradient = found.get(output.key, "")


# ---- where it is drawn ----------------------------------------------------------------------------------------------

def _layers(boxes: list[Box]) -> list[list[Box]]:
    """The boxes in layers, from left to right, each with its place in its layer; with bends, so that all wires lead
    from a layer to the next."""
    used_by: dict[Box, list[Box]] = {box: [] for box in boxes}
    for box in reversed(boxes):                 # each after those that use it: as far right as they allow
        box.layer = min((user.layer for user in used_by[box]), default=1) - 1
        for source, _ in box.ins:
            used_by[source].append(box)
    first = min(box.layer for box in boxes)
    for box in boxes:
        box.layer -= first
    layers: list[list[Box]] = [[] for _ in range(1 - first)]
    bends: dict[tuple[Box, int, int], Box] = {}         # (box, output, layer) -> bend

    def bend(source: Box, out: int, layer: int) -> tuple[Box, int]:
        """The end in this layer of the wire from an output: the box itself or a bend."""
        while source.layer < layer:
            key = source, out, source.layer + 1
            if key not in bends:
                bends[key] = Box("bend", "", ins=[(source, out)], outs=[Output(None)], layer=source.layer + 1)
            source, out = bends[key], 0
        return source, out

    for box in boxes:
        box.ins = [bend(source, out, box.layer - 1) for source, out in box.ins]
    stack, seen = [boxes[-1]], set()            # depth first from the loss: the inputs of each box in their order
    while stack:
        box = stack.pop()
        if box not in seen:
            seen.add(box)
            layers[box.layer].append(box)
            stack += [source for source, _ in reversed(box.ins)]
    _reduce_crossings(layers)
    _set_heights(layers)
    return layers


def _reduce_crossings(layers: list[list[Box]]) -> None:
    """Order each layer by the barycentres of its boxes' sources, and of their users, in turn; keep the best order."""
    users = _users(layers)
    best, fewest = [list(layer) for layer in layers], math.inf
    for sweep in range(SWEEPS):
        for layer in layers:
            _number(layer)
        crossings = sum(map(_crossings, layers))
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
        for layer in layers if sweep % 2 else reversed(layers):
            if sweep % 2:
                ends = {box: [_share(source, out, len(source.outs)) for source, out in box.ins] for box in layer}
            else:
                ends = {box: [_share(user, i, len(user.ins)) for user, i, _ in users[box]] for box in layer}
            layer.sort(key=lambda box: sum(ends[box]) / len(ends[box]) if ends[box] else box.position)
            _number(layer)
    for layer, order in zip(layers, best):
        layer[:] = order


def _users(layers: list[list[Box]]) -> dict[Box, list[tuple[Box, int, int]]]:
    """Box -> for each wire that leaves it: the box that it enters, as which input, and from which output."""
    users: dict[Box, list[tuple[Box, int, int]]] = {box: [] for layer in layers for box in layer}
    for box in list(users):
        for i, (source, out) in enumerate(box.ins):
            users[source].append((box, i, out))
    return users


def _number(layer: list[Box]) -> None:
    for position, box in enumerate(layer):
        box.position = position


def _share(box: Box, end: int, ends: int) -> float:
    """The position of one of the ends of wires at a box."""
    return box.position + (end + 0.5) / ends - 0.5


def _crossings(layer: list[Box]) -> int:
    """How many pairs of the wires that enter a layer cross."""
    ends = np.array([(_share(source, out, len(source.outs)), _share(box, i, len(box.ins)))
                     for box in layer for i, (source, out) in enumerate(box.ins)]).reshape(-1, 2)
    left, right = (a[:, None] - a for a in ends.T)
    return int((left * right < 0.0).sum()) // 2


def _set_heights(layers: list[list[Box]]) -> None:
    """Put each box near the mean height of the ends of its wires, in the order of its layer and without overlap."""
    users = _users(layers)
    for layer in layers:
        _settle(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            targets = []
            for box in layer:
                from_users = [user.enters(i) - box.leaves(out) for user, i, out in users[box]]
                from_sources = [source.leaves(out) - box.enters(i) for i, (source, out) in enumerate(box.ins)]
                moves = (from_sources if sweep % 2 else from_users) or from_sources or from_users
                targets.append(box.y + sum(moves) / max(len(moves), 1))
            _settle(layer, targets)


def _settle(layer: list[Box], targets: list[float]) -> None:
    """Set the heights of the boxes of a layer: the nearest to the targets, by least squares, that keep their order and
    distances (isotonic regression by pooling adjacent violators, Ayer et al. 1955)."""
    offset, offsets = 0.0, [0.0]
    for above, below in zip(layer, layer[1:]):
        offset += 0.5 * (above.height + below.height) + GAP
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []        # of boxes that touch: the sum of their free heights, and how many
    for target, offset in zip(targets, offsets):
        total, n = target - offset, 1
        while blocks and blocks[-1][0] * n > total * blocks[-1][1]:         # they would overlap
            above_total, above_n = blocks.pop()
            total, n = total + above_total, n + above_n
        blocks.append((total, n))
    heights = [total / n for total, n in blocks for _ in range(n)]
    for box, height, offset in zip(layer, heights, offsets):
        box.y = height + offset


# ---- as SVG ---------------------------------------------------------------------------------------------------------

def _svg(layers: list[list[Box]]) -> str:
    """The picture."""
    everything = [box for layer in layers for box in layer]
    top = min(box.y - 0.5 * box.height for box in everything) - MARGIN - 8.0
    wires, boxes = [], []
    x = float(MARGIN)
    ends: dict[Box, float] = {}                 # where the straight parts of the wires that leave it end, in x
    for layer in layers:
        spread = max((abs(source.leaves(out) - box.enters(i)) for box in layer for i, (source, out) in
                      enumerate(box.ins)), default=0.0)
        x += min(34.0 + 0.15 * spread, 90.0) if ends else 0.0
        width = max(box.width for box in layer)
        texts = [text for box in layer for output in box.outs for text in (output.value, output.gradient)]
        stub = CHARACTER * max(map(len, texts), default=0) + 14.0
        for box in layer:
            left = x + (0.5 * (width - box.width) if box.kind != "bend" else 0.0)
            for i, (source, out) in enumerate(box.ins):
                wires.append(_wire(ends[source], source.leaves(out) - top, x, left, box, box.enters(i) - top))
            boxes.append(_box(box, left, box.y - top, x + width, stub))
            ends[box] = x + width + stub
        x += width + stub
    bottom = max(box.y + 0.5 * box.height for box in everything) - top + MARGIN
    legend = (f'<text style="text-anchor:start" x="{MARGIN}" y="{bottom + 14:.0f}">'
              '<tspan class="value">above a wire: the value</tspan>')
    if any(output.gradient for box in everything for output in box.outs):
        legend += '<tspan class="gradient" dx="16">below: the gradient of the loss with respect to it</tspan>'
    width, height = max(x + MARGIN, 590.0), bottom + 26.0
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="minigrad-graph" role="list" aria-label="graph" {PAPER}'
            f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"><style>{STYLE}</style>'
            f'{"".join(wires)}{"".join(boxes)}{legend}</text></svg>')


def _wire(x0: float, y0: float, x1: float, left: float, box: Box, y1: float) -> str:
    """From the end of a stub at x0 to the layer at x1, where a box has its left edge."""
    bend = 0.5 * (x1 - x0)
    path = f'M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}'
    if box.kind == "bend":
        return f'<path class="wire" d="{path}"/>'
    edge = left
    if _round(box):
        edge += 17.0 - math.sqrt(17.0 ** 2 - min(abs(box.enters(0) - box.y), 16.0) ** 2)
    return (f'<path class="wire" d="{path}H{edge:.1f}"/><path class="tip" d="M{edge - 7:.1f} {y1 - 4:.1f}'
            f'L{edge:.1f} {y1:.1f}L{edge - 7:.1f} {y1 + 4:.1f}z"/>')


def _round(box: Box) -> bool:
    return box.kind == "op" and box.width == box.height == 34.0


def _box(box: Box, left: float, y: float, right: float, stub: float) -> str:
    """A box, and the wires that leave it as far as the end of the layer, with their values and gradients. right: where
    the labels begin."""
    middle, half = left + 0.5 * box.width, 0.5 * box.height
    parts = []
    for out, output in enumerate(box.outs):
        height = y + box.leaves(out) - box.y
        parts.append(f'<path class="wire" d="M{left + box.width:.1f} {height:.1f}H{right + stub:.1f}"/>')
        for kind, text, below in (("value", output.value, -5.0), ("gradient", output.gradient, 14.0)):
            if text:
                parts.append(f'<text class="{kind}" x="{right + 0.5 * stub:.1f}" y="{height + below:.1f}">'
                             f'{html.escape(text)}</text>')
    if box.kind == "bend":
        return "".join(parts)
    facts = [f"{box.label} {box.note}".strip(), box.place] + [
        output.value + (f", gradient {output.gradient}" if output.gradient else "") for output in box.outs]
    said = html.escape(": ".join(filter(None, facts)))
    radius = 17.0 if box.kind == "op" else 3.0
    parts.append(f'<rect class="box {box.kind}" x="{left:.1f}" y="{y - half:.1f}" width="{box.width:.1f}" '
                 f'height="{box.height:.1f}" rx="{radius:.1f}"/>')
    shown = "symbol" if _round(box) else box.kind
    parts.append(f'<text class="{shown}" x="{middle:.1f}" y="{y + (-3.0 if box.note else 5.0):.1f}">'
                 f'{html.escape(box.label)}</text>')
    if box.note:
        parts.append(f'<text class="note" x="{middle:.1f}" y="{y + 13.0:.1f}">{html.escape(box.note)}</text>')
    return f'<g role="listitem" aria-label="{said}"><title>{said}</title>{"".join(parts)}</g>'
