"""What each environment has and wants, what values may be, and what the actors ask of an expression."""

import hashlib
import json
import subprocess
import sys

import pytest

from broadaxe_actors import cel
from broadaxe_actors.cel import Document, Environment, EvaluationFailed, InvalidExpression
from tests.unit.actors.cel_values import INPUT, VALUES

# ---- environments


STRINGS = [
    ("input.user.id", "u1"),
    ("'constant'", "constant"),
    ("input.a + '-' + additional_metadata.tenant", "x-t1"),
    ("string(input.n)", "4"),
    ("'n' + string(input.big)", "n1.234567e+06"),
    ("workflow_run_id", "r1"),
    ("input.flag ? 'yes' : 'no'", "yes"),
    ("checksum(input.a)", hashlib.sha256(b"x").hexdigest()),
    ("checksum('é')", hashlib.sha256("é".encode()).hexdigest()),
    ("input.words.join(',').upperAscii()", "B,A"),
    ("input.emoji", "aé😀z"),
]


@pytest.mark.parametrize(("text", "key"), STRINGS)
def test_keys(text: str, key: str) -> None:
    for environment in (Environment.CONCURRENCY_KEY, Environment.RATE_LIMIT_KEY, Environment.BATCH_GROUP_KEY):
        assert cel.compile(text, environment).evaluate(VALUES) == key
    if "workflow_run_id" not in text:
        assert cel.compile(text, Environment.IDEMPOTENCY_KEY).evaluate(VALUES) == key


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("-1", -1),
        ("3", 3),
        ("input.n", 4),
        ("input.f", 3),
        ("input.neg", -2),
        ("2.9", 2),
        ("5u", 5),
        ("size(input.list)", 6),
    ],
)
def test_units_are_truncated_to_ints(text: str, units: int) -> None:
    for environment in (Environment.RATE_LIMIT_UNITS, Environment.RATE_LIMIT_VALUE):
        value = cel.compile(text, environment).evaluate(VALUES)
        assert value == units
        assert type(value) is int


@pytest.mark.parametrize(
    ("text", "environment", "cause"),
    [
        ("input.n", Environment.CONCURRENCY_KEY, "expected string output, got double"),
        ("input.nul", Environment.IDEMPOTENCY_KEY, "expected string output, got null_type"),
        ("input.flag", Environment.BATCH_GROUP_KEY, "expected string output, got bool"),
        ("input.a", Environment.RATE_LIMIT_UNITS, "expected int output, got string"),
        ("input.flag", Environment.RATE_LIMIT_VALUE, "expected int output, got bool"),
        ("double('inf')", Environment.RATE_LIMIT_VALUE, "expected int output, got the double inf"),
        ("input.n * 1e300", Environment.RATE_LIMIT_VALUE, "64 bits"),
        ("parents.a.b", Environment.CONCURRENCY_KEY, "parents cannot be read"),
        ("input.a + '\\u0000'", Environment.CONCURRENCY_KEY, "U+0000"),
    ],
)
def test_results_of_the_wrong_type(text: str, environment: Environment, cause: str) -> None:
    with pytest.raises(EvaluationFailed) as caught:
        cel.compile(text, environment).evaluate(VALUES)
    assert cause in caught.value.cause
    assert caught.value.expression == text


@pytest.mark.parametrize(
    ("text", "environment", "cause"),
    [
        ("1", Environment.CONCURRENCY_KEY, "a concurrency key must be a string, and this is a int"),
        ("'a'", Environment.RATE_LIMIT_UNITS, "rate limit units must be a int"),
        ("workflow_run_id", Environment.IDEMPOTENCY_KEY, "no variable workflow_run_id"),
        ("payload.a", Environment.CONCURRENCY_KEY, "no variable payload"),
        (
            "additional_metadata.a == 'x'",
            Environment.EVENT_CONDITION,
            "no variable additional_metadata in an event condition",
        ),
        (
            "output.a.lowerAscii() == 'x'",
            Environment.PARENT_CONDITION,
            "no function lowerAscii in a parent condition",
        ),
        (
            "checksum(output.a) == 'x'",
            Environment.PARENT_CONDITION,
            "no function checksum in a parent condition",
        ),
        (
            "checksum(input.a) == 'x'",
            Environment.EVENT_CONDITION,
            "no function checksum in an event condition",
        ),
    ],
)
def test_environments_have_what_is_theirs(text: str, environment: Environment, cause: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        cel.compile(text, environment)
    assert cause in caught.value.cause


def test_conditions() -> None:
    condition = cel.compile("output.random_number > 50", Environment.PARENT_CONDITION)
    assert condition.evaluate({"output": b'{"random_number": 51}'}) is True
    assert condition.evaluate({"output": b'{"random_number": 50}'}) is False
    for empty in (b"", b"null", b"[1]", b'"text"', b"{}"):
        with pytest.raises(EvaluationFailed, match="no such key"):
            condition.evaluate({"output": empty})
    assert (
        cel.compile("!has(input.a) && output.size() == 0", Environment.PARENT_CONDITION).evaluate({}) is True
    )
    assert (
        cel.compile("input.a == 'x' && !has(output.b)", Environment.EVENT_CONDITION).evaluate(VALUES) is True
    )


def test_a_payload_that_is_no_object_fails_where_it_is_read() -> None:
    with pytest.raises(EvaluationFailed, match="input is a list, and no JSON object"):
        cel.compile("input.a == 1", Environment.EVENT_FILTER).evaluate({"input": b"[1]"})
    with pytest.raises(EvaluationFailed, match="input is no valid JSON"):
        cel.compile("input.a == 1", Environment.EVENT_FILTER).evaluate({"input": b"{"})
    assert (
        cel.compile("input.a == 1 || event_id == 'e'", Environment.EVENT_FILTER).evaluate(
            {"input": b"[1]", "event_id": "e"}
        )
        is True
    )


@pytest.mark.parametrize("metadata", [b"[1]", b'"x"', b"1", " [1]"])
def test_metadata_that_is_no_object_fails_every_key(metadata: bytes | str) -> None:
    with pytest.raises(EvaluationFailed, match="additional_metadata is no JSON object"):
        cel.compile("'constant'", Environment.CONCURRENCY_KEY).evaluate({"additional_metadata": metadata})
    for fine in (b"", b"null", b' {"a": 1}', {"a": 1}, Document(b"{}")):
        assert (
            cel.compile("'constant'", Environment.CONCURRENCY_KEY).evaluate({"additional_metadata": fine})
            == "constant"
        )
    assert (
        cel.compile("'constant'", Environment.IDEMPOTENCY_KEY).evaluate({"additional_metadata": metadata})
        == "constant"
    )


@pytest.mark.parametrize(
    "text", ["input.n == 4 && input.numbers[0] == 3", "input.n + 1.0 == 5.0 && input.numbers == [3, 1, 2]"]
)
def test_values_may_be_text_documents_or_objects(text: str) -> None:
    expression = cel.compile(text, Environment.EVENT_FILTER)
    raw = json.dumps(INPUT)
    for given in (raw, raw.encode(), Document(raw), INPUT, {"n": 4, "numbers": (3, 1, 2)}):
        assert expression.evaluate({"input": given}) is True


def test_a_document_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    original = json.loads
    monkeypatch.setattr(
        json, "loads", lambda *arguments, **options: parsed.append(1) or original(*arguments, **options)
    )
    document = Document(b'{"a": "x"}')
    for text in ("input.a == 'x'", "input.a != 'y'", "input.a.size() == 1"):
        assert cel.compile(text, Environment.EVENT_FILTER).evaluate({"input": document}) is True
    assert len(parsed) == 1


def test_half_surrogates_do_not_leave() -> None:
    key = cel.compile("input.a", Environment.CONCURRENCY_KEY).evaluate({"input": b'{"a": "x\\ud800"}'})
    assert key == "x\ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "input.s" + ".replace('l', 'llllllllll')" * 50,
        "input.s" + ".split('').join('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')" * 8,
        "'%.999f'.format([1.0])" + ".replace('0', '00')" * 12,
    ],
)
def test_strings_cannot_grow_without_bound(text: str) -> None:
    with pytest.raises(EvaluationFailed, match="an expression may build 262,144"):
        cel.compile(text, Environment.CONCURRENCY_KEY).evaluate(VALUES)


def test_deep_json_is_an_error() -> None:
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(EvaluationFailed, match="nests too deep"):
        cel.compile("input.a == input.a", Environment.EVENT_FILTER).evaluate({"input": deep})
    less = b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"
    with pytest.raises(EvaluationFailed, match="nest too deep"):
        cel.compile("input.a == input.a", Environment.EVENT_FILTER).evaluate({"input": less})


# ---- what the tracker and the router ask of an expression


def test_names_are_the_paths_that_it_reads() -> None:
    text = "input.user.id == 'x' && has(input.a.b) && input.list[0].c == 1 && payload['k'].size() == input.list.filter(x, x.y).size()"
    assert cel.compile(text, Environment.EVENT_FILTER).names == {
        ("input", "user", "id"),
        ("input", "a", "b"),
        ("input", "list", 0, "c"),
        ("payload", "k"),
        ("input", "list"),
    }


def test_what_is_cheap() -> None:
    def is_cheap(text: str, **values: object) -> bool:
        return cel.compile(text, Environment.EVENT_FILTER).is_cheap(values)  # type: ignore[arg-type]

    large = json.dumps({"a": "x", "b": "y" * 70_000})
    assert is_cheap("input.a == 'x'", input=b'{"a": "x"}')
    assert not is_cheap("input.list.exists(x, x == 1)", input=b"{}")
    assert not is_cheap("input.a == 'x'", input=large)
    assert not is_cheap("input.a == 'x'", input=large.encode())
    assert not is_cheap("input.a == 'x'", input=Document(large))
    assert is_cheap("payload.a == 'x'", input=large, payload=b"{}")
    assert is_cheap("input.a == 'x'", input=json.loads(large))
    assert not is_cheap("input.b == 'x'", input=json.loads(large))
    assert not is_cheap("input.c.size() == 1", input={"c": [1.0] * 70_000})
    half = json.dumps({"a": "y" * 40_000})
    assert is_cheap("input.a == 'x'", input=half, payload=half)
    assert not is_cheap("input.a == payload.a", input=half, payload=half)


@pytest.mark.parametrize(
    ("text", "conjuncts"),
    [
        ("input.a == 'x'", [(("input", "a"), "x")]),
        ("'x' == input.user.id", [(("input", "user", "id"), "x")]),
        (
            "input.a == 'x' && input.n > 3 && (input.b == 'y' && input['c'] == 'z')",
            [(("input", "a"), "x"), (("input", "b"), "y"), (("input", "c"), "z")],
        ),
        ("input.a == 'x' || input.b == 'y'", []),
        ("!(input.a == 'x')", []),
        ("input.a != 'x'", []),
        ("input.n == 3", []),
        ("input.list[0] == 'x'", []),
        ("input.a.trim() == 'x'", []),
        ("input.a.size() == 1 && input.b == 'it\\'s'", [(("input", "b"), "it's")]),
    ],
)
def test_equality_conjuncts(text: str, conjuncts: list[object]) -> None:
    assert cel.compile(text, Environment.EVENT_FILTER).equality_conjuncts() == conjuncts


def test_compiling_again_gives_the_same() -> None:
    first = cel.compile("input.a.size() == 1", Environment.EVENT_FILTER)
    assert cel.compile("input.a.size() == 1", Environment.EVENT_FILTER) is first
    assert cel.compile("input.a.size() == 1", Environment.EVENT_CONDITION) is not first


async def test_the_inline_evaluator_gives_the_same() -> None:
    evaluator = cel.InlineEvaluator()
    assert (
        await evaluator.evaluate_apart(cel.compile("input.a == 'x'", Environment.EVENT_FILTER), VALUES)
        is True
    )
    with pytest.raises(EvaluationFailed):
        await evaluator.evaluate_apart(cel.compile("input.zz == 'x'", Environment.EVENT_FILTER), VALUES)
    await evaluator.close()


def test_the_library_is_imported_when_it_is_needed_and_changes_nothing() -> None:
    program = """
import sys
from broadaxe_actors import cel
cel.compile("has(input.a) && input.user.id == 'x' || !input.b", cel.Environment.EVENT_FILTER)
assert "celpy" not in sys.modules and "lark" not in sys.modules
limit = sys.getrecursionlimit()
cel.compile("input.a.size() == 1", cel.Environment.EVENT_FILTER)
assert "celpy" in sys.modules and sys.getrecursionlimit() == limit
"""
    subprocess.run([sys.executable, "-c", program], check=True)
