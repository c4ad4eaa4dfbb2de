"""Arguments that commands share: the name of a plugin, tags, and specs."""

import functools
import http.client
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, cast

import click
import msgspec
from msgspec import Raw

from pyinfrakit import paths
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, decode

INFRAKIT_FORM = "pyinfrakit.infrakit_form"
"""The key in a context's `meta` that says that a command was called in InfraKit's own form, to print as InfraKit does."""


def in_infrakit_form() -> bool:
    """Return whether the current command was called in InfraKit's own form, and prints as InfraKit does."""
    return INFRAKIT_FORM in click.get_current_context().meta


plugin_argument = click.argument("name", metavar="NAME")

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=paths.plugins,
    envvar="INFRAKIT_INSTANCE_DIR",
    show_default="INFRAKIT_PLUGINS_DIR, or plugins in INFRAKIT_HOME",
    help="The folder of the plugins' sockets.",
)


log_option = functools.partial(
    click.option,
    "--log",
    type=click.IntRange(0, 5),
    help="The level: 0 critical, 1 error, 2 warning, 3 notice, 4 info, 5 debug.",
)


def pass_plugin(command: Callable[Concatenate[OperatorClient, ...], None]) -> Callable[..., None]:
    """Let *command* take NAME and --dir, and pass it a client of that plugin as the first argument.

    NAME is a name, ``name/sub-type``, or a socket's path. The client connects at its first call.
    """

    @plugin_argument
    @directory_option
    @functools.wraps(command)
    def run(name: str, directory: Path, **arguments: Any) -> None:
        path, sub_type = paths.resolve(name, directory)
        with Client(path) as client:
            command(OperatorClient(client, sub_type), **arguments)

    return run


def pop_option(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """Take ``OPTION VALUE`` or ``OPTION=VALUE`` out of *arguments*; return its value, if any, and the rest."""
    rest = list(arguments)
    for place, argument in enumerate(rest):
        if argument == "--":
            break
        if argument.startswith(f"{option}="):
            return rest.pop(place).partition("=")[2], rest
        if argument == option and place + 1 < len(rest):
            del rest[place]
            return rest.pop(place), rest
    return None, rest


class Tags(click.ParamType[dict[str, str]]):
    """Tags as InfraKit's own command line takes them: ``k=v,k=v``."""

    name = "k=v,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        tags: dict[str, str] = {}
        for pair in value.split(",") if value else ():
            key, equals, text = pair.partition("=")
            if not key or not equals:
                self.fail(f"expected key=value, got {pair!r}", param, ctx)
            if key in tags:
                self.fail(f"duplicate tag {key}: {tags[key]!r} and {text!r}", param, ctx)
            tags[key] = text
        return tags


def read_json(source: str, is_yaml: bool) -> Raw:
    """Return the JSON at *source*: a file, ``-`` for stdin, ``file://`` or ``http(s)://``.

    JSON is returned byte for byte, YAML is converted. Raise `click.ClickException` if it can't be read.
    """
    data = read_bytes(source)
    if is_yaml:
        try:
            data = msgspec.json.encode(msgspec.yaml.decode(data))
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise click.ClickException(f"{source}: not YAML that fits JSON: {error}") from None
    try:
        check(data)
        return decode(data, Raw)
    except NotJSON as error:
        hint = "" if is_yaml else "; if it is YAML, use -y"
        raise click.ClickException(f"{source}: {error}{hint}") from None


def read_spec(source: str, is_yaml: bool) -> types.SpecParams:
    """Return the spec at *source*, which has the same forms as in `read_json`."""
    return decode_spec(read_json(source, is_yaml), source)


def decode_spec(data: Raw, source: str) -> types.SpecParams:
    """Return the spec in *data*, which came from *source*. Raise `click.ClickException`."""
    try:
        return types.read_spec(data)
    except WrongShape as error:
        raise click.ClickException(f"{source}: {error}") from None


def read_bytes(source: str) -> bytes:
    """Return the content of *source*, which has the same forms as in `read_json`. Raise `click.ClickException`."""
    if source == "-":
        if sys.stdin is None:
            raise click.ClickException("-: there is no standard input")
        return sys.stdin.buffer.read()
    try:
        if source.startswith(("http://", "https://", "file://")):
            import urllib.request

            with urllib.request.urlopen(source, timeout=15) as response:
                return cast(bytes, response.read())
        return Path(source).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{source}: {error.strerror or getattr(error, 'reason', error)}") from None
    except (ValueError, http.client.HTTPException) as error:
        raise click.ClickException(f"{source}: {error}") from None
