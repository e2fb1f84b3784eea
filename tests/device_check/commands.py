"""Commands of the project, as users run them."""
import os
import subprocess
import sys

from .found import Found
from .runner import ROOT


def run(found: Found, module: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run python -m MODULE  ->  its exit status and its output, which goes to log.txt as it comes."""
    lines = []
    with subprocess.Popen([sys.executable, "-W", "default", "-m", module, *arguments], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    output = "".join(lines)
    found.warnings_in(output)
    return process.returncode, output


def last_line(output: str) -> str:
    return ([line for line in output.splitlines() if line.strip()] or ["no output"])[-1]
