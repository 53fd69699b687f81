"""Every error has a status, and the table has no holes."""

import grpc
import pytest

from broadaxe_actors.errors import Code, EngineBug, InvalidDefinition, Refused
from broadaxe_gateway.rpc.status import (
    INTERNAL_TEXT,
    STATUS_OF_CODE,
    UNAUTHENTICATED_TEXT,
    refusal_of,
    status_of,
)
from broadaxe_gateway.tokens import Unauthenticated


@pytest.mark.parametrize("code", Code)
def test_code_of_the_engine_is_the_status_of_the_same_number(code):
    status, text = status_of(Refused(code, "why"), "/a/b")
    assert status.value[0] == int(code)
    assert text == "why"


def test_table_is_complete():
    assert set(STATUS_OF_CODE) == set(Code)


def test_subclasses_of_refused_keep_their_words():
    assert status_of(InvalidDefinition("no tasks"), "/a/b") == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "no tasks",
    )


def test_reason_of_a_bad_token_is_not_told():
    assert status_of(Unauthenticated("revoked"), "/a/b") == (
        grpc.StatusCode.UNAUTHENTICATED,
        UNAUTHENTICATED_TEXT,
    )


@pytest.mark.parametrize("error", [EngineBug("x"), ValueError("secret"), KeyError("secret")])
def test_anything_else_is_internal_and_logged(error, caplog):
    assert status_of(error, "/a/b") == (grpc.StatusCode.INTERNAL, INTERNAL_TEXT)
    assert "/a/b" in caplog.text
    assert refusal_of(error, "/a/b") == (Code.INTERNAL, INTERNAL_TEXT)
