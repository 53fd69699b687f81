"""The values that the tests of expressions read."""

import json

INPUT = {
    "n": 4,
    "f": 3.5,
    "neg": -2,
    "big": 1234567,
    "id": 9007199254740993,
    "a": "x",
    "s": "Hello, World",
    "empty": "",
    "flag": True,
    "off": False,
    "nul": None,
    "list": [1, 2.5, "three", None, {"id": "k"}, [1]],
    "numbers": [3, 1, 2],
    "words": ["b", "a"],
    "none": [],
    "map": {"k": "v", "n": 1},
    "user": {"id": "u1", "address": {"city": "Zürich"}},
    "in_stock": True,
    "class": "c",
    "odd-key": "o",
    "quote'd": 1,
    "emoji": "aé😀z",
    "time": "2024-02-29T23:30:00Z",
}
METADATA = {"tenant": "t1", "level": 2}
VALUES = {
    "input": json.dumps(INPUT).encode(),
    "additional_metadata": json.dumps(METADATA).encode(),
    "payload": b'{"min": 3}',
    "event_key": "user:created",
    "event_id": "e1",
    "workflow_run_id": "r1",
}
