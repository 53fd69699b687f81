"""Two ways from text to nodes, and two from nodes to a value: they must give the same. Properties, each stated above its test."""

import json
import sys
from typing import Any

import celpy
import celpy.adapter
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from broadaxe_actors import cel
from broadaxe_actors.cel import Environment, fast, parsing, simple
from broadaxe_actors.cel.checking import FUNCTIONS, CheckFailed, check
from broadaxe_actors.cel.nodes import Literal
from broadaxe_actors.cel.operators import Failed
from broadaxe_actors.cel.program import Program
from broadaxe_actors.cel.values import Values

ENVIRONMENT = Environment.EVENT_FILTER
keys = st.sampled_from(["a", "b", "c"])
space = st.sampled_from(["", " ", "\n "])
strings = st.text(st.sampled_from("xy é'\"&|()[].=!<"), max_size=3)
ints = st.integers(-(10**17), 10**17) | st.integers(-3, 3)
doubles = st.sampled_from([0.5, -1.25, 3.0, 1e10, 2.0])


def written(text: str) -> str:
    return f"'{text}'" if "'" not in text else f'"{text}"' if '"' not in text else "'x'"


literals = st.one_of(
    strings.map(written),
    ints.map(str),
    doubles.map(lambda number: f"{number:.3f}"),
    st.sampled_from(["true", "false", "null"]),
)
steps = st.one_of(
    keys.map(lambda key: f".{key}"),
    keys.map(lambda key: f"['{key}']"),
    st.integers(-1, 2).map(lambda index: f"[{index}]"),
)
paths = st.builds(
    lambda variable, rest: variable + "".join(rest),
    st.sampled_from(["input", "payload"]),
    st.lists(steps, min_size=1, max_size=3),
)
tests = st.builds(lambda path, key: f"has({path}.{key})", paths, keys)
operands = paths | paths | literals
relations = st.builds(
    lambda left, a, symbol, b, right: f"{left}{a}{symbol}{b}{right}",
    operands,
    space,
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    space,
    operands,
)
simple_texts = st.recursive(
    relations | relations | paths | tests | literals,
    lambda inner: st.one_of(
        st.builds(lambda a, x, b: f"{a} {x} {b}", inner, st.sampled_from(["&&", "||"]), inner),
        inner.map(lambda a: f"({a})"),
        inner.map(lambda a: f"!({a})"),
        paths.map(lambda a: f"!{a}"),
    ),
    max_leaves=6,
)
leaves = st.one_of(strings, st.integers(-3, 3), doubles, st.booleans(), st.none())
jsons = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(keys, jsons, max_size=3)


# What the small reader reads, the library's grammar reads into the same nodes.
@given(simple_texts)
@example("input.a==-1")
@example("!!input.a")
@example("'' == ''''''")
@example("input.a == 'x' == true")
@example("input.a.in == 1")
@example("input.in_a == 1")
@example("input.true_ == 1")
def test_both_readers_agree(text: str) -> None:
    node = simple.parse(text)
    if node is not None:
        assert node == parsing.parse(text)


# The small reader reads what it was made for.
@given(simple_texts)
def test_the_small_reader_reads_simple_expressions(text: str) -> None:
    assert simple.parse(text) is not None


# The direct way gives the value that the library's runner gives, or fails where it fails.
@given(simple_texts, objects, objects)
@settings(max_examples=400)
def test_both_evaluations_agree(text: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    node = simple.parse(text)
    assert node is not None
    try:
        check(node, ENVIRONMENT)
    except CheckFailed:
        assume(False)
    direct = fast.build(node)
    assert direct is not None
    program = Program(node, FUNCTIONS[ENVIRONMENT])
    for given_values in (
        {"input": json.dumps(first).encode(), "payload": json.dumps(second).encode()},
        {"input": first, "payload": second},
    ):
        assert outcome(direct, given_values) == outcome(program.evaluate, given_values)


def outcome(evaluate: Any, given_values: Any) -> Any:
    try:
        value = evaluate(Values(ENVIRONMENT, given_values))
    except Failed:
        return "failed"
    return type(value), value


# Where types match and nothing is missing, the library as it comes gives what we give.
bool_parts = st.one_of(
    st.builds(
        lambda symbol, word: f"input.s {symbol} '{word}'",
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["x", "y", ""]),
    ),
    st.builds(
        lambda symbol, number: f"input.d {symbol} {number}",
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["0.5", "-1.5", "2.0"]),
    ),
    st.sampled_from(
        [
            "input.t",
            "!input.t",
            "'x' in input.l",
            "input.m.k == 'x'",
            "input.s.startsWith('x')",
            "input.s.endsWith('y')",
            "input.s.contains('xy')",
            "input.s.matches('^x+$')",
            "input.l.exists(i, i == input.s)",
            "input.l.all(i, i < 'y')",
            "input.l.exists_one(i, i == 'x')",
            "input.l.filter(i, i != 'x').size() == 1",
            "(input.t ? input.s : 'z') == 'x'",
            "input.s + 'y' == 'xy'",
            "input.d + 1.0 > 1.0",
            "size(input.l) == 2",
            "size(input.s) * 2 - 1 < 5",
            "7 / -2 == -3",
        ]
    ),
)
bool_texts = st.recursive(
    bool_parts,
    lambda inner: (
        st.builds(lambda a, x, b: f"({a} {x} {b})", inner, st.sampled_from(["&&", "||"]), inner)
        | inner.map(lambda a: f"!({a})")
    ),
    max_leaves=4,
)


@given(
    bool_texts,
    st.fixed_dictionaries(
        {
            "s": st.sampled_from(["", "x", "xy", "y"]),
            "d": doubles,
            "t": st.booleans(),
            "l": st.lists(st.sampled_from(["x", "y"]), max_size=3),
            "m": st.fixed_dictionaries({"k": st.sampled_from(["x", "y"])}),
        }
    ),
)
def test_the_library_as_it_comes_agrees_on_common_ground(text: str, document: dict[str, Any]) -> None:
    limit = sys.getrecursionlimit()
    environment = celpy.Environment(runner_class=celpy.InterpretedRunner)
    sys.setrecursionlimit(limit)
    theirs = environment.program(environment.compile(text)).evaluate(
        {"input": celpy.adapter.json_to_cel(document)}
    )
    assert cel.compile(text, ENVIRONMENT).evaluate({"input": document}) is bool(theirs)


# Whatever the text, compiling gives an expression or InvalidExpression; whatever the values, evaluating gives a bool or EvaluationFailed.
pieces = st.sampled_from(
    [
        "input",
        ".a",
        ".b",
        "['a']",
        "[0]",
        "(",
        ")",
        "!",
        "-",
        "1",
        "2u",
        "0.5",
        "'x'",
        '"y"',
        "r'z'",
        "b'w'",
        "true",
        "null",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        "<=",
        "in",
        "+",
        "-",
        "*",
        "/",
        "%",
        "?",
        ":",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".size()",
        ".map(x,",
        "x)",
        ".exists(x,",
        "x)",
        ".filter(y,",
        "y",
        ".split(',')",
        ".join()",
        ".format(",
        "has(",
        "size(",
        "string(",
        "int(",
        "type(",
        "timestamp(",
        "duration(",
        "//",
        ".",
        "@",
        "\\",
        "é",
    ]
)


@given(st.lists(pieces, max_size=14).map("".join), objects)
@settings(max_examples=600)
def test_nothing_else_escapes(text: str, document: dict[str, Any]) -> None:
    try:
        expression = cel.compile(text, ENVIRONMENT)
    except cel.InvalidExpression:
        return
    cause = ""
    try:
        assert type(expression.evaluate({"input": json.dumps(document), "payload": b"{}"})) is bool
    except cel.EvaluationFailed as failure:
        cause = failure.cause
    assert "Error" not in cause  # the name of a Python exception would be a mistake of ours


@given(st.text(max_size=30))
def test_no_text_escapes(text: str) -> None:
    try:
        named = cel.compile(text, Environment.CONCURRENCY_KEY).text
    except cel.InvalidExpression as failure:
        named = failure.expression
    assert named == text


# An expression that holds implies each of its equality conjuncts.
@given(simple_texts, objects)
@settings(max_examples=300)
def test_equality_conjuncts_are_necessary(text: str, document: dict[str, Any]) -> None:
    full = f"input.a == 'x' && ({text})"
    try:
        expression = cel.compile(full, ENVIRONMENT)
        is_true = expression.evaluate({"input": json.dumps(document)})
    except cel.CelError:
        return
    assert (("input", "a"), "x") in expression.equality_conjuncts()
    if is_true:
        for path, literal in expression.equality_conjuncts():
            assert Values(ENVIRONMENT, {"input": document}).lookup(path) == literal


@pytest.mark.parametrize(
    ("text", "kind"),
    [("1", "int"), ("1.0", "double"), ("true", "bool"), ("'1'", "string"), ("null", "null_type")],
)
def test_literals_keep_their_kind(text: str, kind: str) -> None:
    node = simple.parse(text)
    assert isinstance(node, Literal)
    assert node.kind == kind
