"""Makes `.venv-compat-1375/` at the top of the repository: hatchet-sdk 1.37.5 with pinned versions, apart from everything else.

Safe to repeat: an environment that already holds what the constraints say is left as it is. Run by hand or by make:
`python tests/compat/setup_1375.py`. Prints the path of its Python as the last line.
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent.parent / ".venv-compat-1375"
PYTHON = ENVIRONMENT / "bin" / "python"
CONSTRAINTS = HERE / "constraints-1375.txt"
STAMP = ENVIRONMENT / "constraints-installed.txt"


def main() -> None:
    wanted = CONSTRAINTS.read_text()
    if not (STAMP.exists() and STAMP.read_text() == wanted):
        venv.EnvBuilder(with_pip=True, clear=True).create(ENVIRONMENT)
        subprocess.run(
            [str(PYTHON), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), "hatchet-sdk==1.37.5"],
            check=True,
            stdout=sys.stderr,
        )
        STAMP.write_text(wanted)
    print(PYTHON)


if __name__ == "__main__":
    main()
