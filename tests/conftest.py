"""`pytest --plain` runs everything by the textbook, without kernels."""
import pytest

import minigrad as mg


def pytest_addoption(parser):
    parser.addoption("--plain", action="store_true", help="run the textbook's ops, not the kernels")


@pytest.fixture(autouse=True)
def by_the_textbook(request):
    if request.config.getoption("--plain"):
        with mg.plain():
            yield
    else:
        yield
