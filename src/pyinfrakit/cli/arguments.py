"""What the client commands have in common: how they name a plugin, take tags, and read specs."""

import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from msgspec import Raw

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, decode

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=paths.plugins,
    envvar="INFRAKIT_INSTANCE_DIR",
    show_default="INFRAKIT_PLUGINS_DIR, or plugins in INFRAKIT_HOME",
    help="The folder of plugins' sockets.",
)

plugin_argument = click.argument("name", metavar="NAME")


@contextmanager
def remote(name: str, directory: Path) -> Iterator[OperatorClient]:
    """Give the plugin that a user calls *name*: a name, ``name/type``, or a socket's path."""
    path, kind = paths.resolve(name, directory)
    with Client(path) as client:
        yield OperatorClient(client, kind)


def state_file(path: Path) -> Path:
    """Resolve links to a state file. Raise `CannotStart` where it, or a journal beside it, has no end to which it can be read."""
    from pyinfrakit.disk import Disk
    from pyinfrakit.store.file import recovery

    real = Path(os.path.realpath(path))
    try:
        for each in (real, *recovery.journals(Disk(), real)):
            if each.exists() and not each.is_file():
                raise CannotStart(f"state file {path}: {'' if each == real else f'{each.name} is '}not a regular file")
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror or error}") from None
    return real


class Tags(click.ParamType[dict[str, str]]):
    """``k=v,k=v``, as InfraKit's own command line takes tags."""

    name = "k=v,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        tags: dict[str, str] = {}
        for pair in value.split(",") if value else ():
            key, equals, text = pair.partition("=")
            if not key or not equals:
                self.fail(f"expected key=value, got {pair!r}", param, ctx)
            if key in tags:
                self.fail(f"{key} is given twice, as {tags[key]!r} and {text!r}", param, ctx)
            tags[key] = text
        return tags


tags_option = click.option(
    "--tags", type=Tags(), default="", show_default=False, help="Only instances with all of these tags."
)


def read_json(source: str, is_yaml: bool) -> Raw:
    """Give the document at *source* (a file, ``-``, ``file://``, ``http(s)://``) as JSON, byte for byte unless it is YAML."""
    data = _read(source)
    if is_yaml:
        try:
            data = msgspec.json.encode(msgspec.yaml.decode(data))
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise click.ClickException(f"{source}: not YAML that JSON can hold: {error}") from None
    try:
        check(data)
        return decode(data, Raw)
    except NotJSON as error:
        hint = "" if is_yaml else "; is it YAML? then say -y"
        raise click.ClickException(f"{source}: {error}{hint}") from None


def read_spec(source: str, is_yaml: bool) -> types.SpecParams:
    """Give the spec at *source*, which may be a file, ``-``, ``file://`` or ``http(s)://``."""
    try:
        return types.read_spec(read_json(source, is_yaml))
    except WrongShape as error:
        raise click.ClickException(f"{source}: {error}") from None


def _read(source: str) -> bytes:
    if source == "-" and sys.stdin is None:
        raise click.ClickException("-: there is no standard input")
    if source == "-":
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
