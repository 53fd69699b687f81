"""Types are part of the product: what `run` returns is the task's output type, and wrong calls do not check."""

import re
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("typing_cases.py")
ROOT = Path(__file__).parents[3]


def test_mypy_sees_what_users_are_promised(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-error-summary",
            f"--cache-dir={tmp_path}",
            str(CASES),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"MYPYPATH": f"{ROOT}/sdk", "PATH": "/usr/bin:/bin"},
        timeout=110,
        check=False,
    )
    told = {
        int(match[1]): match[0] for match in re.finditer(r"typing_cases\.py:(\d+): error: .*", run.stdout)
    }
    expected = {
        number for number, line in enumerate(CASES.read_text().splitlines(), 1) if line.endswith("# error")
    }
    assert {number: text for number, text in told.items() if number not in expected} == {}, run.stdout
    assert expected == told.keys(), run.stdout + run.stderr
