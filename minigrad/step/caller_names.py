"""What the user's code calls its Tensors: the names of the variables that hold them."""
import sys
from typing import Any, Iterator, Mapping

from minigrad import device
from minigrad.call_site import outside_package
from minigrad.tensor import Tensor


def names_of_caller() -> dict[Any, str]:
    """`names_in` the local and global variables of the nearest caller outside this package, and those of the program
    or notebook."""
    frame = outside_package(sys._getframe(1))
    return names_in(frame.f_locals, frame.f_globals, vars(sys.modules["__main__"]))


def names_in(*scopes: Mapping[str, Any]) -> dict[Any, str]:
    """Tensor.key, or id of an array -> its variable: "w", "ws[0]", 'params["w"]'.

    Of several variables that hold it the first counts, in the order in which they were defined. Names that begin with
    an underscore are left out, and so are In and Out, IPython's lists of what was typed and printed.
    """
    names: dict[Any, str] = {}
    for scope in scopes:
        for name, value in list(scope.items()):
            if not name.startswith("_") and name not in ("In", "Out"):
                for suffix, x in _held(value):
                    if isinstance(x, Tensor):
                        names.setdefault(x.key, name + suffix)
                    elif device.is_array(x):
                        names.setdefault(id(x), name + suffix)
    return names


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """A value and, of a list, tuple or dict, its entries, each with what follows the variable's name."""
    yield "", value
    if type(value) in (list, tuple):
        yield from ((f"[{i}]", x) for i, x in enumerate(value))
    elif type(value) is dict:
        yield from ((f'["{key}"]' if isinstance(key, str) else f"[{key!r:.20}]", x) for key, x in value.items())
