"""Find providers: installed ones by name, others as ``module:Class`` or ``path/to/file.py:Class``.

A provider is somebody else's code. Its mistakes are found here, before anything starts, and explained in one line.
"""

import contextlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Iterator, Mapping
from functools import reduce
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.provider import Provider
from pyinfrakit.schema import secrets
from pyinfrakit.schema.redactor import Redactor, hiding

log = logging.getLogger(__name__)

GROUP = "pyinfrakit.providers"
"""The group of entry points that are providers."""

METHODS = ("__init__", "start", "stop", "validate", "provision", "destroy", "observe", "label", "adopt", "pool")
"""The methods of a provider that a plugin calls."""


def find_provider(name: str, folder: Path = Path()) -> type[Provider]:
    """Return the provider class of a *name*; a path in it is relative to *folder*. Raise `CannotStart`."""
    place, colon, member = name.rpartition(":")
    with naming(f"provider {name!r}"):
        if not colon and ("/" in name or name.endswith(".py")):
            raise CannotStart(f"expected a class, too, as in {name}:Rack")
        if not colon:
            point = _find_installed(name)
            return _check(_find_member(_import_module(point.module), point.attr))
        if not place or not member:
            raise CannotStart("expected module:Class, or path/to/file.py:Class")
        in_file = "/" in place or place.endswith(".py")
        module = _import_file(folder / Path(place).expanduser()) if in_file else _import_module(place)
        return _check(_find_member(module, member))


def make_provider(provider: type[Provider], name: str, folder: Path, options: Any) -> Provider:
    """Make a provider. Raise `CannotStart` for any error of its code, without the secrets in its options."""
    redact = Redactor(secrets.find_secrets(options)).redact
    with hiding(redact), naming(f"provider {provider.__name__}"), _explaining():
        return provider(name, folder, options)


def _find_installed(name: str) -> EntryPoint:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        names = ", ".join(sorted(entry_points(group=GROUP).names))
        raise CannotStart(f"not installed; installed: {names}; others are module:Class or path/to/file.py:Class")
    if len(found) > 1:
        owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in found))
        raise CannotStart(f"installed by {owners}: remove one, or say {' or '.join(each.value for each in found)}")
    return found[0]


def _import_module(name: str) -> ModuleType:
    """Import a module. As root, nobody else may be able to change it or the packages around it."""
    parts = name.split(".")
    with _explaining():
        for count in range(1, len(parts) + 1):
            _check_module(".".join(parts[:count]))
        return importlib.import_module(name)


def _check_module(name: str) -> None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise CannotStart(f"no module {name!r}: {error}") from None
    if spec is None:
        raise CannotStart(f"no module {name!r} is installed, nor in PYTHONPATH")
    is_ours = name.partition(".")[0] == __package__  # a user who can change this package can change this check
    if spec.has_location and spec.origin and not is_ours:
        paths.check_trusted(Path(spec.origin))


def _import_file(path: Path) -> ModuleType:
    """Import a file, under a unique name. Its folder is not searched for other modules."""
    try:
        real = os.path.realpath(path, strict=True)
        if not os.path.isfile(real):
            raise CannotStart(f"{path} is not a regular file")
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    paths.check_trusted(path)
    name = f"_provider_{zlib.crc32(os.fsencode(real)):08x}"
    return sys.modules.get(name) or _execute(name, real)


def _execute(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _explaining():
            spec.loader.exec_module(module)
    except CannotStart:
        del sys.modules[name]
        raise
    return module


class _Source(SourceFileLoader):
    """Neither reads nor writes compiled code beside the file: in a sticky folder, it may be somebody else's."""

    def path_stats(self, path: str) -> NoReturn:
        raise OSError(f"{path}: not to be cached")


def _find_member(module: ModuleType, path: str) -> Any:
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        providers = [
            name for name, value in vars(module).items() if _is_provider(value) and value.__module__ == module.__name__
        ]
        has = f"it has {', '.join(providers)}" if providers else "it has no provider"
        raise CannotStart(f"{module.__file__ or module.__name__} has no class {path!r}; {has}") from None


def _is_provider(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Provider)


def _check(loaded: Any) -> type[Provider]:
    """Return a complete provider class; raise `CannotStart`."""
    if not _is_provider(loaded):
        raise CannotStart(f"expected a subclass of pyinfrakit.provider.Provider, got {loaded!r}")
    if loaded.__abstractmethods__:
        lacks = ", ".join(sorted(loaded.__abstractmethods__))
        raise CannotStart(f"class {loaded.__name__} lacks {lacks}; a provider has provision, destroy and observe")
    for method in METHODS:
        _check_method(loaded, method)
    _check_type(loaded, "Properties", " or Raw")
    _check_type(loaded, "Options", "")
    if type(loaded.batch) is not int or loaded.batch < 1:
        raise CannotStart(f"{loaded.__name__}.batch: expected an integer >= 1, got {loaded.batch!r}")
    _check_example(loaded)
    return loaded  # type: ignore[no-any-return]


def _check_method(loaded: type[Provider], name: str) -> None:
    """Raise `CannotStart` unless the method takes the SDK's arguments, by position."""
    method = getattr(loaded, name)
    expected = inspect.signature(getattr(Provider, name))
    takes_self = inspect.isfunction(inspect.getattr_static(loaded, name))
    try:
        has = inspect.signature(method)
    except ValueError:
        return  # not written in Python
    except TypeError:
        raise CannotStart(f"{loaded.__name__}.{name}: expected a method, got {method!r}") from None
    try:
        has.bind(*list(expected.parameters)[0 if takes_self else 1 :])
    except TypeError:
        wanted = ", ".join(expected.parameters)
        got = ", ".join(has.parameters)
        raise CannotStart(f"expected {loaded.__name__}.{name}({wanted}), got ({got})") from None


def _check_example(loaded: type[Provider]) -> None:
    """Raise `CannotStart` if JSON can't hold the example. It is shown, and so would be a secret in it."""
    if loaded.example is None:
        return
    if not isinstance(loaded.example, Mapping):
        raise CannotStart(f"{loaded.__name__}.example: expected a dict or None, got {loaded.example!r}")
    with naming(f"{loaded.__name__}.example"), _explaining():
        msgspec.json.encode(loaded.example)


def _check_type(loaded: type[Provider], attribute: str, or_raw: str) -> None:
    shape = getattr(loaded, attribute)
    with naming(f"{loaded.__name__}.{attribute}"), _explaining():
        if not (isinstance(shape, type) and issubclass(shape, Struct)) and not (or_raw and shape is Raw):
            raise CannotStart(f"expected a msgspec Struct type{or_raw}, got {shape!r}")
        msgspec.json.Decoder(shape, dec_hook=secrets.decode_secret)
        if unknown := sorted(each.__name__ for each in secrets.find_unknown_types(shape)):
            raise CannotStart(f"has {', '.join(unknown)}, which msgspec can't decode")


@contextlib.contextmanager
def naming(subject: str) -> Iterator[None]:
    """Name the *subject* in each `CannotStart`."""
    try:
        yield
    except CannotStart as error:
        raise CannotStart(f"{subject}: {error}") from None


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Turn any error of a provider's own code into a `CannotStart` that names its line."""
    try:
        yield
    except CannotStart:
        raise
    except SyntaxError as error:
        raise CannotStart(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        log.debug("an error in a provider's own code", exc_info=True)
        raise CannotStart(f"{type(error).__name__}: {error}{_locate(error)}") from error


def _locate(error: BaseException) -> str:
    """Return the innermost line of an exception that is neither in Python's own code nor in ours."""
    python = (sysconfig.get_paths()["stdlib"] + os.sep, "<frozen ")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        in_python = frame.filename.startswith(python) and "site-packages" not in frame.filename
        if not in_python and frame.filename != __file__ and not frame.filename.endswith("/contextlib.py"):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
