"""The `traceparent` in a run's metadata (W3C trace context, behaviour-core 4.4.3). Pure."""

import json
import re
from typing import Any

_VALID = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_valid(value: object) -> bool:
    return isinstance(value, str) and _VALID.fullmatch(value) is not None


def make(run_id: str, source_id: str | None) -> str:
    """One made of ids. The trace is that of the source, such as a parent run, so that a tree of runs shares one."""
    return f"00-{(source_id or run_id).replace('-', '')}-{run_id[-17:].replace('-', '')}-01"


def with_traceparent(metadata: dict[str, Any], run_id: str, source_id: str | None) -> str:
    """Metadata as JSON text that surely has a valid `traceparent`: its own, else one made of ids."""
    if not is_valid(metadata.get("traceparent")):
        metadata = {**metadata, "traceparent": make(run_id, source_id)}
    return json.dumps(metadata, separators=(",", ":"))
