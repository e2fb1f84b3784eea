"""What a notebook shows: in a real kernel, through nbclient; the graph as a picture; the names of variables; the loss
curve; and that no output contains a folder of the machine."""
import os
import re
import site
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, nn, optim
from minigrad.call_site import place
from minigrad.loss_curve import LossCurve, ticks
from minigrad.step import record
from tests import faulty_ops
from tests.test_page import browse

ROOT = Path(__file__).parent.parent


def leaf(value):
    return Tensor(value, requires_grad=True)


# ---- in a kernel ----------------------------------------------------------------------------------------------------

CELLS = {
    "imports": """
import numpy as np
import minigrad as mg
from minigrad import Tensor, nn, optim, functional as F
rng = np.random.default_rng(0)
x, w = (Tensor(rng.normal(size=shape), requires_grad=True) for shape in ((4, 3), (3, 5)))
""",
    "record": """
loss = F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2])
record = mg.step.record(loss)
record
""",
    "why": 'record.why(2, "w", (0, 2))',
    "nudge": 'record.nudge("w", (0, 2)).actual',
    "step": """
loss = F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2])
next(loss.backward_steps(until="w"))
""",
    "op": """
class Square(mg.ops.op.Fused):
    '''x  ->  y

    forward   y = x * x
    backward  dx = 2 * dy * x
    '''
    def forward(self, x):
        self.save(x=x)
        return x * x

    def backward(self, dy, x):
        return dy * x

    composed = staticmethod(lambda F, x: x * x)
    samples = [mg.ops.sample.Sample((3, 5))]
""",
    "report": "mg.gradcheck.check(Square)",
    "step of the op": """
square = mg.tape.apply(Square, x)
next(square.sum().backward_steps(until="square"))
""",
    "module": """
class Two(nn.Module):
    def __init__(self):
        self.first = nn.Linear(3, 5)
        self.rest = [nn.LayerNorm(5), nn.Dropout(0.5)]

model = Two()
model
""",
    "optimizer": "optim.AdamW(model.parameters(), lr=0.1)",
    "parameter": "model.first.weight",
    "graph": "mg.draw((x @ w).sum())",
    "error": """
try:
    x @ Tensor([[1.0]])
except ValueError as error:
    print(error.__notes__[0])
""",
    "curve": """
curve = mg.LossCurve(seconds=1e9)
for i in range(1000):
    curve.update(i, 3.0 - i / 1000, val=2.5 if i == 500 else None)
""",
    "training": """
import train
open("my.txt", "w").write("the cat sat on the mat. " * 200)
train.main("--dataset=my.txt --max_iters=20 --warmup_iters=2 --eval_interval=10 --log_interval=1 --n_layer=1 "
           "--n_head=1 --n_embd=8 --block_size=8 --batch_size=4 --eval_iters=2".split())
""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Name of a cell -> its outputs, and "file" -> the whole notebook as text, after a run in an empty folder."""
    folder = tmp_path_factory.mktemp("folder of the notebook")
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = {name: cell.outputs for name, cell in zip(CELLS, notebook.cells)}
    found["folder"], found["file"] = str(folder), nbformat.writes(notebook)
    return found


def html_of(outputs, name):
    [output] = outputs[name]
    return output.data["text/html"]


def number_of(name):
    return list(CELLS).index(name) + 1


@pytest.mark.parametrize("name", ["record", "why", "step", "report", "step of the op", "module", "optimizer", "graph",
                                  "curve"])
def test_a_notebook_shows_html(outputs, name):
    assert html_of(outputs, name).startswith("<")


def test_a_notebook_has_no_address_of_an_object_and_nothing_on_stderr(outputs):
    assert not re.search(r" at 0x[0-9a-f]+", outputs["file"])
    assert '"stderr"' not in outputs["file"]


def test_a_notebook_of_small_examples_is_less_than_one_megabyte(outputs):
    assert len(outputs["file"]) < 1e6


def test_no_output_contains_a_folder_of_the_machine(outputs):
    for folder in {outputs["folder"], str(ROOT), str(Path.home()), site.getsitepackages()[0], "ipykernel_"} - {"/"}:
        assert folder not in outputs["file"], folder
    assert tempfile.gettempdir() + "/" not in re.sub(r'"half":"[^"]*"', "", outputs["file"])


def test_places_are_the_number_of_the_cell_and_the_line_in_it(outputs):
    n = number_of("record")
    assert f"cell {n}, line 1" in html_of(outputs, "record")
    assert f"matmul at cell {number_of('step')}, line 1" in outputs["step"][0].data["text/plain"]
    assert f"called at cell {number_of('error')}, line 2" in outputs["error"][0].text
    own = html_of(outputs, "step of the op")
    assert f"cell {number_of('op')}, line 11" in own            # the place of its backward
    assert "return dy * x" in own


def test_leaves_are_called_like_the_variables_of_the_notebook(outputs):
    assert "leaves x, w" in outputs["record"][0].data["text/plain"].replace("w, x", "x, w")
    assert "the gradient of w[0, 2]" in html_of(outputs, "why")
    assert re.search(r'"leaf":"w"', html_of(outputs, "step"))
    assert float(outputs["nudge"][0].data["text/plain"]) != 0.0


def test_a_report_shows_the_diagnosis_of_what_failed(outputs):
    shown = html_of(outputs, "report")
    assert "every entry is 2 times too small" in shown
    assert re.findall("<figcaption>(.*?)</figcaption>", shown)[:3] == ["yours", "finite differences", "error"]


def test_the_loss_curve_is_one_picture_with_all_losses_at_the_end_of_the_cell(outputs):
    shown = html_of(outputs, "curve")
    assert "loss 2.0010 at step 999, val 2.5000 at step 500" in shown


def test_training_in_a_notebook_shows_its_loss_curve(outputs):
    pictures = [o for o in outputs["training"] if o.output_type == "display_data"]
    assert len(pictures) == 1
    assert "at step 19, val " in pictures[0].data["text/html"] and "at step 20" in pictures[0].data["text/html"]
    assert "step     20 of 20 | val" in "".join(o.text for o in outputs["training"] if o.output_type == "stream")


# ---- the page of a record in a frame --------------------------------------------------------------------------------

def test_the_page_of_a_record_works_in_the_frame_of_a_notebook(tmp_path):
    x, w = leaf(np.ones((2, 3))), leaf(np.full((3, 4), 0.1))
    frame = record(F.softmax(x @ w).sum(), title='softmax & "its" <sum>')._repr_html_()
    seen = browse(tmp_path, f"<body>{frame}</body><style></style>", """
      await wait();
      const inside = document.querySelector("iframe").contentWindow;
      const shown = () => inside.document.querySelector("h2").textContent;
      seen.headings = [shown()];
      for (const key of ["ArrowRight", "ArrowRight"]) {
        inside.document.body.dispatchEvent(new inside.KeyboardEvent("keydown", {key, bubbles: true}));
        await wait();
        seen.headings.push(shown());
      }
      seen.title = inside.document.title;
      seen.outer = [document.querySelectorAll("iframe").length, location.hash];
    """)
    assert [h.split()[0] for h in seen.headings] == ["sum", "softmax", "matmul"]
    assert seen.title == 'softmax & "its" <sum>'
    assert seen.outer == [1, ""]


# ---- names of leaves ------------------------------------------------------------------------------------------------

def test_a_leaf_is_called_like_the_first_variable_that_holds_it():
    _hidden = w = leaf([1.0, 2.0])
    again = w  # noqa: F841
    ws = [leaf([3.0, 4.0]), w]
    params = {"b": leaf([5.0, 6.0])}
    unnamed = [[leaf([7.0, 8.0])]]
    found = record((w * ws[0] * params["b"] * unnamed[0][0]).sum())
    assert sorted(found.leaves) == sorted(["w", "ws[0]", 'params["b"]', "leaf0"])


def test_names_that_are_given_and_names_of_parameters_come_before_variables():
    w, x = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    layer = nn.Linear(2, 1, rng=np.random.default_rng(0), dtype="float64")
    weight = layer.weight
    found = record((layer(x * w)).sum(), names={"given": w})
    assert set(found.leaves) == {"given", "x", "weight", "bias"} and found.leaves["weight"] is weight


def test_two_leaves_of_one_name_are_told_apart():
    one, two = (nn.Linear(2, 1, bias=False, rng=np.random.default_rng(k), dtype="float64") for k in (0, 1))
    found = record((one([[1.0, 2.0]]) * two([[3.0, 4.0]])).sum())
    assert list(found.leaves) == ["weight", "weight'"]
    assert {id(t) for t in found.leaves.values()} == {id(one.weight), id(two.weight)}


def test_why_and_nudge_and_until_take_the_name_of_a_variable():
    x, w = leaf(np.array([[1.0, 2.0]])), leaf(np.array([[3.0], [4.0]]))
    found = record((x @ w).sum())
    matmul = next(v.index for v in found.views if v.op == "matmul")
    assert found.why(matmul, "w", (1, 0)) == found.why(matmul, "b", (1, 0))
    assert found.why(matmul, "w", (1, 0)).value == 2.0
    assert found.nudge("x", (0, 1), 0.5).actual == pytest.approx(2.0)
    assert [v.op for v in found.views if found.breakpoint("w")(v)] == ["matmul"]
    assert [step.op for step in (x @ w).sum().backward_steps(until="w")] == ["matmul"]
    with pytest.raises(ValueError, match="nothing here is called 'v'"):
        list((x @ w).sum().backward_steps(until="v"))


# ---- places ---------------------------------------------------------------------------------------------------------

def test_a_place_has_no_folder_outside_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    package = Path(mg.__file__).parent
    assert place(str(package / "ops" / "softmax.py"), 27) == "minigrad/ops/softmax.py:27"
    assert place(str(tmp_path / "sub" / "mine.py"), 3) == "sub/mine.py:3"
    assert place(str(package.parent / "gpt" / "model.py"), 4) == "gpt/model.py:4"
    assert place("/somewhere/else/lib.py", 5) == "lib.py:5"
    assert place("tour.py", 6) == "tour.py:6"
    assert place("<ipython-input-3-0123456789ab>", 7) == "cell 3, line 7"
    monkeypatch.chdir("/")
    assert place("/somewhere/else/lib.py", 5) == "lib.py:5"


def test_a_page_has_no_folder_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x = leaf(np.ones((2, 3)))
    text = mg.step.page.html(record(F.softmax(x).sum()))
    for folder in {str(tmp_path), str(ROOT), str(Path.home())} - {"/"}:
        assert folder not in text
