"""Which parts of the project must not import which, and how long files that are meant to be read whole may be."""
import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).parent.parent


# ---- imports --------------------------------------------------------------------------------------------------------

WALLS = [       # (modules or packages, modules or packages that these never import, directly or through others)
    ("minigrad", "gpt"),
    ("minigrad.ops", "minigrad.kernels"),
    ("minigrad.tape minigrad.tensor minigrad.nn minigrad.optim minigrad.functional",
     "minigrad.kernels minigrad.gradcheck minigrad.step"),
    ("minigrad.gradcheck", "minigrad.step"),
    ("gpt.model train", "minigrad.kernels"),
]
ROOTS = ("minigrad", "gpt")     # their __init__.py do not count: minigrad's imports all that is public
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for path in [*ROOT.glob("minigrad/**/*.py"), *ROOT.glob("gpt/**/*.py"), ROOT / "train.py"]}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The names of all modules that this code of a package may import, also inside functions, but not under
    TYPE_CHECKING. In `from a import b`, b may be a module: both a.b and a are yielded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (*(f"{module}.{alias.name}" for alias in node.names), module)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imported(ast.Module(node.orelse, []), package)
        else:
            yield from imported(node, package)


def imports(module: str) -> list[str]:
    """The modules of this project that a module imports."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = imported(ast.parse(path.read_text("utf-8")), package)
    return [name for name in names if name in FILES and name not in ROOTS]


def within(module: str, packages: str) -> bool:
    """Whether a module is one of these modules, or is in one of these packages."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages.split())


@pytest.mark.parametrize("who, never", WALLS)
def test_no_chain_of_imports_crosses_a_wall(who, never):
    chains = [[module] for module in FILES if within(module, who) and module not in ROOTS]
    assert len(chains) >= len(who.split()), f"there is no such module: {who}"
    seen = {chain[0] for chain in chains}
    for chain in chains:                        # the loop appends to it: breadth first, the shortest chains first
        assert not within(chain[-1], never), "\n  imports ".join(chain)
        new = [module for module in dict.fromkeys(imports(chain[-1])) if module not in seen]
        seen.update(new)
        chains += [[*chain, module] for module in new]


def test_the_only_circle_of_imports_is_tape_and_tensor():
    graph = {module: set(imports(module)) - {module} for module in FILES if module not in ROOTS}
    graph["minigrad.tape"].remove("minigrad.tensor")
    TopologicalSorter(graph).prepare()          # raises CycleError, with the modules of another circle


def test_imports_are_found_in_any_place_and_form():
    code = """
import a.b as c, d
from e import f
from . import g
from ..h import i
if TYPE_CHECKING:
    import not_counted
else:
    import j
def function():
    try:
        with manager:
            import k
    except ImportError:
        class C:
            import l
"""
    assert list(imported(ast.parse(code), "p.q")) == [
        "a.b", "d", "e.f", "e", "p.q.g", "p.q", "p.h.i", "p.h", "j", "k", "l"]


# ---- lengths --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("files, lines", [
    ("minigrad/tape.py", 350),
    ("minigrad/executor.py", 130),
    ("minigrad/kernels/**/*.py", 300),
    ("train.py", 160),
])
def test_files_that_are_read_whole_are_short(files, lines):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in ROOT.glob(files)}
    assert lengths and max(lengths.values()) <= lines, lengths
