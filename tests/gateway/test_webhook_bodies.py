"""Bodies of deliveries: JSON objects and forms, to the payload of an event."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_gateway.webhooks.bodies import FORM, challenge_of, read_body
from broadaxe_gateway.webhooks.definition import Source
from broadaxe_gateway.webhooks.signatures import DeliveryRefused


def refused(source: Source, content_type: str, body: bytes) -> str:
    with pytest.raises(DeliveryRefused) as raised:
        read_body(source, content_type, body, None)
    assert raised.value.status == HTTPStatus.BAD_REQUEST
    return raised.value.message


@pytest.mark.parametrize(
    "content_type", ["application/json", "", "text/plain", "application/cloudevents+json"]
)
def test_json_is_passed_on_byte_for_byte(content_type: str) -> None:
    body = b' {"n": 1.10, "big": 123456789012345678901234567890, "a": {"b": []}}\n'
    payload = read_body(Source.GENERIC, content_type, body, None)
    assert payload.text == body
    assert payload.value == json.loads(body)


def test_the_static_payload_wins() -> None:
    payload = read_body(Source.STRIPE, "", b'{"type":"x","source":"api"}', {"source": "stripe", "env": "p"})
    assert json.loads(payload.text) == payload.value == {"type": "x", "source": "stripe", "env": "p"}


def test_names_of_path_parameters_are_dropped() -> None:
    payload = read_body(Source.GENERIC, "", b'{"tenant":1,"v1-webhook":2,"a":{"tenant":3}}', None)
    assert json.loads(payload.text) == payload.value == {"a": {"tenant": 3}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"[]", "no JSON object but a list"),
        (b"null", "no JSON object but null"),
        (b"1", "no JSON object but a number"),
        (b'"a"', "no JSON object but a string"),
        (b"true", "no JSON object but a boolean"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b'{"a":1e999}', "number 1e999 is out of range"),
        (b'{"a":"\xff"}', "no valid JSON"),
        (b'{"a":"\\u0000"}', "null character"),
        (b'{"a":"\\ud800"}', "half of a surrogate pair"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_object_is_refused_with_its_fault(body: bytes, text: str) -> None:
    assert text in refused(Source.GENERIC, "application/json", body)


# ---------------------------------------------------------------- forms


def test_a_slash_command_is_an_object_of_its_fields() -> None:
    body = b"command=%2Fdeploy&text=production+now&user_name=Zo%C3%AB&text=second&empty="
    payload = read_body(Source.SLACK, f"{FORM}; charset=utf-8", body, None)
    assert payload.value == {
        "command": "/deploy",
        "text": "production now",
        "user_name": "Zo\u00eb",
        "empty": "",
    }
    assert json.loads(payload.text) == payload.value


def test_an_interaction_is_its_payload_field() -> None:
    inner = {"type": "block_actions", "user": {"id": "U1"}, "n": 1.5}
    body = urlencode({"payload": json.dumps(inner), "other": "x"}).encode()
    assert read_body(Source.SLACK, FORM, body, None).value == inner
    assert read_body(Source.GENERIC, FORM, body, None).value == {"payload": json.dumps(inner), "other": "x"}
    assert "form field payload is no valid JSON" in refused(Source.SLACK, FORM, b"payload=x")
    assert "form field payload is no JSON object" in refused(Source.SLACK, FORM, b"payload=[]")


@pytest.mark.parametrize("source", [Source.GITHUB, Source.STRIPE, Source.LINEAR, Source.SVIX])
def test_forms_of_other_sources_are_refused(source: Source) -> None:
    assert f"not supported for source {source}" in refused(source, FORM, b"payload=%7B%7D")


@pytest.mark.parametrize("body", [b"a=%ff", b"a", b"a=\xe9", b"a=%00", b"&".join([b"a=1"] * 1_001)])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    assert refused(Source.GENERIC, FORM, body)


def test_an_empty_form_is_an_empty_object() -> None:
    assert read_body(Source.GENERIC, FORM, b"", None).value == {}


# ---------------------------------------------------------------- challenges


def test_only_slack_is_answered_its_challenge() -> None:
    body = b'{"token":"t","challenge":"3eZbrw1a","type":"url_verification"}'
    assert challenge_of(Source.SLACK, body) == "3eZbrw1a"
    assert challenge_of(Source.GENERIC, body) is None
    for other in (b'{"challenge":""}', b'{"challenge":1}', b'["challenge"]', b"challenge=a", b"", b"\xff"):
        assert challenge_of(Source.SLACK, other) is None


# ---------------------------------------------------------------- properties

WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORD, inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(list(Source)), st.sampled_from(["", FORM, "application/json"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(source: Source, content_type: str, body: bytes) -> None:
    status = None
    try:
        payload = read_body(source, content_type, body, {"s": 1})
    except DeliveryRefused as error:
        status, payload = error.status, None
    assert status in (None, HTTPStatus.BAD_REQUEST)
    if payload is not None:
        assert json.loads(payload.text) == payload.value
        assert payload.value["s"] == 1


@given(st.dictionaries(WORD, JSON, max_size=5), st.dictionaries(WORD, JSON, max_size=3))
def test_an_object_comes_through_with_the_static_one_over_it(
    value: dict[str, Any], static: dict[str, Any]
) -> None:
    body = json.dumps(value).encode()
    payload = read_body(Source.GENERIC, "application/json", body, static)
    dropped = {name: item for name, item in value.items() if name not in ("tenant", "v1-webhook")}
    assert payload.value == dropped | static


@given(st.lists(st.tuples(WORD, WORD), max_size=8))
def test_a_form_is_its_first_values(pairs: list[tuple[str, str]]) -> None:
    payload = read_body(Source.GENERIC, FORM, urlencode(pairs).encode(), None)
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    assert payload.value == {k: v for k, v in first.items() if k not in ("tenant", "v1-webhook")}
