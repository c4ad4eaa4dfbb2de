"""YAML with positions, as the superset of JSON that YAML 1.2 is: its core schema, with no tags.

So ``no``, ``on``, ``1:30`` and dates are strings. Numbers stay as they are written if JSON allows that.
"""

import re
from functools import partial
from typing import Any

import msgspec
import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode
from yaml.composer import Composer
from yaml.reader import ReaderError

from pyinfrakit.schema.decode import MAX_DEPTH
from pyinfrakit.source.syntax import BadSyntax, Parsed, Positions, join

MAX_VALUES = 1_000_000
"""Most values in a text, with aliases expanded: a few nested aliases can stand for billions of them."""

_NULL = ("", "~", "null", "Null", "NULL")
_WORDS = {
    **dict.fromkeys(_NULL, "null"),
    **dict.fromkeys(("true", "True", "TRUE"), "true"),
    **dict.fromkeys(("false", "False", "FALSE"), "false"),
}
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class _Loader(Composer, yaml.CSafeLoader):
    """A loader that gives no plain value a tag, and so tells it from one that has a tag in the text.

    libyaml reads the text, but Python makes the nodes: libyaml's binding crashes at a deep nesting.
    """

    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        return ""


def parse(text: str) -> Parsed:
    """Return the content of a YAML text as JSON. Raise `BadSyntax`, also for what JSON does not have."""
    root = _compose(text)
    if root is None:
        raise BadSyntax("empty")
    return Parsed(_Writer().write(root).encode(), partial(_find_positions, root, ""))


def _compose(text: str) -> Node | None:
    try:
        return _Loader(text).get_single_node()
    except ReaderError as error:
        before = text.encode()[: error.position].decode(errors="ignore")
        raise BadSyntax(f"not YAML: {error.reason}", len(before)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(each for each in (error.context, error.problem) if each)
        raise BadSyntax(f"not YAML: {problem}", mark.index if mark else None) from None
    except RecursionError:
        raise BadSyntax(f"nested more than {MAX_DEPTH} levels deep") from None


def _find_positions(node: Node, path: str) -> Positions:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            child = join(path, key.value)
            yield child, key.start_mark.index
            yield from _find_positions(value, child)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            child = join(path, index)
            yield child, item.start_mark.index
            yield from _find_positions(item, child)


class _Writer:
    """Write nodes as JSON."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[Node] = []
        """The nodes around the one that is being written."""

    def write(self, node: Node) -> str:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _refuse(node, f"expected at most {MAX_VALUES:,} values, with aliases expanded")
        if node.tag:
            raise _refuse(node, f"expected a value without a tag, got {node.tag}")
        if isinstance(node, ScalarNode):
            return _encode_scalar(node)
        if any(node is each for each in self._open):
            raise _refuse(node, "expected an alias of something complete, got one of a value around it")
        if len(self._open) == MAX_DEPTH:
            raise _refuse(node, f"nested more than {MAX_DEPTH} levels deep")
        self._open.append(node)
        is_mapping = isinstance(node, MappingNode)
        text = self._write_mapping(node) if is_mapping else f"[{','.join(map(self.write, node.value))}]"
        self._open.pop()
        return text

    def _write_mapping(self, node: Node) -> str:
        pairs: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.tag:
                raise _refuse(key, "expected a string as a key")
            if key.value == "<<" and not key.style:
                raise _refuse(key, "expected no merge key <<: repeat the keys, or use an alias for a whole value")
            if key.value in pairs:
                raise _refuse(key, f"duplicate key {key.value!r}")
            pairs[key.value] = f"{_encode(key, key.value)}:{self.write(value)}"
        return "{" + ",".join(pairs.values()) + "}"


def _encode_scalar(node: ScalarNode) -> str:
    text = node.value
    if node.style:  # in quotes, or a block
        return _encode(node, text)
    if text in _WORDS:
        return _WORDS[text]
    if _JSON_NUMBER.fullmatch(text):
        return str(text)
    if _HEX_OR_OCTAL.fullmatch(text):
        return str(int(text, 0))
    if _NO_NUMBER.fullmatch(text):
        raise _refuse(node, f'JSON has no number {text}: expected a string, as in "{text}"')
    return _convert_number(node) if _NUMBER.fullmatch(text) else _encode(node, text)


def _convert_number(node: ScalarNode) -> str:
    """Return a number that JSON writes otherwise, such as ``+1``, ``.5`` or ``5.``, as JSON writes it."""
    text = re.sub(r"\.(?!\d)", "", node.value.removeprefix("+"))
    text = re.sub(r"^(-?)\.", r"\g<1>0.", text)
    if not _JSON_NUMBER.fullmatch(text):
        # The value may be a password, so the message does not show it.
        raise _refuse(node, "a number with leading zeros is ambiguous: put it in quotes, or write 0o… for an octal one")
    return text


def _encode(node: Node, text: str) -> str:
    try:
        return msgspec.json.encode(text).decode()
    except UnicodeEncodeError:
        raise _refuse(node, "has half of a surrogate pair, as \\ud800 is") from None


def _refuse(node: Node, problem: str) -> BadSyntax:
    return BadSyntax(problem, node.start_mark.index)
