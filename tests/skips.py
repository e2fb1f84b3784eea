"""A pytest plugin: `--no-skips-but=REGEX` fails the run if a test is skipped for a reason that REGEX does not match."""
import re

import pytest


def pytest_addoption(parser):
    parser.addoption("--no-skips-but", metavar="REGEX", help="fail if a test is skipped for any other reason")


def pytest_configure(config):
    expected = config.getoption("--no-skips-but")
    if expected is not None:
        config.pluginmanager.register(Skips(re.compile(expected)))


class Skips:
    """Collects the skipped tests whose reason is not expected."""

    def __init__(self, expected):
        self.expected = expected
        self.unexpected = []

    def pytest_runtest_logreport(self, report):
        if report.skipped and not hasattr(report, "wasxfail"):      # pytest reports an expected failure as skipped
            _, _, reason = report.longrepr                          # path, line, reason
            if not self.expected.search(reason):
                self.unexpected.append(f"{report.nodeid}: {reason}")

    pytest_collectreport = pytest_runtest_logreport                 # of a module that is skipped as a whole

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for line in self.unexpected:
            terminalreporter.write_line(f"FAILED: skipped for an unexpected reason: {line}")
