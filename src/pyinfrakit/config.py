"""Which providers a plugin has, by sub-type: from the command line's flags, or from a file.

The file of ``--config`` has either ``provider`` and ``options``, or ``types`` with both for each sub-type of the
plugin. So has each plugin in a fleet file.

Command lines and configuration are copied and seen by others. So they never hold a secret, only its source:
a variable of the environment, or a file. Each is read once.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from pyinfrakit import loading, paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.provider import Provider
from pyinfrakit.schema.decode import WrongShape, decode, make_encodable
from pyinfrakit.schema.describe import make_example
from pyinfrakit.schema.secrets import EMPTY_OBJECT, Secret
from pyinfrakit.source import Source, join, read_trusted

log = logging.getLogger(__name__)

MAX_SECRET = 64 * 1024
"""Largest file of a secret, in bytes: a larger one is some other file."""


class ProviderChoice(Struct, frozen=True):
    """An operator's choice: a provider and its options."""

    provider: type[Provider]
    options: Any

    def make(self, name: str, folder: Path) -> Provider:
        """Make the provider of plugin *name*, which may keep files in *folder*. Raise `CannotStart`."""
        return loading.make_provider(self.provider, name, folder, self.options)


class _ProviderTable(Struct, forbid_unknown_fields=True):
    provider: str
    options: Raw = EMPTY_OBJECT


class _ConfigFile(Struct, forbid_unknown_fields=True):
    provider: str = ""
    options: Raw = Raw()
    types: dict[str, Raw] | None = None


def choose_from_flags(provider: str, options: Sequence[tuple[str, str]]) -> Mapping[str, ProviderChoice]:
    """Return the provider of the command line, under the empty sub-type. Raise `CannotStart`."""
    found = loading.find_provider(provider)
    data = msgspec.json.encode({make_encodable(key): make_encodable(value) for key, value in options})
    try:
        # Not strict: on a command line, everything is a string.
        values = decode(data, found.Options, hook=lambda _, value: _read_flag_secret(value), strict=False)
    except WrongShape as error:
        example = _append_example(format_flags(found))
        raise CannotStart(f"options of provider {found.__name__}: {error}{example}") from None
    return {"": ProviderChoice(found, values)}


def choose_from_file(path: Path) -> Mapping[str, ProviderChoice]:
    """Return the providers of a file by sub-type, which is empty for the only one. Raise `CannotStart`."""
    source = read_trusted(path, f"config file {path}", "TOML")
    return choose(source, source.json)


def choose(source: Source, plugin: Raw, where: str = "") -> Mapping[str, ProviderChoice]:
    """Return the providers of a *plugin* in a file, at the path *where*, like `choose_from_file`."""
    try:
        tables = _split(decode(plugin, _ConfigFile, where), source, where)
        return {path: _choose(table, source, place) for path, (place, table) in tables.items()}
    except WrongShape as error:
        raise source.explain(error) from None


def format_flags(provider: type[Provider]) -> str:
    """Return an example of a provider's options for the command line, or for a file if only that can hold them."""
    options = make_example(provider.Options, lambda name: f"env:{_name_variable(name)}")
    if any(isinstance(value, dict | list) for value in options.values()):
        return f"by --config, {format_table(provider)}"
    return " ".join(
        f"--option {key}={value if isinstance(value, str) else format_toml(value)}"
        for key, value in options.items()
        if value is not None
    )


def format_table(provider: type[Provider], format: str = "TOML") -> str:
    """Return an example of a provider's options for a file in *format*."""
    options = make_example(provider.Options, lambda name: {"env": _name_variable(name)})
    return _format_setting("options", options, format) if options else ""


def _format_setting(key: str, value: Any, format: str) -> str:
    """Return a setting in one line. YAML takes it as JSON has it."""
    if format == "TOML":
        return f"{_format_key(key)} = {format_toml(value)}"
    text = json.dumps(
        {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value
    )
    return f"{key}: {text}" if format == "YAML" else f'"{key}": {text}'


def format_toml(value: Any) -> str:
    """Return a value in one line of TOML."""
    if isinstance(value, dict):
        pairs = ", ".join(
            f"{_format_key(key)} = {format_toml(each)}" for key, each in value.items() if each is not None
        )
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(format_toml(each) for each in value)}]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")  # TOML has no such character


def _format_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else format_toml(key)


def _name_variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper() or "SECRET"


def _split(file: _ConfigFile, source: Source, where: str) -> Mapping[str, tuple[str, _ProviderTable]]:
    """Return the path and the content of each sub-type's table."""
    types = join(where, "types")
    if file.types is None:
        if not file.provider:
            example = _format_setting("provider", "simulator", source.format)
            raise WrongShape(where, f"expected a provider, as in {example}, or types, which have one each")
        return {"": (where, _ProviderTable(file.provider, file.options or EMPTY_OBJECT))}
    if file.provider or file.options:
        raise WrongShape(where, "expected either provider and options, or types, which have their own")
    if not file.types:
        raise WrongShape(types, "expected one sub-type or several, each with a provider")
    places = {name: join(types, _check_sub_type(name, types)) for name in file.types}
    return {name: (place, decode(file.types[name], _ProviderTable, place)) for name, place in places.items()}


def _check_sub_type(name: str, where: str) -> str:
    """Return a name that is safe in ``plugin/sub-type``, and in the names of a plugin's files; raise `WrongShape`."""
    try:
        paths.check_name(name)
    except CannotStart as error:
        raise WrongShape(where, str(error)) from None
    if "." in name:
        raise WrongShape(where, f"name {name!r}: expected one without a dot")
    return name


def _choose(table: _ProviderTable, source: Source, where: str) -> ProviderChoice:
    try:
        found = loading.find_provider(table.provider, source.folder)
    except CannotStart as error:
        raise WrongShape(join(where, "provider"), str(error)) from None
    try:
        options = decode(
            table.options,
            found.Options,
            join(where, "options"),
            lambda _, value: _read_file_secret(value, source),
        )
    except WrongShape as error:
        example = _append_example(format_table(found, source.format))
        raise WrongShape(error.where, f"{error.problem}{example}") from None
    return ProviderChoice(found, options)


def _append_example(text: str) -> str:
    return f"; for example: {text}" if text else ""


# Options have no custom type except `Secret`: the loading of their provider makes sure of that.
def _read_flag_secret(value: Any) -> Secret:
    scheme, colon, source = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or scheme not in ("env", "file"):
        raise ValueError("expected a secret's source, as env:NAME or file:PATH, not the secret itself")
    return _read_secret_file(Path(source)) if scheme == "file" else _read_variable(source)


def _read_file_secret(value: Any, source: Source) -> Secret:
    match value:
        case {"env": str(name), **more} if not more:
            return _read_variable(name)
        case {"file": str(name), **more} if not more:
            return _read_secret_file(source.folder / name)
    forms = ({"env": "NAME"}, {"file": "PATH"})
    env, file = (format_toml(form) if source.format == "TOML" else json.dumps(form) for form in forms)
    raise ValueError(f"expected a secret's source, as {env} or {file}, not the secret itself")


def _read_variable(name: str) -> Secret:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"variable {name!r} of the environment is {'not set' if value is None else 'empty'}")
    return Secret(value)


def _read_secret_file(path: Path) -> Secret:
    where = f"secret file {str(path)!r}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MAX_SECRET + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{where}: not UTF-8") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: {getattr(error, 'strerror', None) or error}") from None
    if not text or len(text) > MAX_SECRET:
        raise ValueError(f"{where}: {'too long for a secret' if text else 'empty'}")
    # Not refused: containers get their secrets in such files, and nobody else is in there.
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        log.warning("secret file %s is readable by other users (mode %04o)", path, stat.S_IMODE(mode))
    return Secret(text)
