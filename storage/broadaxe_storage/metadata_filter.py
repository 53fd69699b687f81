"""What a listing asks of metadata, in the forms that an index serves. Pure.

Values are compared as text with the top-level value of a key. Strings that have to be met all together are an object that the metadata
contain; anything else is a JSON path, in which a value that reads as a number, or as true or false, may be the text or the number; those are compared
as text once more, as 5.0 equals 5. Objects and arrays have no such form, nor has the key that the index leaves out, and more than a few items
are not worth one: each row is looked at.
"""

import json
import re
from typing import NamedTuple

from broadaxe_storage.summaries import RunQuery

MAX_ITEMS = 50
UNINDEXED = "traceparent"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_BOOLEANS = ("true", "false")


class MetadataFilter(NamedTuple):
    """Arguments of the listings, each None where it does not narrow."""

    contains: str | None = None
    """JSON text."""
    path: str | None = None
    keys: list[str] | None = None
    values: list[str] | None = None
    least: int = 1
    """How many of these keys have these values."""


def metadata_filter(query: RunQuery) -> MetadataFilter:
    items = query.metadata
    if not items:
        return MetadataFilter()
    least = len(items) if query.needs_all_metadata else 1
    exact = MetadataFilter(None, None, [key for key, _ in items], [value for _, value in items], least)
    has_no_form = any(key == UNINDEXED or value.lstrip()[:1] in ("{", "[") for key, value in items)
    if has_no_form or len(items) > MAX_ITEMS:
        return exact
    is_text = not any(_NUMBER.fullmatch(value) or value in _BOOLEANS for _, value in items)
    wanted = dict(items)
    if is_text and least == len(items) == len(wanted):
        return MetadataFilter(contains=json.dumps(wanted))
    path = (" && " if query.needs_all_metadata else " || ").join(_meets(key, value) for key, value in items)
    return MetadataFilter(path=path) if is_text else exact._replace(path=path)


def _meets(key: str, value: str) -> str:
    """As a predicate of a JSON path. Without the type a list that has the value would meet it, too."""
    at = f"$.{json.dumps(key)}"
    found = f'({at} == {json.dumps(value)} && {at}.type() == "string")'
    if _NUMBER.fullmatch(value) or value in _BOOLEANS:
        found = f"({found} || {at} == {value})"
    return found
