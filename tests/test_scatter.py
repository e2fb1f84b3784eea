"""Gradients against finite differences, entry by entry: in a record, on the page, and after check_model."""
import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.gradcheck import check_model, numeric_gradient
from minigrad.step import compare_gradients, examples, page, record
from minigrad.step.compare_gradients import compare, summary
from faulty_ops import SoftmaxDiagonal
from locate_mistakes import with_mistake
from test_page import browse, data_of


def small(dtype="float64"):
    """A record of a matrix product, a softmax and a cross-entropy, whose loss only these leaves change."""
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.normal(size=shape), dtype=dtype, requires_grad=True) for shape in ((4, 3), (3, 5)))
    return record(F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2]), names={"x": x, "w": w})


def wrong():
    """`small`, with a softmax whose backward is wrong."""
    with with_mistake(SoftmaxDiagonal):
        return small()


# ---- what is compared ----

def test_every_entry_of_a_small_record_is_compared_with_a_central_difference_of_the_loss():
    seen = small()
    found = {x.leaf: x for x in compare(seen)}
    assert found.keys() == {"x", "w"}
    x, w = (seen.leaves[name].numpy().copy() for name in "xw")
    loss = lambda: float(F.cross_entropy(F.softmax(Tensor(x) @ Tensor(w)), [1, 0, 4, 2]).item())
    for name, a in (("x", x), ("w", w)):
        assert found[name].at.tolist() == list(range(a.size)) and found[name].shape == a.shape
        np.testing.assert_allclose(found[name].numeric, numeric_gradient(loss, a).ravel(), atol=1e-9)
        np.testing.assert_array_equal(found[name].analytic, seen.gradients[name].ravel())
        assert found[name].right.all() and found[name].error.max() < 1e-8


def test_all_entries_of_the_tiny_example_lie_on_the_diagonal():
    say, which = summary(compare(examples.tiny()))
    assert say.startswith("all 94 entries lie on the diagonal; worst relative error ")
    assert which.startswith("Every entry of every gradient.")


def test_a_wrong_backward_puts_the_gradients_that_pass_through_it_off_the_diagonal():
    found = compare(wrong())
    off = sum(int((~x.right).sum()) for x in found)
    assert off > 20
    assert summary(found)[0].startswith(f"{27 - off} of 27 entries lie on the diagonal; worst relative error ")
    x = max(found, key=lambda x: x.error.max())
    at = np.ravel_multi_index(x.worst, x.shape)
    assert abs(x.analytic - x.numeric)[at] == abs(x.analytic - x.numeric).max()


def test_of_large_leaves_a_bounded_number_of_entries_is_compared_and_the_text_says_so(monkeypatch):
    monkeypatch.setattr(compare_gradients, "MOST", 14)
    found = compare(small())
    assert [len(x.at) for x in found] == [7, 7] and all(len(set(x.at)) == 7 for x in found)
    say, which = summary(found)
    assert say.startswith("all 14 points lie")
    assert which.startswith("14 of 27 entries, picked at random: at most 7 of each")
    assert [x.at.tolist() for x in compare(small())] == [x.at.tolist() for x in found]      # the same ones each time


def test_in_float32_the_bound_is_that_of_its_rounding_errors():
    for x in compare(small("float32")):
        assert 1e-8 < x.error.max() < x.bound == pytest.approx(3.5e-4, rel=0.02)


def test_a_leaf_without_axes_is_compared():
    x = Tensor(2.0, dtype="float64", requires_grad=True)
    (found,) = compare(record(x * x * x, names={"x": x}))
    assert found.worst == () and found.numeric == pytest.approx([12.0])


def test_an_empty_leaf_has_no_entries_to_compare():
    seen = record(Tensor(np.zeros((0, 3)), requires_grad=True).sum())
    (found,) = compare(seen)
    assert found.worst == () and found.right.all() and data_of(page.html(seen))["compared"]["worst"]["error"] == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_where_the_loss_is_not_finite_nothing_is_compared_and_the_page_has_no_such_tab(value):
    x = Tensor(np.array([1.0, value]), requires_grad=True)
    seen = record((x * x).sum())
    assert compare(seen) == [] and data_of(page.html(seen))["compared"] is None


# ---- on the page ----

def test_the_page_draws_a_point_for_each_entry_and_names_the_worst(tmp_path):
    seen = browse(tmp_path, page.html(wrong()), """
      location.hash = "#c0"; await wait();
      seen.said = text("#left .say");
      seen.points = (document.querySelector(".scatter .points.wrong").getAttribute("d").match(/M/g) ?? []).length;
      seen.worst = text("#right .point");
      seen.where = all("#left .say a").map(a => a.textContent);
      seen.label = document.querySelector(".scatter").getAttribute("aria-label");
    """)
    found = compare(wrong())
    k = max(range(2), key=lambda k: found[k].error.max())
    at = ",".join(map(str, found[k].worst))
    assert seen.said.startswith("✗ ") and "lie on the diagonal" in seen.said and seen.said[2:] in seen.label
    assert seen.points == sum(int((~x.right).sum()) for x in found)
    assert seen.worst.startswith(f"worst: {found[k].leaf}[{at}]: gradient ")
    assert seen.where == ["step 1 of 2: softmax"]


def test_keys_and_the_pointer_read_points_and_a_tensor_can_be_picked(tmp_path):
    seen = browse(tmp_path, page.html(examples.tiny()), """
      press("c");
      seen.hash = location.hash;
      seen.tab = all("#tabs button").find(b => b.getAttribute("aria-current") === "true").textContent;
      seen.rows = all("#left tr").length;
      const plot = document.querySelector(".scatter"), read = () => text("#right .point");
      plot.focus();
      press("ArrowRight"); seen.first = read();
      press("ArrowRight"); seen.second = read();
      seen.stays = location.hash;
      all(".leaf-pick").find(b => b.textContent === "fc.bias").click();
      seen.picked = location.hash;
      seen.lit = (document.querySelector(".scatter .chosen").getAttribute("d").match(/M/g) ?? []).length;
      document.querySelector(".scatter").focus();
      press("ArrowRight"); seen.ofPicked = read();
      location.hash = "#c0.0.99"; await wait();
      seen.bounded = text("#right h3 .where");
    """)
    assert seen.hash == seen.stays == "#c0" and seen.tab == "Check" and seen.rows == 1 + 1 + 7
    assert ": gradient " in seen.first and seen.first != seen.second
    assert seen.lit == 7 and seen.picked.startswith("#c0.0.") and seen.ofPicked.startswith("fc.bias[")
    assert seen.bounded == compare(examples.tiny())[-1].leaf


# ---- after check_model ----

def model():
    x, w = (Tensor(np.random.default_rng(n).normal(size=shape), requires_grad=True) for n, shape in
            enumerate(((4, 3), (3, 5))))
    return lambda: F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2]), [("x", x), ("w", w)]


def test_a_report_draws_a_point_for_each_pair_and_the_diagonal(tmp_path):
    report = check_model(*model(), coordinates=6)
    axes = report.plot(tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").read_bytes().startswith(b"\x89PNG")
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines if line.get_label() in "xw"}
    for name, cloud in drawn.items():
        (row,) = (row for row in report.rows if row.what == name and row.check == "coordinates")
        np.testing.assert_array_equal(cloud, np.column_stack([row.numeric, row.analytic]))
    assert drawn.keys() == {"x", "w"} and len(axes.lines) == 3 and axes.get_aspect() == 1.0
    assert axes.get_title().startswith("all 12 pairs of analytic and numeric gradient agree")


def test_a_report_of_gradients_that_are_zero_or_not_finite_is_drawn(tmp_path):
    x = Tensor(np.zeros(3), requires_grad=True)
    check_model(lambda: (x * 0.0).sum(), [x]).plot(tmp_path / "zero.png")
    row = mg.gradcheck.Row("w", "coordinates", "", np.inf, "wrong", np.array([np.nan, 1.0]), np.array([1.0, np.inf]))
    mg.gradcheck.Report([row]).plot(tmp_path / "nan.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_report_without_pairs_is_not_drawn():
    with pytest.raises(ValueError, match="nothing to plot"):
        mg.gradcheck.Report([]).plot()
