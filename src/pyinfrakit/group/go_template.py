"""Templates of scripts: a small part of Go's, enough for what a member's script needs to know of the member.

| in a template | its value |
|---|---|
| ``{{ "text" }}``, `` {{ `text` }} ``, ``{{ 7 }}``, ``{{ true }}`` | itself |
| ``{{ INSTANCE_LOGICAL_ID }}`` | the member's logical ID, or nothing |
| ``{{ INDEX.Group }}``, ``{{ INDEX.Sequence }}`` | the ID of the member's group, and the number of members in it |
| ``{{ var "name" "value" }}``, ``{{ var "name" }}`` | nothing, and sets a variable; its value |
| ``{{ if X }}…{{ else if Y }}…{{ else }}…{{ end }}`` | the first part whose condition is neither empty, 0 nor false |
| ``eq X Y``, ``ne X Y``, ``not X``, ``and X Y``, ``or X Y`` | as in Go |
| ``{{/* comment */}}`` | nothing |

``{{-`` and ``-}}`` remove the white space beside them, and ``( )`` group. All else is an error, with its place. Pure.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

_ACTION = re.compile(
    r"\{\{((?:\"(?:\\.|[^\"\\\n])*+\"|`[^`]*+`|/\*.*?\*/|[^\"`}/]++|\}(?!\})|/(?!\*))*+)\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:\\.|[^\"\\\n])*\")|`(?P<raw>[^`]*)`|(?P<number>-?\d+\b)|(?P<name>[A-Za-z_][\w.]*)|(?P<sign>[()]))\s*"
)
_MAX_DEPTH = 64
"""Deepest nesting of conditions, and of parentheses."""


class TemplateError(ValueError):
    """The template can't be read. The text says where, and what is not supported."""


class Context(Struct, frozen=True):
    """What a template can show of a member."""

    logical_id: str = ""
    group: str = ""
    sequence: int = 0


class _Text(Struct, frozen=True):
    text: str


class _Call(Struct, frozen=True):
    """A function with its arguments, or a value with none."""

    function: str
    arguments: "Sequence[_Call]"
    value: Any = None


class _If(Struct, frozen=True):
    """Parts, each with its condition; that of an else is true."""

    parts: "Sequence[tuple[_Call, Sequence[_Node]]]"


_Node = _Text | _Call | _If

_VALUE = ""
"""Stands for the function of a literal."""

_TRUE = _Call(_VALUE, (), True)

_FUNCTIONS: Mapping[str, Sequence[int]] = {
    "INSTANCE_LOGICAL_ID": (0,),
    "INDEX.Group": (0,),
    "INDEX.Sequence": (0,),
    "var": (1, 2),
    "eq": (2,),
    "ne": (2,),
    "not": (1,),
    "and": (2,),
    "or": (2,),
}
"""The functions, with their numbers of arguments."""


class Template:
    """A template that can be rendered for each member."""

    def __init__(self, text: str) -> None:
        """Raise `TemplateError`."""
        self._nodes = _Parser(text).parse()

    def render(self, context: Context) -> str:
        """Return the text for a member."""
        return _Rendering(context).render(self._nodes)


class _Rendering:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._variables: dict[str, Any] = {}

    def render(self, nodes: Sequence[_Node]) -> str:
        return "".join(map(self._render, nodes))

    def _render(self, node: _Node) -> str:
        match node:
            case _Text(text):
                return text
            case _If(parts):
                return next((self.render(nodes) for condition, nodes in parts if self._evaluate(condition)), "")
            case _Call():
                value = self._evaluate(node)
                return json.dumps(value) if isinstance(value, bool) else str(value)

    def _evaluate(self, call: _Call) -> Any:
        values = [self._evaluate(argument) for argument in call.arguments]
        functions: Mapping[str, Callable[[], Any]] = {
            _VALUE: lambda: call.value,
            "INSTANCE_LOGICAL_ID": lambda: self._context.logical_id,
            "INDEX.Group": lambda: self._context.group,
            "INDEX.Sequence": lambda: self._context.sequence,
            "var": lambda: self._use_variable(*values),
            "eq": lambda: _is_equal(*values),
            "ne": lambda: not _is_equal(*values),
            "not": lambda: not values[0],
            "and": lambda: values[0] and values[1],
            "or": lambda: values[0] or values[1],
        }
        return functions[call.function]()

    def _use_variable(self, name: Any, *value: Any) -> Any:
        if not value:
            return self._variables.get(str(name), "")
        self._variables[str(name)] = value[0]
        return ""


def _strip_marks(inner: str) -> str:
    """Return the code within an action, without white space and the signs that remove it outside."""
    if inner[:1] == "-" and inner[1:2].isspace():
        inner = inner[1:]
    if inner[-1:] == "-" and inner[-2:-1].isspace():
        inner = inner[:-1]
    return inner.strip()


def _is_equal(one: Any, two: Any) -> bool:
    return type(one) is type(two) and bool(one == two)


class _Piece(Struct, frozen=True):
    """Text, or the code of an action; and its offset in the template."""

    offset: int
    text: str = ""
    code: str | None = None


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces = list(self._split())
        self._next = 0

    def parse(self) -> Sequence[_Node]:
        nodes, ended_by = self._parse_nodes(0)
        if ended_by is not None:
            raise self._fail(ended_by.offset, f"there is no if for this {ended_by.code}")
        return nodes

    def _split(self) -> Iterator[_Piece]:
        """Yield the texts and actions of the template, with white space removed beside ``{{-`` and ``-}}``."""
        position, trims = 0, False
        while (start := self._text.find("{{", position)) >= 0:
            action = _ACTION.match(self._text, start)
            if action is None:
                raise self._fail(start, "this {{ has no }}, or there is a quote without its end before it")
            text = self._text[position:start]
            text = text.lstrip() if trims else text
            inner = action[1]
            yield _Piece(position, text.rstrip() if inner[:1] == "-" and inner[1:2].isspace() else text)
            trims = inner[-1:] == "-" and inner[-2:-1].isspace()
            code = _strip_marks(inner)
            if not (code.startswith("/*") and code.endswith("*/")):
                yield _Piece(start + 2 + inner.index(code), code=code)
            position = action.end()
        rest = self._text[position:]
        yield _Piece(position, rest.lstrip() if trims else rest)

    def _parse_nodes(self, depth: int) -> tuple[Sequence[_Node], _Piece | None]:
        """Return the nodes up to an else, an end or the template's end; and the else or end."""
        nodes: list[_Node] = []
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            word = "" if piece.code is None else piece.code.partition(" ")[0]
            if word in ("else", "end"):
                return nodes, piece
            if piece.code is None:
                nodes.append(_Text(piece.text))
            elif word == "if":
                nodes.append(self._parse_if(piece, depth + 1))
            else:
                nodes.append(self._parse_code(piece.code, piece.offset))
        return nodes, None

    def _parse_if(self, piece: _Piece, depth: int) -> _If:
        if depth > _MAX_DEPTH:
            raise self._fail(piece.offset, f"conditions are nested more than {_MAX_DEPTH} deep")
        parts: list[tuple[_Call, Sequence[_Node]]] = []
        mark: _Piece | None = piece
        while mark is not None and mark.code != "end":
            condition = self._parse_condition(mark, is_first=mark is piece)
            if parts and parts[-1][0] is _TRUE:
                raise self._fail(mark.offset, "this else follows another else")
            nodes, mark = self._parse_nodes(depth)
            parts.append((condition, nodes))
        if mark is None:
            raise self._fail(piece.offset, "this if has no end")
        return _If(parts)

    def _parse_condition(self, piece: _Piece, is_first: bool) -> _Call:
        code = piece.code or ""
        rest = code.removeprefix("if" if is_first else "else").lstrip()
        if not is_first:
            if not rest:
                return _TRUE
            if not rest.startswith("if "):
                raise self._fail(piece.offset, f"{code!r} is not supported: expected else, or else if")
            rest = rest.removeprefix("if ").lstrip()
        return self._parse_code(rest, piece.offset + len(code) - len(rest))

    def _parse_code(self, code: str, offset: int) -> _Call:
        tokens = list(self._tokenize(code, offset))
        call, count = self._parse_call(tokens, 0, 0, offset)
        if count < len(tokens):
            raise self._fail(tokens[count].start() + offset, "there is a ) too many")
        return call

    def _tokenize(self, code: str, offset: int) -> Iterator[re.Match[str]]:
        position = 0
        while position < len(code):
            token = _TOKEN.match(code, position)
            if token is None:
                raise self._fail(offset + position, f"{code[position:].split(maxsplit=1)[0]!r} is not supported")
            yield token
            position = token.end()

    def _parse_call(self, tokens: Sequence[re.Match[str]], index: int, depth: int, offset: int) -> tuple[_Call, int]:
        """Return a function with its arguments, or a value, from token *index* on; and the index of the next token."""
        if depth > _MAX_DEPTH:
            raise self._fail(offset, f"parentheses are nested more than {_MAX_DEPTH} deep")
        operands: list[tuple[_Call, int]] = []
        while index < len(tokens) and tokens[index]["sign"] != ")":
            token = tokens[index]
            index += 1
            if token["sign"]:
                inner, index = self._parse_call(tokens, index, depth + 1, offset)
                if index == len(tokens):
                    raise self._fail(offset + token.start("sign"), "this ( has no )")
                index += 1
            else:
                inner = self._parse_operand(token, offset)
            operands.append((inner, offset + token.start()))
        return self._apply(operands, offset), index

    def _parse_operand(self, token: re.Match[str], offset: int) -> _Call:
        if token["text"] is not None:
            try:
                return _Call(_VALUE, (), json.loads(token["text"]))
            except ValueError:
                raise self._fail(offset + token.start("text"), f"{token['text']} has an unknown escape") from None
        if token["raw"] is not None:
            return _Call(_VALUE, (), token["raw"])
        if token["number"] is not None:
            return _Call(_VALUE, (), int(token["number"]))
        name = token["name"]
        if name in ("true", "false"):
            return _Call(_VALUE, (), name == "true")
        if name not in _FUNCTIONS:
            raise self._fail(offset + token.start("name"), f"{name!r} is not supported; known: {', '.join(_FUNCTIONS)}")
        return _Call(name, ())

    def _apply(self, operands: Sequence[tuple[_Call, int]], offset: int) -> _Call:
        if not operands:
            raise self._fail(offset, "expected a value, got nothing")
        (first, _), *rest = operands
        arguments = [call for call, _ in rest]
        for call, place in rest:
            self._check_count(call, 0 if not call.arguments else len(call.arguments), place)
        if first.function == _VALUE or first.arguments:
            if rest:
                raise self._fail(rest[0][1], "a value can't have arguments")
            return first
        self._check_count(first, len(arguments), operands[0][1])
        return _Call(first.function, arguments)

    def _check_count(self, call: _Call, count: int, place: int) -> None:
        expected = (0,) if call.function == _VALUE else _FUNCTIONS[call.function]
        if count not in expected:
            numbers = " or ".join(map(str, expected))
            raise self._fail(place, f"{call.function} has {numbers} arguments, not {count}")

    def _fail(self, offset: int, problem: str) -> TemplateError:
        before = self._text[:offset]
        line, column = before.count("\n") + 1, offset - before.rfind("\n")
        return TemplateError(f"line {line}, column {column}: {problem}")
