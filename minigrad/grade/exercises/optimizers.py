"""adamw_step: a step of AdamW. lion_step: a step of Lion (Chen et al. 2023, "Symbolic discovery of optimization
algorithms", algorithm 2). Both are graded by what must hold for their steps."""
from typing import Any, Callable, Sequence

import numpy as np

from minigrad.grade.answer import array, call, results
from minigrad.grade.verdict import must

P = np.array([[1.5, -0.7, 0.4], [-2.0, 0.9, 3.0]])              # parameters
G = np.array([[0.3, -1e-3, 40.0], [1e3, -2.0, -0.05]])          # a gradient of both signs and many sizes
LR, BETA1, BETA2, DECAY = 0.1, 0.9, 0.999, 0.5                # 1 - BETA1 is not the root of 1 - BETA2
TINY = 1e-12                                                    # an eps that does not show


def alike(a: Any, b: Any) -> bool:
    return np.allclose(a, b, rtol=1e-6, atol=1e-9)


# ---- AdamW ----------------------------------------------------------------------------------------------------------

def grade_adamw(mine: Callable[..., Any]) -> None:
    """mine(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay): the new p, m and v."""
    first_step_has_the_length_of_the_rate(mine)
    same_gradient_gives_the_same_steps(mine)
    impulse_fades_with_its_beta(mine)
    scale_of_the_gradient_does_not_matter(mine)
    decay_alone(lambda p, n: adamw_steps(mine, p, [0.0 * p] * n, eps=1e-8, decay=DECAY)[0][-1])
    decay_of_the_old_weight(lambda p, g: adamw_steps(mine, p, [g], decay=DECAY)[0][-1])


def adamw_steps(mine: Callable[..., Any], p: Any, gs: Sequence[Any], eps: float = TINY, decay: float = 0.0
                ) -> tuple[list[Any], list[Any], list[Any]]:
    """p, m and v after each step with the gradients gs, m = v = 0 before the first; p before it, too."""
    ps, ms, vs = [p], [0.0 * p], [0.0 * p]
    for t, g in enumerate(gs, 1):
        p_new, m_new, v_new = results(call(mine, ps[-1], g, ms[-1], vs[-1], t, LR, BETA1, BETA2, eps, decay),
                                      "p_new", "m_new", "v_new")
        ms.append(array(m_new, p.shape, f"m_new of step {t}"))
        vs.append(array(v_new, p.shape, f"v_new of step {t}"))
        must(bool((vs[-1] >= 0.0).all()), "v_new is negative where g is: it averages g * g, not g")
        must(g.any() or not np.isnan(p_new).any(), "where all gradients were 0 the step is 0 / 0: add eps to the "
             "denominator, m_hat / (sqrt(v_hat) + eps)")
        ps.append(array(p_new, p.shape, f"p_new of step {t}"))
    return ps, ms[1:], vs[1:]


def first_step_has_the_length_of_the_rate(mine: Callable[..., Any]) -> None:
    ps, _, _ = adamw_steps(mine, P, [G])
    lengths = (P - ps[1]) / (LR * np.sign(G))                   # of a right answer 1
    if alike(lengths, 1.0):
        return
    length = float(lengths.flat[0])
    must(alike(lengths, length), "the length of the first step depends on the size of the gradient: where g is "
         f"{G[1, 0]:g} it is {lengths[1, 0]:.4g} lr, where g is {G[0, 1]:g} it is {lengths[0, 1]:.4g} lr; in AdamW "
         "m_hat / sqrt(v_hat) is 1 or -1 then")
    c1, c2 = 1 - BETA1, 1 - BETA2
    why = {c1 / c2 ** 0.5: "m and v begin at 0 and are too small: the bias correction is missing",
           c2 ** -0.5: "m is corrected for its start at 0, v is not: divide v by 1 - beta2 ** t, too",
           c1: "v is corrected for its start at 0, m is not: divide m by 1 - beta1 ** t, too",
           c1 / (1 - BETA1 ** 2) / (c2 / (1 - BETA2 ** 2)) ** 0.5:
               "the bias correction is a step ahead: t is 1 at the first step",
           -1.0: "it goes up: subtract the step",
           0.0: "p_new is p"}
    found = [words for value, words in why.items() if alike(length, value)]
    must(False, f"the first step should be -lr sign(g), it is {-length:+.4g} lr sign(g)" + "".join(
        f": {words}" for words in found))


def same_gradient_gives_the_same_steps(mine: Callable[..., Any]) -> None:
    ps, _, _ = adamw_steps(mine, P, [G] * 8)
    for t, (old, new) in enumerate(zip(ps, ps[1:]), 1):
        length = (old - new) / (LR * np.sign(G))
        must(alike(length, 1.0), "with the same gradient in every step every step should be lr long; step "
             f"{t} is {float(length.flat[0]):.4g} lr: the bias correction needs t, and m_new and v_new are the "
             "averages before it")


def impulse_fades_with_its_beta(mine: Callable[..., Any]) -> None:
    """A gradient of 1, then of 0: m_new and v_new shrink by beta1 and beta2, and the step by the formula below."""
    one, n = np.ones(1), 12
    ps, ms, vs = adamw_steps(mine, one, [one] + [0.0 * one] * (n - 1))
    ts = np.arange(1, n + 1)
    m, v = (1 - BETA1) * BETA1 ** (ts - 1), (1 - BETA2) * BETA2 ** (ts - 1)
    got_m, got_v, steps = np.ravel(ms), np.ravel(vs), -np.diff(np.ravel(ps))
    must(not (alike(got_m, v) and alike(got_v, m)), "after one gradient of 1, m shrinks by beta2 per step and v by "
         "beta1: the betas are swapped")
    for name, got, want, beta in (("m", got_m, m, "beta1"), ("v", got_v, v, "beta2")):
        must(alike(got, want), f"after one gradient of 1 and one of 0, {name}_new should be {beta} (1 - {beta}) = "
             f"{want[1]:.4g}, it is {got[1]:.4g}: {name}_new = {beta} {name} + (1 - {beta}) times the new gradient"
             + (" squared" if name == "v" else ""))
    want = LR * m / (1 - BETA1 ** ts) / np.sqrt(v / (1 - BETA2 ** ts))
    must(alike(steps, want), f"after one gradient of 1 and one of 0, step 2 should be {want[1] / LR:.4g} lr long, it "
         f"is {steps[1] / LR:.4g} lr: both moments are corrected with t, and the step uses the new ones")


def scale_of_the_gradient_does_not_matter(mine: Callable[..., Any]) -> None:
    gs = np.random.default_rng(0).normal(size=(6, *P.shape))
    ps, scaled = (adamw_steps(mine, P, list(c * gs), eps=c * 0.1)[0] for c in (1.0, 100.0))
    must(alike(ps, scaled), "all gradients and eps 100 times larger should give the same steps, and do not: eps is "
         "added to the root, sqrt(v_hat) + eps, not to v_hat in it")


# ---- decay, of both -------------------------------------------------------------------------------------------------

def decay_alone(after: Callable[[Any, int], Any]) -> None:
    """after(p, n): p after n steps with gradients of 0."""
    p1, n = after(P, 1), 5
    rest = float((p1 / P).flat[0])
    factor, right = f"without a gradient a weight should be 1 - lr weight_decay = {1 - LR * DECAY:g} times itself", \
        1 - LR * DECAY
    must(not alike(p1, P - LR * np.sign(P)), f"{factor}; every weight moves by lr instead, large or small: the decay "
         "is added to the gradient, and then divided by the root of v")
    must(alike(p1, rest * P), f"{factor}, and is not: step = lr (u + weight_decay p), where u is 0")
    why = {1.0: "weight_decay is not used", 1 - DECAY: "multiply weight_decay by lr, too",
           1 + LR * DECAY: "weights grow: the sign of the decay is wrong"}
    found = [words for value, words in why.items() if alike(rest, value)]
    must(alike(rest, right), f"{factor}, it is {rest:.4g} times itself" + "".join(f": {words}" for words in found))
    must(alike(after(P, n), right ** n * P), f"without a gradient {n} steps should leave {right ** n:.4g} of a weight: "
         "the same share of it in every step")


def decay_of_the_old_weight(after: Callable[[Any, Any], Any]) -> None:
    """after(p, g): p after one step."""
    moved = P - LR * np.sign(G)
    got = after(P, G)
    must(not alike(got, moved * (1 - LR * DECAY)), "the decay shrinks the weight after the step: it is a share of the "
         "old p")
    must(alike(got, moved - LR * DECAY * P), "a step with a gradient and decay should be -lr (sign(g) + weight_decay "
         "p), the sum of both, and is not")


# ---- Lion -----------------------------------------------------------------------------------------------------------

def grade_lion(mine: Callable[..., Any]) -> None:
    """mine(p, g, m, lr, beta1, beta2, weight_decay): the new p and m."""
    def step(p: Any, g: Any, m: Any, decay: float = 0.0) -> tuple[Any, Any]:
        p_new, m_new = results(call(mine, p, g, m, LR, BETA1, BETA2, decay), "p_new", "m_new")
        return array(p_new, p.shape, "p_new"), array(m_new, p.shape, "m_new")

    def after(p: Any, n: int) -> Any:
        for _ in range(n):
            p, _ = step(p, 0.0 * p, 0.0 * p, DECAY)
        return p

    lengths = (P - step(P, G, 0.0 * P)[0]) / (LR * np.sign(G))
    must(not alike(lengths, -1.0), "it goes up: subtract the step")
    must(alike(lengths, 1.0), "every weight should move by lr, up or down; where g is "
         f"{G[1, 0]:g} it moves by {lengths[1, 0]:.4g} lr, where g is {G[0, 1]:g} by {lengths[0, 1]:.4g} lr: the step "
         "is lr times a sign")
    still = P - step(P, 0.0 * P, 0.0 * P)[0]
    must(alike(still, 0.0), "where g and m are 0 the weight should stay: the sign of 0 is 0, as np.sign has it")

    m_new = step(P, G, np.ones(P.shape))[1]
    right, swapped = (beta + (1 - beta) * G for beta in (BETA2, BETA1))
    must(not alike(m_new, swapped), "m_new is averaged with beta1: beta1 mixes the direction, beta2 the memory")
    must(alike(m_new, right), f"m_new should be beta2 m + (1 - beta2) g: for m = 1, g = {G[0, 0]:g} it is "
         f"{m_new[0, 0]:.6g}, not {right[0, 0]:.6g}")
    for g in (-5.0, -15.0):                                     # the direction turns at g = -9 m
        one = np.ones(1)
        up = (step(one, g * one, one)[0] > one).item()
        must(up == (g < -9.0), f"for m = 1 and g = {g:g} the direction is that of beta1 m + (1 - beta1) g = "
             f"{BETA1 + (1 - BETA1) * g:.2g}, and the step goes the other way: " + (
                 "it follows g alone" if up else "it follows m_new, or mixes with beta2"))
    decay_alone(after)
    decay_of_the_old_weight(lambda p, g: step(p, g, 0.0 * p, DECAY)[0])


EXERCISES = {"adamw_step": grade_adamw, "lion_step": grade_lion}
