"""Expressions, case by case: what holds, what fails when evaluated, what does not compile."""

import pytest

from broadaxe_actors import cel
from broadaxe_actors.cel import Environment, EvaluationFailed, InvalidExpression
from broadaxe_actors.cel.numbers import plain_double, short_double
from tests.unit.actors.cel_values import VALUES

TRUE = """
input.n > 3
input.n >= 4
input.n < 5
input.n <= 4
input.n == 4
input.n != 5
3 < input.n
4 == input.n
input.f > 3
input.f > 3.4
input.f == 3.5
input.f != 3
input.n == 4.0
input.neg < 0
input.neg == -2
input.n == 4u
5u > input.n
input.id == 9007199254740993
input.n > input.f
input.a == 'x'
input.a == "x"
input.a != 'y'
'x' == input.a
input.a < 'y'
input.empty == ''
input.flag
!input.off
!!input.flag
input.flag == true
input.off != input.flag
input.off < input.flag
input.nul == null
input.a != null
null == null
input.a != 1
!(input.a == 1)
input.flag != 1
input.n != '4'
input.list != input.map
input.map == {'k': 'v', 'n': 1}
input.map == {'k': 'v', 'n': 1.0}
input.numbers == [3, 1, 2]
input.numbers != [3, 1]
[] == input.none
{} == {}
input.user.id == 'u1'
input['user']['id'] == 'u1'
input.user["id"] == 'u1'
input.user.address.city == 'Zürich'
input.list[2] == 'three'
input.list[4].id == 'k'
input.list[5][0] == 1
input.numbers[input.none.size()] == 3
input.numbers[input.numbers[1]] == 1
input["odd-key"] == 'o'
input["quote'd"] == 1
input.class == 'c'
input.in_stock
.input.flag
has(input.a)
has(input.nul)
has(input.user.id)
has((input.user).id)
!has(input.missing)
!has(input.user.missing)
has(input.a) && has(input.n)
has(input.missing) || has(input.a)
has({'a': 1}.a)
!has(input.list[4].nothing)
'k' in input.map
!('z' in input.map)
2 in input.numbers
2.0 in input.numbers
2u in input.numbers
!(7 in input.numbers)
'three' in input.list
null in input.list
input.a in ['x', 'y']
1 in {1: 'a'}
input.flag && input.a == 'x'
input.off || input.flag
input.off || input.off || input.flag
input.flag && (input.off || input.n == 4)
input.missing || input.flag
input.flag || input.missing
input.missing.x || input.flag
!(input.off && input.missing)
!(input.missing && input.off)
!(input.a && input.off)
input.a || true
1 / 0 == 1 || true
input.a.b.c == 1 || true
input.flag ? true : false
input.off ? false : true
input.flag ? true : input.missing
input.off ? input.missing : true
(input.n > 3 ? 'big' : 'small') == 'big'
input.off ? false : input.off ? false : true
size(input.s) == 12
input.s.size() == 12
size(input.emoji) == 4
size(input.list) == 6
input.map.size() == 2
size(b'é') == 2
size('') == 0
size(input.numbers) > input.neg
input.s.startsWith('Hello')
!input.s.startsWith('hello')
input.s.endsWith('World')
input.s.contains(', ')
input.s.matches('^Hello, W.*d$')
matches(input.s, 'W[a-z]+')
!input.s.matches('^World')
input.s.matches(r'^\\w+, \\w+$')
input.s.matches('^\\\\w+')
input.emoji.matches('^aé.z$')
'a\\'b' == "a'b"
'a\\"b' == 'a"b'
"tab\\there" == 'tab\\u0009here'
'\\x41\\101\\u0041\\U00000041' == 'AAAA'
'\\U0001F600' == '😀'
'\\?\\`' == '?`'
r'\\d' == '\\\\d'
'''it's''' == "it's"
\"\"\"say "hi\"\"\" == 'say "hi'
b'abc' == bytes('abc')
b'\\xff' != b'\\xfe'
string(b'abc') == 'abc'
1 + 2 * 3 == 7
(1 + 2) * 3 == 9
7 / 2 == 3
-7 / 2 == -3
7 % 3 == 1
-7 % 3 == -1
7u / 2u == 3u
7u % 4u == 3u
5 -3 == 2
5-3 == 2
- 1 == -1
-(1) == -1
--1 == 1
2 - -1 == 3
1.0 / 2.0 == 0.5
1.0 / 0.0 == double('inf')
-1.0 / 0.0 == double('-inf')
0.0 / 0.0 != 0.0 / 0.0
0x1F == 31
-0x10 == -16
1e3 == 1000.0
.5 == 0.5
1.5e-1 == 0.15
-9223372036854775808 < 0
18446744073709551615u > 1u
input.n + 1.0 == 5.0
input.n * 2.0 == 8.0
-input.f == -3.5
'a' + 'b' == 'ab'
[1] + [2] == [1, 2]
b'a' + b'b' == b'ab'
'a' < 'b'
'Z' < 'a'
'é' > 'z'
b'a' < b'b'
false < true
1 < 2u
1.5 < 2
2 > 1.5
string(1) == '1'
string(true) == 'true'
string('a') == 'a'
string(2u) == '2'
string(input.n) == '4'
string(input.f) == '3.5'
string(input.neg) == '-2'
string(input.big) == '1.234567e+06'
string(1.0 / 0.0) == '+Inf'
int('42') == 42
int('-7') == -7
int(3.9) == 3
int(-3.9) == -3
int(input.f) == 3
int(2u) == 2
uint(3) == 3u
uint('3') == 3u
double(3) == 3.0
double('3.5') == 3.5
double('1e3') == 1000.0
bool('true')
!bool('False')
dyn(1) == 1.0
type(input.n) == double
type(input.a) == string
type(input.nul) == null_type
type(input.list) == list
type(input.map) == map
type(1) == int
type(1u) == uint
type(b'') == bytes
type(true) == bool
type(int) == type
type(input.n) != int
input.list.exists(x, x == 'three')
!input.list.exists(x, x == 'four')
input.list.exists(x, x > 2)
input.numbers.all(x, x > 0)
!input.numbers.all(x, x > 1)
input.none.all(x, false)
!input.none.exists(x, true)
input.numbers.exists_one(x, x == 3)
!input.numbers.exists_one(x, x > 1)
input.numbers.map(x, x * 2.0) == [6, 2, 4]
input.numbers.filter(x, x > 1) == [3, 2]
input.numbers.map(x, x > 1, string(x)) == ['3', '2']
input.map.exists(k, k == 'n')
input.map.all(k, input.map[k] != null)
input.map.map(k, k) == ['k', 'n']
[[1], [2]].map(x, x.map(x, x + 1)) == [[2], [3]]
[1, 2].all(x, [3, 4].exists(y, y == x + 2))
[1, 2].exists(input, input == 2)
[1].map(clone, clone) == [1]
[1].map(p0, p0) == [1]
[true].exists(class, class)
input.list.filter(x, type(x) == string).size() == 1
input.numbers.exists(x, x == 1 || input.flag)
[1, 2, 3].map(x, x).filter(x, x > 1).map(x, x + 1) == [3, 4]
{'a': 1}.a == 1
{'a': {'b': 2}}['a'].b == 2
{1: 'a', true: 'b'}.size() == 2 || true
{2: 'a'}[2] == 'a'
{'a': input.n}.a == 4
timestamp('2024-01-02T03:04:05Z') < timestamp('2024-01-02T03:04:06Z')
timestamp(input.time).getFullYear() == 2024
timestamp(input.time).getMonth() == 1
timestamp(input.time).getDate() == 29
timestamp(input.time).getDayOfMonth() == 28
timestamp(input.time).getDayOfWeek() == 4
timestamp(input.time).getDayOfYear() == 59
timestamp(input.time).getHours() == 23
timestamp(input.time).getHours('Europe/Paris') == 0
timestamp(input.time).getHours('+01:00') == 0
timestamp(input.time).getMinutes() == 30
timestamp('2024-01-02T03:04:05.250Z').getMilliseconds() == 250
string(timestamp('2024-01-02T03:04:05.250+01:00')) == '2024-01-02T02:04:05.25Z'
timestamp('2024-01-02T00:00:00Z') + duration('24h') == timestamp('2024-01-03T00:00:00Z')
timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')
timestamp(0) == timestamp('1970-01-01T00:00:00Z')
int(timestamp('1970-01-01T00:01:00Z')) == 60
duration('1h30m') == duration('90m')
duration('-1.5s') < duration('0s')
duration('90m').getHours() == 1
duration('90m').getMinutes() == 90
string(duration('90s')) == '90s'
string(duration('1500ms')) == '1.5s'
input.s.lowerAscii() == 'hello, world'
input.s.upperAscii() == 'HELLO, WORLD'
'ÀB'.lowerAscii() == 'Àb'
input.s.split(', ') == ['Hello', 'World']
'a,b,c'.split(',', 2) == ['a', 'b,c']
'a,b'.split(',', 0) == []
'a,b'.split(',', -1) == ['a', 'b']
'abc'.split('') == ['a', 'b', 'c']
'abc'.split('', 2) == ['a', 'bc']
input.words.join() == 'ba'
input.words.join('-') == 'b-a'
[].join(',') == ''
'hello hello'.replace('he', 'we') == 'wello wello'
'hello hello'.replace('he', 'we', 1) == 'wello hello'
'ab'.replace('', '-') == '-a-b-'
'ab'.replace('', '-', 2) == '-a-b'
'  a b\\n'.trim() == 'a b'
'tacocat'.substring(4) == 'cat'
'tacocat'.substring(0, 4) == 'taco'
'tacocat'.substring(7) == ''
input.emoji.substring(2, 3) == '😀'
'hello mellow'.indexOf('ello') == 1
'hello mellow'.indexOf('ello', 2) == 7
'hello'.indexOf('z') == -1
'hello'.indexOf('') == 0
'hello mellow'.lastIndexOf('ello') == 7
'hello mellow'.lastIndexOf('ello', 6) == 1
'hello'.lastIndexOf('') == 5
'hello'.charAt(4) == 'o'
'hello'.charAt(5) == ''
'gums'.reverse() == 'smug'
strings.quote('a"b\\n') == '"a\\\\"b\\\\n"'
'%s is %d'.format(['n', 4]) == 'n is 4'
'%s'.format([input.n]) == '4'
'%s %s %s'.format([true, null, [1, 'a', 2.5]]) == 'true null [1, a, 2.5]'
'%s'.format([{'b': 1, 'a': 2}]) == '{a: 2, b: 1}'
'%.2f'.format([2.71828]) == '2.72'
'%f'.format([1]) == '1.000000'
'%.1e'.format([1052.03]) == '1.1e+03'
'%x %X %o %b'.format([255, 255, 8, 5]) == 'ff FF 10 101'
'%x'.format(['hi']) == '6869'
'100%%'.format([]) == '100%'
additional_metadata.tenant == 't1'
additional_metadata.level >= payload.min - 1.0
event_key == 'user:created'
event_key.startsWith('user:')
event_id == 'e1' && input.flag
input.n > 3 // a comment
"""

CASES_TRUE = [line for line in TRUE.splitlines() if line]


@pytest.mark.parametrize("text", CASES_TRUE)
def test_holds(text: str) -> None:
    assert cel.compile(text, Environment.EVENT_FILTER).evaluate(VALUES) is True


def test_expressions_over_several_lines() -> None:
    text = "input.flag\n  && // why\n\tinput.n == 4 &&\r\n '''a\nb'''.size() == 3"
    assert cel.compile(text, Environment.EVENT_FILTER).evaluate(VALUES) is True


FAILS = [
    ("input.missing", "no such key: 'missing' (reading input.missing)"),
    ("input.missing == 'x'", "no such key: 'missing'"),
    ("input.user.missing.x == 1", "no such key: 'missing' (reading input.user.missing.x)"),
    ("input.a.b == 1", "string[string], looking for 'b'"),
    ("input.nul.b == 1", "null_type[string]"),
    ("has(input.missing.x)", "no such key: 'missing'"),
    ("has(input.a.x)", "has(_.x) of a string"),
    ("has(input.list.x)", "has(_.x) of a list"),
    ("input.list[9] == 1", "index out of bounds: 9 in a list of 6"),
    ("input.list[-1] == 1", "index out of bounds: -1"),
    ("input.list['0'] == 1", "list[string]"),
    ("input.numbers[input.f] == 1", "no index 3.5"),
    ("input.map[1] == 1", "no such key: 1"),
    ("input.missing || false", "no such key"),
    ("true && input.missing", "no such key"),
    ("input.a || false", "|| needs a bool, got a string"),
    ("input.n && true", "&& needs a bool, got a double"),
    ("!input.a", "!string"),
    ("input.a ? true : false", "needs a bool, got a string"),
    ("input.missing ? true : true", "no such key"),
    ("input.a > 3", "string > int"),
    ("3 > input.a", "int > string"),
    ("input.flag > 0", "bool > int"),
    ("input.nul < 1", "null_type < int"),
    ("input.list < input.list", "list < list"),
    ("0.0 / 0.0 < 1.0", "NaN"),
    ("input.n + 1 == 5", "double + int"),
    ("input.a + 1.0 == 5", "string + double"),
    ("'a' + input.n == 'a4'", "string + double"),
    ("1 / 0 == 1", "divide by zero"),
    ("1 % 0 == 1", "modulus by zero"),
    ("9223372036854775807 + 1 > 0", "integer overflow"),
    ("-9223372036854775808 / -1 > 0", "integer overflow"),
    ("0u - 1u > 0u", "unsigned integer overflow"),
    ("-(-9223372036854775808) > 0", "integer overflow"),
    ("int(1e30) > 0", "integer overflow"),
    ("int('x') > 0", "cannot convert 'x' to int"),
    ("int('1_0') > 0", "cannot convert"),
    ("uint(-1) > 0u", "unsigned integer overflow"),
    ("double('1_0') > 0.0", "cannot convert"),
    ("bool('yes')", "cannot convert"),
    ("string(b'\\xff') == ''", "invalid UTF-8"),
    ("string(input.map) == ''", "string(map)"),
    ("size(input.n) == 1", "size(double)"),
    ("size(input.nul) == 0", "size(null_type)"),
    ("input.n.startsWith('a')", "startsWith(double, string)"),
    ("input.s.matches('(')", "is no pattern"),
    ("input.s.matches('(?=a)')", "is no pattern"),
    ("1 in input.a", "int in string"),
    ("input.numbers.all(x, x)", "needs a bool, got a double"),
    ("input.numbers.filter(x, x) == []", "filter() needs a bool"),
    ("input.numbers.map(x, x.y) == []", "double[string]"),
    ("input.list.all(x, x > 0)", "no such overload"),
    ("input.list.exists(x, x > 5)", "no such overload"),
    ("input.a.exists(x, true)", "a macro over a string"),
    ("input.missing.exists(x, true)", "no such key"),
    ("input.missing.map(x, 1) == [1]", "no such key"),
    ("[input.missing] == []", "no such key"),
    ("{'a': input.missing} == {}", "no such key"),
    ("{'a': 1, 'a': 2} == {}", "twice"),
    ("{input.f: 1} == {}", "cannot be the key"),
    ("timestamp('2024') > timestamp(0)", "RFC 3339"),
    ("timestamp('2024-13-02T03:04:05Z') > timestamp(0)", "cannot convert"),
    ("timestamp(input.time).getHours('No/Where') == 1", "getHours"),
    ("timestamp(input.time).getHours('America') == 1", "getHours"),
    ("duration('1 hour') > duration('1s')", "cannot convert"),
    ("duration('" + "a" * 60 + "!') > duration('1s')", "cannot convert"),
    ("timestamp('9999-12-31T23:59:59Z') + duration('1h') > timestamp(0)", "beyond its range"),
    ("'abc'.substring(2, 1) == ''", "start: 2, end: 1"),
    ("'abc'.substring(4) == ''", "out of range"),
    ("'abc'.charAt(4) == ''", "out of range: 4"),
    ("'abc'.indexOf('a', -1) == 0", "out of range"),
    ("input.s.substring(input.n) == ''", "substring(string, double)"),
    ("input.list.join() == ''", "join of a list with a double"),
    ("'%d'.format([input.n]) == '4'", "%d was given a double"),
    ("'%s %s'.format(['a']) == ''", "index 1 out of range"),
    ("'%y'.format(['a']) == ''", "formatting clause"),
    ("checksum(input.a) == ''", "not available in event filters"),
    ("input.a", "expected bool output, got string"),
    ("input.n", "expected bool output, got double"),
    ("input.nul", "expected bool output, got null_type"),
]


@pytest.mark.parametrize(("text", "cause"), FAILS)
def test_fails_when_evaluated(text: str, cause: str) -> None:
    expression = cel.compile(text, Environment.EVENT_FILTER)
    with pytest.raises(EvaluationFailed) as caught:
        expression.evaluate(VALUES)
    assert cause in str(caught.value)
    assert text[:100] in str(caught.value)


INVALID = [
    ("", "it is empty"),
    (" \n", "it is empty"),
    ("input.", "syntax error at line 1, column 6"),
    ("input.a == ", "syntax error"),
    ("input a", "syntax error at line 1, column 7"),
    ("input.a = 'x'", "syntax error"),
    ("'abc", "syntax error"),
    ("input.n % 2.0 == 0", "dyn % double"),
    ("'a\\d' == ''", "no escape sequence"),
    ("'\\ud800' == ''", "is no character"),
    ("99999999999999999999 > 1", "does not fit into 64 bits"),
    ("-1u > 1u", "does not fit into 64 bits"),
    ("user.id == 'x'", "there is no variable user"),
    ("inputs.a", "did you mean input?"),
    ("output.a", "there is no variable output in an event filter"),
    ("activation.clone", "there is no variable activation"),
    ("__class__", "there is no variable __class__"),
    ("parents.a", "there is no variable parents"),
    ("size", "size is a function"),
    ("lowerASCII(input.a)", "there is no function lowerASCII"),
    ("input.a.lowerASCII() == ''", "did you mean lowerAscii?"),
    ("input.a.__class__() == ''", "there is no function __class__"),
    ("input.list.reduce(1, 2, 3, 4) == 1", "there is no function reduce"),
    ("input.list.min() == 1", "there is no function min"),
    ("_==_(1, 1)", "_==_"),
    ("size() == 1", "no such overload: size()"),
    ("size(input.a, 1) == 1", "no such overload: size(dyn, int)"),
    ("lowerAscii(input.a) == 'x'", "no such overload: lowerAscii(dyn)"),
    ("input.a.string() == 'x'", "no such overload: dyn.string()"),
    ("'a'.size(1) == 1", "no such overload: string.size(int)"),
    ("'a' == 1", "no such overload: string == int"),
    ("'a' + 1 == 'a1'", "no such overload: string + int"),
    ("1 + 1.0 == 2.0", "no such overload: int + double"),
    ("'a' > 1", "no such overload: string > int"),
    ("!'a'", "!string"),
    ("-'a' == 'a'", "-string"),
    ("'a' && true", "&& needs a bool, and is given a string"),
    ("true || 1", "|| needs a bool, and is given a int"),
    ("'a' ? true : false", "needs a bool"),
    ("event_key.x == 'a'", "event_key is a string"),
    ("has(input)", "has() takes one selection"),
    ("has(input['a'])", "has() takes one selection"),
    ("has(input.a, input.b)", "has() takes one selection"),
    ("has('a'.b)", "a string has no field b"),
    ("input.list.all(x)", "all() takes the name of a variable"),
    ("input.list.all(1, true)", "all() takes the name of a variable"),
    ("input.list.all(x, 1)", "all() needs a bool"),
    ("'abc'.all(x, true)", "all() needs a list or a map"),
    ("x.y{a: 1}", "message"),
    ("{1.5: 1} == {}", "keys of a map"),
    ("input.a.b.exists(x, y)", "there is no variable y"),
    ("'true'", "an event filter must be a bool, and this is a string"),
    ("1", "must be a bool, and this is a int"),
    ("input", "must be a bool, and this is a map"),
    ("size(input)", "must be a bool, and this is a int"),
    ("input.list.map(x, x)", "must be a bool, and this is a list"),
    ("event_key", "must be a bool, and this is a string"),
    ("true ? 'a' : 'b'", "must be a bool, and this is a string"),
    ("!" * 900 + "true", "deeper than 100 levels"),
    ("-" * 900 + "1 == 1", "deeper than 100 levels"),
    ("1" + " + 1" * 400 + " == 1", "deeper than 100 levels"),
    ("[" * 450 + "]" * 450 + " == []", "deeper than 100 levels"),
    ("input" + ".trim()" * 200 + " == ''", "deeper than 100 levels"),
    ("true ? true : " * 200 + "true", "deeper than 100 levels"),
    ("1" + " + 1" * 600 + " == 1", "about 1,203 names, literals and symbols, and may have 1,000"),
    ("[1].all(x, " * 31 + "true" + ")" * 31, "more than 30 macros"),
    ("[1]" + ".map(x, x)" * 31 + " == []", "more than 30 macros"),
    ("_[_](1, 2)", "syntax error"),
    ("input.a == '" + "x" * 10_000 + "'", "it has 10,013 characters, and may have 10,000"),
]


@pytest.mark.parametrize(("text", "cause"), INVALID, ids=lambda value: value[:40])
def test_is_refused_when_compiled(text: str, cause: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        cel.compile(text, Environment.EVENT_FILTER)
    assert cause in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "(" * 490 + "true" + ")" * 490,
        " || ".join(["input.a == 'y'"] * 500 + ["true"]),
        " && ".join(["input.a == 'x'"] * 500),
        " || ".join(["input.a.size() == 3"] * 90 + ["true"]),
        "input" + ".a" * 2_000 + " == 1 || true",
        "1" + " + 1" * 90 + " == 91",
        "[" * 95 + "]" * 95 + " != []",
        "[1].all(x, " * 30 + "true" + ")" * 30,
        "[1]" + ".map(x, x + 1)" * 30 + " == [31]",
        "input.flag ? true : " * 90 + "false",
    ],
    ids=lambda text: text[:20],
)
def test_long_but_flat_expressions_work(text: str) -> None:
    assert cel.compile(text, Environment.EVENT_FILTER).evaluate(VALUES) is True


# ---- doubles as text


@pytest.mark.parametrize(
    ("value", "short", "plain"),
    [
        (0.0, "0", "0"),
        (-0.0, "-0", "-0"),
        (1.0, "1", "1"),
        (-2.5, "-2.5", "-2.5"),
        (100000.0, "100000", "100000"),
        (999999.0, "999999", "999999"),
        (1000000.0, "1e+06", "1000000"),
        (1234567.0, "1.234567e+06", "1234567"),
        (123456.789, "123456.789", "123456.789"),
        (0.0001, "0.0001", "0.0001"),
        (0.00001, "1e-05", "0.00001"),
        (1e21, "1e+21", "1000000000000000000000"),
        (1.5e300, "1.5e+300", "15" + "0" * 299),
        (5e-324, "5e-324", "0." + "0" * 323 + "5"),
        (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"),
        (float("inf"), "+Inf", "+Inf"),
        (float("-inf"), "-Inf", "-Inf"),
        (float("nan"), "NaN", "NaN"),
    ],
)
def test_doubles_are_written_as_go_writes_them(value: float, short: str, plain: str) -> None:
    assert short_double(value) == short
    assert plain_double(value) == plain
