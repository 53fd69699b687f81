"""Named SQL: one `.sql` file a noun; each query stands under `-- name: NAME` with its purpose and arguments in comments.

What several queries of a file have in common stands once, under `-- part: NAME`, and is put in where a line ends with `-- include: NAME`.
Everything that the package sends to Postgres at run time stands there or in a migration; no value is ever put into a text.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

_HEADER = re.compile(r"^-- (name|part): ([a-z_]+)$", re.MULTILINE)
_INCLUDE = re.compile(r"-- include: ([a-z_]+)$", re.MULTILINE)


@cache
def load() -> dict[str, str]:
    """Every query by name, comments left out. Raises `KeyError` for a part that the file does not have."""
    found: dict[str, str] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        texts = _HEADER.split(file.read_text("utf-8"))
        parts: dict[str, str] = {}
        for kind, name, body in zip(texts[1::3], texts[2::3], texts[3::3], strict=True):
            if name in found or name in parts:
                raise ValueError(f"query {name} is defined twice, the second time in {file.name}")
            lines = [line for line in body.splitlines() if not line.startswith("--")]
            text = "\n".join(lines).strip().rstrip(";")
            if kind == "part":
                parts[name] = text
            else:
                found[name] = _with_parts(text, parts)
    return found


def _with_parts(text: str, parts: Mapping[str, str]) -> str:
    return _INCLUDE.sub(lambda match: parts[match[1]], text)


def query(name: str) -> str:
    """The text of one query. Raises `KeyError` for a name that no file has."""
    return load()[name]
