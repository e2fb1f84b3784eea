"""Questions about the steps of a backward, each answer with a reason.

For every step: the shape of a gradient, the sign of one of its entries, the other steps that add to it, and for an op
of LINES which of several lines its backward has. The wrong lines are classic mistakes, each with what the op's gradient
check says about it: `diagnosed` puts the line into the backward and runs the check.
"""
import functools
import inspect
import math
import textwrap
from typing import Any, Callable, NamedTuple, Sequence

from minigrad.gradcheck import Case, against_differences
from minigrad.ops.op import OPS, Op
from minigrad.step.elements import MINUS
from minigrad.step.view import Input, View
from minigrad.step.why import cell_of, explain, largest_entries


class Question(NamedTuple):
    """One question about one step; one of the options is right."""
    kind: str                       # "shape", "sign", "contributor", "line"
    text: str
    options: tuple[str, ...]
    right: int                      # the index of the right option
    reasons: tuple[str, ...]        # for each option, why it is right or wrong; "" where that of the right one says it
    row: int = -1                   # of a line: which line of the source it is, counted from 0


# For each op: the beginning of a line of its backward -> lines that are wrong, and what is wrong in words. The right
# line is read from the source.
LINES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "add": {"return": [
        ("return dy, -dy", "the second term has the sign that it has in a difference"),
        ("return 0.5 * dy, 0.5 * dy", "dy is divided between the terms, but each of them gets all of it")]},
    "mul": {
        "da =": [("da = dy * a", "the derivative of a * b with respect to a is b, not a"),
                 ("da = dy", "the other factor, b, is missing")],
        "db =": [("db = dy * b", "the derivative of a * b with respect to b is a, not b"),
                 ("db = dy", "the other factor, a, is missing")]},
    "matmul": {
        "da = xp.matmul": [
            ("da = xp.matmul(dy, b.reshape(b.swapaxes(-1, -2).shape))",
             "b is made to fit by a reshape, which does not exchange rows and columns"),
            ("da = xp.matmul(b, dy.swapaxes(-1, -2))", "the factors are in the wrong order, which transposes da")],
        "db = xp.matmul": [
            ("db = xp.matmul(a.reshape(a.swapaxes(-1, -2).shape), dy)",
             "a is made to fit by a reshape, which does not exchange rows and columns"),
            ("db = xp.matmul(dy.swapaxes(-1, -2), a)", "the factors are in the wrong order, which transposes db")]},
    "linear": {
        "dw =": [("dw = dy.T @ x2", "the factors are in the wrong order, which transposes dw"),
                 ("dw = x2.reshape(x2.T.shape) @ dy",
                  "x is made to fit by a reshape, which does not exchange rows and columns"),
                 ("dw = x2.T @ dy / len(x2)", "the rows are averaged, but the gradients of all uses of w add up")],
        "db =": [("db = dy", "b is added to every row, so the gradients of all rows must be added up"),
                 ("db = dy.mean(axis=0)", "the rows are averaged, but the gradients of all uses of b add up"),
                 ("db = total(dy, 1)", "the sum is over the outputs, not over the rows")]},
    "softmax": {
        "row =": [("row = total(dy, axis, keepdims=True)", "the sum must be of dy * p, not of dy"),
                  ("row = (dy * p).mean(axis=axis, keepdims=True)", "a mean instead of the sum"),
                  ("row = total(dy * p, 0, keepdims=True)", "the sum is over axis 0, not over that of the softmax")],
        "return": [("return p * dy", "as for an elementwise function: the term that couples the row is missing"),
                   ("return dy * p * (1.0 - p)",
                    "only the diagonal of the Jacobian, but each p depends on every x of its row")]},
    "layer_norm": {
        "dx =": [("dx = rstd * (dxhat - xhat * scale)", "as if the mean of x did not depend on x"),
                 ("dx = rstd * (dxhat - shift)", "as if the variance of x did not depend on x"),
                 ("dx = rstd * dxhat", "as if neither the mean nor the variance of x depended on x")],
        "dxhat =": [("dxhat = dy", "y = xhat * w + b, so w is a factor of the derivative"),
                    ("dxhat = dy * w * rstd", "rstd is a factor twice, here and in dx")],
        "dw =": [("dw = mean(dy * xhat, rows)", "the rows are averaged, but the gradients of all uses of w add up"),
                 ("dw = total(dy, rows)", "that is db: the derivative with respect to w has the factor xhat")]},
    "gelu": {
        "slope =": [("slope = 0.5 * (1.0 + t)", "the second term of the product rule is missing: tanh(u) depends on x"),
                    ("slope = 1.0 * (x > 0)", "that is the derivative of relu"),
                    ("slope = 0.5 * (1.0 + t) + 0.5 * (1.0 - t * t) * du",
                     "the factor x of the second term is missing")],
        "du =": [("du = self.k * (1.0 + self.c * x * x)", "the derivative of x^3 is 3 x^2, not x^2"),
                 ("du = self.k", "the derivative of the cube, 3 c x^2, is missing")]},
    "attention": {
        "dk =": [("dk = dS @ q", "dS is not transposed: row j of dk is a sum over all queries, with column j of dS"),
                 ("dk = dS.swapaxes(-1, -2) @ q * scale", "dS already has the factor scale"),
                 ("dk = -dS.swapaxes(-1, -2) @ q", "the sign is that of a difference")],
        "dS =": [("dS = P * dP * scale", "the term that couples the row is missing, as if P were elementwise"),
                 ("dS = P * (dP - total(dP * P, -1, keepdims=True))",
                  "the scores have the factor scale, so dS has it too"),
                 ("dS = (dP - total(dP * P, -1, keepdims=True)) * scale", "the factor P of the softmax is missing")],
        "dv =": [("dv = A @ dy", "A is not transposed: row j of dv is a sum over all queries, with column j of A"),
                 ("dv = A.swapaxes(-1, -2) @ dy * scale", "the scale belongs to the scores, not to the values")]},
    "cross_entropy": {
        "p[xp.arange": [("p[xp.arange(len(t)), t] += 1.0 - s", "the gradient is p - q, not p + q"),
                        ("p[xp.arange(len(t)), t] -= 0.0", "that leaves p: nothing is subtracted at the target")],
        "share =": [("share = xp.where(counted, dy.reshape(-1), 0.0)",
                     "the loss is a mean over n targets: 1/n is missing"),
                    ("share = xp.where(counted, dy.reshape(-1) / V, 0.0)",
                     "divided by the size of the vocabulary, not by the number of targets"),
                    ("share = xp.where(counted, 1.0 / n, 0.0)", "the upstream gradient dy is taken to be 1")]},
    "embedding": {"add_at": [
        ("dw[idx] += dy", "NumPy adds only the last dy where idx names a row more than once"),
        ("dw[idx] = dy", "the last dy of a row replaces the others, but the gradients of all uses add up")]},
}


def questions(views: Sequence[View]) -> list[list[Question]]:
    """The questions about each of these steps."""
    found, asked = [], dict.fromkeys(LINES, 0)
    for k, v in enumerate(views):
        wanted = [i for i, x in enumerate(v.inputs) if x.gradient is not None]
        own: list[Question] = []
        if wanted:
            i = wanted[k % len(wanted)]
            own = [_shape(v, v.inputs[i], k), *_sign(v, v.inputs[i])]
            own.append(_contributor(views, k, v.inputs[i]))
        lines = LINES.get(v.op, {})
        if lines and v.backward.source and _is_ours(v):
            own.append(_line(v, list(lines)[asked[v.op] % len(lines)]))
            asked[v.op] += 1
        found.append(own)
    return found


def _is_ours(v: View) -> bool:
    """Whether this is minigrad's op, not one of the reader that has its name."""
    return bool(v.step.op_class.__module__.startswith("minigrad.ops."))


def _question(kind: str, text: str, answers: list[tuple[str, str]], seed: int, row: int = -1) -> Question:
    """A question from its answers (option, reason), the right one first; they are put into an order that differs from
    step to step but not from page to page."""
    order = sorted(range(len(answers)), key=lambda n: (7 * n + 5 * seed + 3) % 11)
    options, reasons = zip(*(answers[n] for n in order))
    return Question(kind, text, options, order.index(0), reasons, row)


# ---- shape ----------------------------------------------------------------------------------------------------------

def _shape(v: View, x: Input, seed: int) -> Question:
    others = {f"d{y.name}": y.shape for y in v.inputs if y.gradient is not None and y is not x}
    others |= {name: a.shape for name, a in {**v.dys, **v.saved}.items() if hasattr(a, "shape")}
    wrong = {shape(s): f"that is the shape of {name}" for name, s in others.items()}
    wrong |= {shape(x.shape[::-1]): f"that is the shape of {x.name} transposed"} if len(x.shape) > 1 else {}
    wrong |= {shape(x.shape[1:]): "its axis 0 is missing there"} if x.shape else {}
    wrong |= {shape((*x.shape, 2)): f"{x.name} has no such axis"}
    wrong.pop(shape(x.shape), None)
    right = f"a gradient has the shape of its input: {x.name} is {shape(x.shape)}"
    return _question("shape", f"What is the shape of d{x.name}?", [(shape(x.shape), right), *list(wrong.items())[:3]],
                     seed)


def shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a scalar"


# ---- sign -----------------------------------------------------------------------------------------------------------

def _sign(v: View, x: Input) -> list[Question]:
    """Of an entry whose largest term has the sign of the sum, if one of the three largest entries is such a one."""
    answers = [explain(v, cell_of(v, f"d{x.name}", at)) for at in largest_entries(x.gradient, 3)]
    answers = [w for w in answers if w.terms and math.isfinite(w.value)]
    if not answers:
        return []
    w = next((w for w in answers if w.terms[0].product * w.value > 0.0), answers[0])
    factors = [f for f in w.terms[0].factors if f.text != MINUS.text]
    sign = "−" if w.terms[0].negative else ""
    names = sign + " × ".join(f.text for f in factors)
    values = sign + " × ".join(_number(f.value) for f in factors)
    which, reason = "Its only term", values if len(factors) == 1 else f"{values} = {_number(w.terms[0].product)}"
    if w.count > 1:
        which = f"The largest of its {w.count} terms"
        reason = f"the largest term is {reason}; all {w.count} terms sum to {_number(w.total)}"
    else:
        reason = f"{w.name} = {names} = {reason}"
    text = (f"What is the sign of {w.name}? {which} is {names} = {values}"
            + ("." if w.terms[0].product * w.value > 0.0 else "; the others outweigh it."))
    right = int(w.value < 0.0)
    return [Question("sign", text, ("+", "−"), right, ("", reason) if right else (reason, ""))]


def _number(x: float) -> str:
    return f"{x:.3g}".replace("-", "−")


# ---- contributor ----------------------------------------------------------------------------------------------------

def _contributor(views: Sequence[View], k: int, x: Input) -> Question:
    """Which other step adds to the gradient of x?"""
    same: Callable[[Input], bool] = lambda y: y.gradient is not None and (
        y.leaf == x.leaf if x.leaf else x.source is not None and (y.source, y.out) == (x.source, x.out))
    users = [n for n, v in enumerate(views) if any(map(same, v.inputs))]
    others = [n for n in users if n != k]
    what = x.leaf or f"the output of {x.label}"
    uses = f"{what} is used by {'step' if len(users) == 1 else 'steps'} {' and '.join(map(str, users))}"
    right = f"{uses}: their gradients add up" if others else f"{uses} alone, which makes the whole gradient"
    none = ("none: this is the whole gradient", "")
    wrong = [(_called(views, n), f"step {n} does not use it")
             for n in dict.fromkeys((k + d) % len(views) for d in (1, 2, 5)) if n not in users]
    answers = [(_called(views, others[0]), right), none] if others else [(none[0], right)]
    tense = "has added" if others and others[0] < k else "adds"
    return _question("contributor", f"Which other step {tense} to the gradient of {what}?", (answers + wrong)[:4],
                     k + 1)


def _called(views: Sequence[View], n: int) -> str:
    v = views[n]
    return f"step {n}: {v.op}" + (f" → {v.name}" if v.name != v.op else "")


# ---- line -----------------------------------------------------------------------------------------------------------

def _line(v: View, start: str) -> Question:
    """Which of these lines is the right one?"""
    row, right = right_line(v.backward.source, start)
    answers = [(right, "this is the line of the backward, whose gradient check passes")]
    answers += [(line, f"{words}. {says}") for line, words, says in diagnosed(v.op, start)]
    target, equals, _ = start.partition(" =")
    what = f"the right {target}" if equals else "the right one"
    return _question("line", f"The source lacks a line. Which of these is {what}?", answers, len(start), row)


def right_line(source: str, start: str) -> tuple[int, str]:
    """The number, from 0, of the last line of a backward that begins so, and its statement, without a condition on what
    needs a gradient and without a comment. ValueError if there is none."""
    found = [(row, line) for row, line in enumerate(source.splitlines()) if line.strip().startswith(start)]
    if not found:
        raise ValueError(f"no line of this backward begins with {start!r}:\n{source}")
    row, line = found[-1]
    return row, line.partition(" if self.needs")[0].partition("#")[0].strip()


@functools.cache
def diagnosed(op: str, start: str) -> list[tuple[str, str, str]]:
    """The wrong lines for one line of an op: the line, what is wrong, and what the op's gradient check says about it,
    on the first sample on which it fails."""
    found = []
    for line, words in LINES[op][start]:
        faulty = with_line(OPS[op], start, line)
        failure = next(row for sample in OPS[op].samples
                       for row in against_differences(Case(faulty, sample, seed=0)) if not row.ok)
        found.append((line, words, f"The gradient check of {failure.what} says: {failure.detail}"))
    return found


def with_line(op_class: type[Op], start: str, line: str) -> type[Op]:
    """An op whose backward has another line in place of the one that begins so. It is not registered."""
    source = textwrap.dedent(inspect.getsource(op_class.backward))
    row, right = right_line(source, start)
    lines = source.splitlines()
    lines[row] = lines[row].replace(right, line)
    local: dict[str, Any] = {}
    exec("\n".join(lines), op_class.backward.__globals__, local)
    return type(op_class.__name__, (op_class,), {"backward": local["backward"]}, register=False)
