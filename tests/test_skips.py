"""The option --no-skips-but: a run fails if a test is skipped for a reason that is not expected."""
import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest("pytest_plugins = ['skips']")
    pytester.makepyfile(
        test_one="""
            import pytest

            @pytest.mark.skipif(True, reason="no browser here")
            def test_skipped(): pass

            @pytest.mark.xfail
            def test_expected_to_fail(): assert False
        """,
        test_all="import pytest; pytest.importorskip('no_such_module')",
        test_passes="def test_passes(): pass")
    return pytester.runpytest_inprocess


@pytest.mark.parametrize("options", [[], ["--no-skips-but=no_such_module|browser"]])
def test_a_run_passes_if_the_option_is_not_given_or_expects_each_skip(run, options):
    result = run(*options)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)


@pytest.mark.parametrize("expected, unexpected", [
    ("browser", "test_all.py: *could not import 'no_such_module'*"),
    ("no_such_module", "test_one.py::test_skipped: *no browser here"),
])
def test_a_run_fails_and_names_a_skip_that_is_not_expected(run, expected, unexpected):
    result = run(f"--no-skips-but={expected}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"FAILED: skipped for an unexpected reason: {unexpected}"])
    assert str(result.stdout).count("FAILED:") == 1
