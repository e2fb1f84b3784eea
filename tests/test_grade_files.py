"""python -m minigrad.grade: files of answers."""
import ast
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minigrad.grade import process
from minigrad.grade.__main__ import files_in, main
from minigrad.grade.file import grade_file
from minigrad.grade.verdict import Verdict

ROOT = Path(__file__).parent.parent
RIGHT = """\
def softmax_backward(dy, p, axis):
    return p * (dy - (dy * p).sum(axis=axis, keepdims=True))
"""
WRONG = """\
def softmax_backward(dy, p, axis):
    return p * dy
"""
STUB = """\
def softmax_backward(dy, p, axis):
    raise NotImplementedError
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file of answers into a folder of its own, and returns its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text, name="mine.py"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    yield write
    for name in [name for name in sys.modules if name == "helpers" or name.startswith("answers_")]:
        del sys.modules[name]


def verdicts(path):
    return [result for result in grade_file(path) if isinstance(result, Verdict)]


def command(*args):
    """The command as a process, which is killed after a minute."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen([sys.executable, "-m", "minigrad.grade", *map(str, args)], env=environment,
                               encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timer = threading.Timer(60, process.kill)
    timer.daemon = True
    timer.start()
    return process


# ---- which functions are graded -------------------------------------------------------------------------------------

def test_all_functions_named_after_exercises_are_graded_in_their_order_and_no_others(write):
    write("def accumulation(counts):\n    return 3\ndef schedule(*args):\n    return None\n", "helpers.py")
    path = write("import numpy as np\nfrom helpers import accumulation\nfrom itertools import accumulate\n"
                 "import helpers as add_backward\n"
                 "schedule = lambda *args: 0.0\n" + RIGHT + "def helper(x):\n    return x\n"
                 "def log_softmax_backward(dy, y, axis):\n    raise NotImplementedError\n")
    assert [(v.exercise, v.verdict) for v in verdicts(path)] == [
        ("schedule", "wrong"), ("softmax.backward", "right"), ("log_softmax.backward", "not attempted")]


def test_each_exercise_is_announced_before_it_is_graded(write):
    results = list(grade_file(write(RIGHT + "def schedule(*args):\n    raise NotImplementedError\n")))
    assert [r if isinstance(r, str) else r.verdict for r in results] == [
        "softmax.backward", "right", "schedule", "not attempted"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/exercises/*.py")), ids=lambda path: path.stem)
def test_the_stubs_of_the_book_are_all_exercises_and_none_is_attempted(path, write):
    stubs = [node.name for node in ast.parse(path.read_text("utf-8")).body
             if isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "raise NotImplementedError"]
    found = verdicts(path)
    assert stubs and [v.exercise.replace(".", "_") for v in found] == stubs
    assert {v.verdict for v in found} == {"not attempted"}


@pytest.mark.parametrize("name, meant", [
    ("softmax_backwards", "softmax_backward"), ("Sofmax_backward", "softmax_backward"), ("schedul", "schedule")])
def test_a_name_like_that_of_an_exercise_is_not_graded_and_says_so(name, meant, write):
    path = write(f"def {name}(*args):\n    return 0.0\n")
    assert [(v.exercise, v.verdict, v.why) for v in verdicts(path)] == [
        ("", "not graded", f"{name} is not named after an exercise: did you mean {meant}?")]


def test_a_helper_with_a_name_like_that_of_an_answered_exercise_is_left_alone(write):
    assert verdicts(write("def softmax_backward1(x):\n    return x\n" + RIGHT)) and len(verdicts(write(RIGHT))) == 1


# ---- a file that is graded ------------------------------------------------------------------------------------------

def test_a_file_runs_in_its_own_module_under_another_name_than_main_and_imports_from_its_folder(write):
    write("ONE = 1.0\n", "folder/helpers.py")
    path = write("import dataclasses\nimport helpers\n\n@dataclasses.dataclass\nclass Row:\n    total: 'float'\n\n"
                 "if __name__ == '__main__':\n    raise SystemExit\n\n"
                 "def softmax_backward(dy, p, axis):\n    row = Row((dy * p).sum(axis=axis, keepdims=True))\n"
                 "    return helpers.ONE * p * (dy - row.total)\n", "folder/numpy.py")
    assert [v.verdict for v in verdicts(path)] == ["right"]


@pytest.mark.parametrize("text", [
    RIGHT.replace("\n", "\r\n").encode(),
    b"\xef\xbb\xbf" + RIGHT.encode(),
    ("# -*- coding: latin-1 -*-\n# Gr\u00f6\u00dfe\n" + RIGHT).encode("latin-1"),
    "import numpy as np, random\nnp.random.seed(0)\nrandom.seed(0)\nnp.seterr(all='raise')\n" + RIGHT,
    "import warnings\nwarnings.simplefilter('error')\nprint('hello')\n" + RIGHT,
], ids=["Windows line ends", "byte order mark", "Latin 1", "seeds and settings", "warnings and output"])
def test_a_right_answer_is_right_whatever_else_the_file_has(text, write):
    with np.errstate():
        assert [v.verdict for v in verdicts(write(text))] == ["right"]


def test_a_file_that_is_saved_again_in_the_same_second_is_read_again(write):
    assert [v.verdict for v in verdicts(write(RIGHT))] == ["right"]
    changed = RIGHT.replace("dy - ", "dy + ")                   # as many bytes
    assert [v.verdict for v in verdicts(write(changed))] == ["wrong"]


def test_no_other_file_is_imported_and_none_is_written(write):
    write("raise RuntimeError('imported')\n", "schedule.py")
    assert [v.verdict for v in verdicts(write(RIGHT))] == ["right"]
    assert sorted(path.name for path in Path().iterdir()) == ["mine.py", "schedule.py"]


# ---- a file that cannot be graded -----------------------------------------------------------------------------------

@pytest.mark.parametrize("text, lines", [
    ("def f(x):\n\treturn (x +\n", ["line 2   return (x +", "                ^", "SyntaxError: '(' was never closed"]),
    ("x = 1\n  y = 2\n", ["line 2   y = 2", "", "IndentationError: unexpected indent"]),
    (b"x = '\xff'\n", ["line 1   x = '", "", "SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xff"]),
    (b"x = \0\n", ["SyntaxError: source code string cannot contain null bytes"]),
    ("x = [1]\nprint(x[1])\n", ["line 2   print(x[1])", "raised IndexError: list index out of range"]),
    ("import sys\n\nsys.exit(3)\n", ["line 3   sys.exit(3)", "calls sys.exit, which ends the program"]),
    ("import notthere\n", ["line 1   import notthere", "raised ModuleNotFoundError: No module named 'notthere'"]),
    ("import numpy\nnumpy.exp = numpy.linalg.det = 3\n" + RIGHT,
     ["it replaces numpy.exp and numpy.linalg.det, which everything else uses too: choose another name"]),
    ("x = 3\n", ["no function in it is named after an exercise, as softmax_backward is"]),
    ("", ["no function in it is named after an exercise, as softmax_backward is"]),
], ids=["syntax", "indentation", "encoding", "null", "exception", "exit", "import", "numpy", "no function", "empty"])
def test_a_file_that_cannot_be_graded_says_why(text, lines, write):
    [verdict] = verdicts(write(text))
    assert (verdict.exercise, verdict.verdict) == ("", "not graded")
    assert len(verdict.explanation.splitlines()) == len(lines)
    for got, line in zip(verdict.explanation.splitlines(), lines):
        assert got.startswith(f"  {line}")


def test_a_syntax_error_in_a_file_that_it_imports_names_that_file(write):
    write("x = = 3\n", "helpers.py")
    [verdict] = verdicts(write("import helpers\n" + RIGHT))
    assert "helpers.py, line 1   x = = 3" in verdict.explanation


def test_a_name_of_an_exercise_that_is_no_function_is_wrong(write):
    [verdict] = verdicts(write("schedule = 3\n"))
    assert (verdict.verdict, verdict.why) == ("wrong", "expected a function, got an int: pass it without ()")


# ---- the command ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args, words", [
    (["sub/sofmax.py"], "there is no file sub/sofmax.py; did you mean sub/softmax.py?"),
    (["xyz.py"], "there is no file xyz.py"),
    (["softmax.backward"], "there is no file softmax.backward"),
    (["book.ipynb"], "book.ipynb is no .py file: in a notebook, use minigrad.grade.check"),
    (["empty"], "there is no Python file in the folder empty"),
    ([], "the following arguments are required: FILE"),
])
def test_what_is_no_file_of_answers_ends_with_status_2_and_one_line(args, words, write, capsys):
    write(RIGHT, "sub/softmax.py")
    write("{}", "book.ipynb")
    write("", "empty/.hidden.py")
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"python -m minigrad.grade: error: {words}\n"


def test_a_folder_means_the_python_files_in_it_and_in_its_folders(write):
    for name in ("b.py", "a/mine.py", "a/notes.txt", ".venv/x.py", ".x.py"):
        write("", f"class/{name}") if name.count("/") < 2 else None
    Path("class/folder.py").mkdir()
    assert [path.as_posix() for path in files_in([Path("class"), Path("class/b.py")])] == [
        "class/a/mine.py", "class/b.py", "class/b.py"]


def test_a_class_gives_a_line_of_json_per_file_and_exercise_and_no_file_changes_the_verdict_on_another(write):
    write(RIGHT, "class/a.py")
    write("import os\nprint('to stdout')\ndef softmax_backward(dy, p, axis):\n    os._exit(7)\n", "class/b.py")
    write("import numpy as np\nnp.exp = None\n" + RIGHT, "class/c.py")
    write(WRONG + STUB.replace("softmax", "log_softmax").replace("p,", "y,"), "class/d.py")
    with command("--json", "class") as process:
        out, err = process.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["file"], line["exercise"], line["verdict"]) for line in lines] == [
        (str(Path("class", name)), exercise, verdict) for name, exercise, verdict in [
            ("a.py", "softmax.backward", "right"), ("b.py", "softmax.backward", "not graded"),
            ("c.py", None, "not graded"), ("d.py", "softmax.backward", "wrong"),
            ("d.py", "log_softmax.backward", "not attempted")]]
    assert lines[1]["why"] == "it ends Python, with exit status 7; what follows in the file is not graded"
    assert lines[3]["why"] == "a projection term is missing or wrong: off by (one number per row) x p"
    assert lines[3]["explanation"].startswith("  input   softmax((3, 5))\n  dx differs at 15 of 15 entries")
    assert process.returncode == 2 and err == "to stdout\n"


@pytest.mark.parametrize("text, status, out", [
    (RIGHT + "print('hello')\n", 0, "hello\n✓ softmax.backward: right\n"),
    (STUB, 1, "· softmax.backward: not attempted\n"),
    ("x = = 3\n", 2, "! mine.py: not graded\n  line 1   x = = 3\n               ^\n  SyntaxError: invalid syntax\n"),
], ids=["right", "stub", "syntax error"])
def test_the_command_prints_the_verdicts_and_its_status_is_0_if_all_are_right(text, status, out, write, capfd):
    assert main([str(write(text))]) == status
    assert capfd.readouterr() == (out, "")


def test_an_endless_loop_in_a_class_is_not_graded_after_some_time(write, monkeypatch, capfd):
    monkeypatch.setattr(process, "LIMIT", 0.5)
    path = write("def softmax_backward(dy, p, axis):\n    while True:\n        pass\n")
    assert main(["--json", str(path)]) == 2
    [line] = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert line["verdict"] == "not graded"
    assert line["why"] == "no verdict after 0.5 seconds, as in an endless loop; what follows in the file is not graded"


def test_ctrl_c_in_an_endless_loop_names_the_exercise_and_ends_with_status_130_and_no_process_is_left(write):
    write("import os\ndef softmax_backward(dy, p, axis):\n    print(os.getpid(), flush=True)\n    while True:\n"
          "        try:\n            pass\n        except BaseException:\n            pass\n")
    with command("mine.py") as process:
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == "python -m minigrad.grade: interrupted in softmax.backward\n"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_watch_grades_again_when_the_file_is_saved_or_replaced_also_in_an_endless_loop(write):
    path = write("def softmax_backward(*args):\n    print('looping', flush=True)\n    while True:\n        pass\n")
    with command("--watch", path) as process:
        lines = iter(process.stdout.readline, "")
        assert "looping\n" in lines                             # reads up to this line
        write(WRONG)
        assert "✗ softmax.backward: wrong\n" in lines
        write(RIGHT, "new.py")
        os.replace("new.py", path)                              # as editors do
        assert "✓ softmax.backward: right\n" in lines
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("python -m minigrad.grade: a file is graded again whenever it is saved; Ctrl-C ends\n"
                          "python -m minigrad.grade: interrupted") and len(err.splitlines()) == 2
