"""Named SQL: one `.sql` file a noun; each query stands under `-- name: NAME` with its purpose and arguments in comments.

Everything that the package sends to Postgres at run time stands there or in a migration; nothing is built from strings.
"""

import re
from functools import cache
from importlib import resources

_HEADER = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def load() -> dict[str, str]:
    """Every query by name, comments left out."""
    found: dict[str, str] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _HEADER.split(file.read_text("utf-8"))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"query {name} is defined twice, the second time in {file.name}")
            lines = [line for line in body.splitlines() if not line.startswith("--")]
            found[name] = "\n".join(lines).strip().rstrip(";")
    return found


def query(name: str) -> str:
    """The text of one query. Raises `KeyError` for a name that no file has."""
    return load()[name]
