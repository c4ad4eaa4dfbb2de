"""Which providers a plugin has, by sub-type: from the command line's flags, or from the file that ``--config`` names.

The file is TOML: ``provider`` and a table ``options``; or several, each a sub-type of the plugin, as ``[types.NAME]``.
"""

import logging
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from pyinfrakit import loading, paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.provider import Provider
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode, make_encodable
from pyinfrakit.schema.describe import make_example
from pyinfrakit.schema.secrets import EMPTY_OBJECT, Secret

EXAMPLE = 'provider = "simulator"'


class ProviderChoice(Struct, frozen=True):
    """An operator's choice: a provider and its options."""

    provider: type[Provider]
    options: Any

    def make(self, name: str, folder: Path) -> Provider:
        """Make the provider of plugin *name*, which may keep files in *folder*. Raise `CannotStart`."""
        return loading.made(self.provider, name, folder, self.options)


class _Part(Struct, forbid_unknown_fields=True):
    """One provider."""

    provider: str
    options: Raw = EMPTY_OBJECT


class _File(Struct, forbid_unknown_fields=True):
    """The whole file."""

    provider: str = ""
    options: Raw = Raw()
    types: dict[str, Raw] | None = None


def from_flags(provider: str, given: Sequence[tuple[str, str]]) -> Mapping[str, ProviderChoice]:
    """Find the provider that the command line names, which has no sub-type; raise `CannotStart`."""
    found = loading.provider_class(provider)
    return {"": ProviderChoice(found, options_from_flags(found, dict(given)))}


def from_file(path: Path) -> Mapping[str, ProviderChoice]:
    """Find the providers of a file, by sub-type, which is empty where there is but one; raise `CannotStart`."""
    try:
        parts = _parts(decode(_read(path), _File))
        return {kind: _chosen(part, kind, path.absolute().parent) for kind, part in parts.items()}
    except (CannotStart, WrongShape, NotJSON) as error:
        raise CannotStart(f"config file {path}: {error}") from None


def _read(path: Path) -> bytes:
    """Give the file's content as JSON, once it is found that nobody else can change it."""
    try:
        paths.check_trusted(path)
        with path.open("rb") as file:
            return msgspec.json.encode(tomllib.load(file))
    except OSError as error:
        raise CannotStart(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise CannotStart("not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CannotStart(f"not TOML: {error}") from None
    except (OverflowError, RecursionError) as error:
        raise CannotStart(f"not TOML that can be read: {error}") from None


def _parts(file: _File) -> Mapping[str, _Part]:
    if file.types is None:
        if not file.provider:
            raise CannotStart(f"expected a provider, as in {EXAMPLE}, or tables [types.NAME] that have one each")
        return {"": _Part(file.provider, file.options or EMPTY_OBJECT)}
    if file.provider or file.options:
        raise CannotStart("expected either provider and options, or types, which have theirs")
    if not file.types:
        raise CannotStart("types: expected one table [types.NAME] or several")
    return {_kind(name): decode(part, _Part, f"types.{name}") for name, part in file.types.items()}


def _kind(name: str) -> str:
    """Refuse what can't be told apart in ``plugin/type``, or in the names of a plugin's files."""
    try:
        paths.check_name(name)
    except CannotStart as error:
        raise CannotStart(f"types: {error}") from None
    if "." in name:
        raise CannotStart(f"types: name {name!r}: expected one without a dot")
    return name


def _chosen(part: _Part, kind: str, folder: Path) -> ProviderChoice:
    where = f"types.{kind}." if kind else ""
    try:
        found = loading.provider_class(part.provider, folder)
    except CannotStart as error:
        raise CannotStart(f"{where}provider: {error}") from None
    return ProviderChoice(found, options_from_table(found, part.options, f"{where}options", folder))


# ==== What an operator sets of a provider: from the command line's strings, or from a table of a configuration file.
log = logging.getLogger(__name__)

LONGEST = 64 * 1024
"""Bytes that a secret's file may have: more is some other file."""

Reader = Callable[[Any], Secret]


def options_from_flags(provider: type[Provider], given: Mapping[str, str]) -> Any:
    """Read options from strings; raise `CannotStart`."""
    data = msgspec.json.encode({make_encodable(key): make_encodable(value) for key, value in given.items()})
    try:
        return decode(data, provider.Options, hook=_hook(_from_flag), strict=False)
    except WrongShape as error:
        raise CannotStart(
            f"options of provider {provider.__name__}: {error}{_for_example(as_flags(provider))}"
        ) from None


def options_from_table(provider: type[Provider], given: Raw, where: str, folder: Path) -> Any:
    """Read options from the table at *where* in a file in *folder*; raise `CannotStart`."""
    try:
        return decode(given, provider.Options, where, _hook(lambda value: _from_entry(value, folder)))
    except (WrongShape, NotJSON) as error:
        raise CannotStart(f"provider {provider.__name__}: {error}{_for_example(as_table(provider))}") from None


def as_flags(provider: type[Provider]) -> str:
    """Give an example of a provider's options for the command line, or for a file where it has some that only that can hold."""
    options = make_example(provider.Options, lambda name: f"env:{_variable(name)}")
    if any(isinstance(value, dict | list) for value in options.values()):
        return f"by --config, {as_table(provider)}"
    return " ".join(f"--option {key}={_plain(value)}" for key, value in options.items() if value is not None)


def as_table(provider: type[Provider]) -> str:
    """Give an example of a provider's options for a file."""
    options = make_example(provider.Options, lambda name: {"env": _variable(name)})
    return f"options = {toml(options)}" if options else ""


def toml(value: Any) -> str:
    """Write a value in one line of TOML."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{_key(key)} = {toml(each)}" for key, each in value.items() if each is not None)
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(toml(each) for each in value)}]"
    return msgspec.json.encode(value).decode()


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else toml(key)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else toml(value)


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper() or "SECRET"


def _for_example(text: str) -> str:
    return f"; for example: {text}" if text else ""


def _hook(read: Reader) -> Callable[[type, Any], Any]:
    def make(type_: type, value: Any) -> Any:
        if type_ is not Secret:
            raise NotImplementedError(f"{type_!r} is no type that an option can have")
        return read(value)

    return make


def _from_flag(value: Any) -> Secret:
    kind, colon, source = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or kind not in ("env", "file"):
        raise ValueError("a secret is not given itself, but as env:NAME or file:PATH")
    return _from_file(Path(source)) if kind == "file" else _from_environment(source)


def _from_entry(value: Any, folder: Path) -> Secret:
    match value:
        case {"env": str(name), **more} if not more:
            return _from_environment(name)
        case {"file": str(name), **more} if not more:
            return _from_file(folder / name)
    raise ValueError('a secret is not given itself, but as { env = "NAME" } or { file = "PATH" }')


def _from_environment(name: str) -> Secret:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"variable {name!r} of the environment is {'not set' if value is None else 'empty'}")
    return Secret(value)


def _from_file(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(LONGEST + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"secret file {str(path)!r}: not UTF-8") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"secret file {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if not text or len(text) > LONGEST:
        raise ValueError(f"secret file {str(path)!r}: {'longer than a secret is' if text else 'empty'}")
    _warn(path, mode)
    return Secret(text)


def _warn(path: Path, mode: int) -> None:
    """Warn of a file that others may read. It is not refused: so containers get their secrets, and nobody else is in there."""
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        log.warning("secret file %s may be read by others (mode %04o)", path, stat.S_IMODE(mode))
