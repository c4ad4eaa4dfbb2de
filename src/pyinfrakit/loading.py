"""Find providers: installed ones by name, others as ``module:Class`` or ``path/to/file.py:Class``.

A provider is somebody else's code. What is wrong with it is found here, before anything is started, and told in one line.
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

log = logging.getLogger(__name__)

GROUP = "pyinfrakit.providers"
"""The entry points that are providers."""

METHODS = ("__init__", "start", "stop", "validate", "provision", "destroy", "observe", "label", "adopt", "pool")
"""What a plugin calls of a provider."""


def provider_class(name: str, folder: Path = Path()) -> type[Provider]:
    """Give the provider that *name* names, in which a path is relative to *folder*; raise `CannotStart`."""
    what = f"provider {name!r}"
    place, colon, path_in_module = name.rpartition(":")
    if not colon and ("/" in name or name.endswith(".py")):
        raise CannotStart(f"{what}: expected a class, too, as in {name}:Rack")
    if not colon:
        point = _installed(what, name)
        return _checked(what, _member(what, _module(what, point.module), point.attr))
    if not place or not path_in_module:
        raise CannotStart(f"{what}: expected module:Class, or path/to/file.py:Class")
    in_file = "/" in place or place.endswith(".py")
    module = _file(what, folder / Path(place).expanduser()) if in_file else _module(what, place)
    return _checked(what, _member(what, module, path_in_module))


def made(provider: type[Provider], name: str, folder: Path, options: Any) -> Provider:
    """Make a provider; raise `CannotStart` for whatever it raises."""
    with _told(f"provider {provider.__name__}"):
        return provider(name, folder, options)


def _installed(what: str, name: str) -> EntryPoint:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        names = ", ".join(sorted({point.name for point in entry_points(group=GROUP)}))
        raise CannotStart(
            f"{what} is not installed; installed: {names}; others are module:Class or path/to/file.py:Class"
        )
    if len(found) > 1:
        owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in found))
        raise CannotStart(
            f"{what} is installed by {owners}: remove one, or say {' or '.join(each.value for each in found)}"
        )
    return found[0]


def _module(what: str, name: str) -> ModuleType:
    """Import a module, once it is found that nobody else can change it or the packages around it."""
    parts = name.split(".")
    with _told(what):
        for count in range(1, len(parts) + 1):
            _check_module(what, ".".join(parts[:count]))
        return importlib.import_module(name)


def _check_module(what: str, name: str) -> None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise CannotStart(f"{what}: no module {name!r}: {error}") from None
    if spec is None:
        raise CannotStart(f"{what}: no module {name!r} is installed, nor in PYTHONPATH")
    ours = name.partition(".")[0] == __package__  # whoever can change this package can change this check
    if spec.has_location and spec.origin and not ours:
        with _naming(what):
            paths.check_trusted(Path(spec.origin))


def _file(what: str, path: Path) -> ModuleType:
    """Import a file, under a name that nothing else has. Its folder is not searched for others."""
    try:
        real = os.path.realpath(path, strict=True)
        if not os.path.isfile(real):
            raise CannotStart(f"{what}: {path} is not a regular file")
    except (OSError, ValueError) as error:
        raise CannotStart(f"{what}: {path}: {getattr(error, 'strerror', None) or error}") from None
    with _naming(what):
        paths.check_trusted(path)
    name = f"_provider_{zlib.crc32(os.fsencode(real)):08x}"
    return sys.modules.get(name) or _run(what, name, real)


def _run(what: str, name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _told(what):
            spec.loader.exec_module(module)
    except CannotStart:
        del sys.modules[name]
        raise
    return module


class _Source(SourceFileLoader):
    """Neither reads nor leaves compiled code beside the file: in a sticky folder, others might have put some there."""

    def path_stats(self, path: str) -> NoReturn:
        raise OSError(f"{path}: not to be cached")


def _member(what: str, module: ModuleType, path: str) -> Any:
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError:
        there = [
            name for name, value in vars(module).items() if _is_provider(value) and value.__module__ == module.__name__
        ]
        has = f"it has {', '.join(there)}" if there else "it has no provider"
        raise CannotStart(f"{what}: {module.__file__ or module.__name__} has no class {path!r}; {has}") from None


def _is_provider(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Provider)


def _checked(what: str, loaded: Any) -> type[Provider]:
    """Refuse what is no provider, or lacks something."""
    if not _is_provider(loaded):
        raise CannotStart(f"{what}: expected a subclass of pyinfrakit.provider.Provider, got {loaded!r}")
    if loaded.__abstractmethods__:
        lacks = ", ".join(sorted(loaded.__abstractmethods__))
        raise CannotStart(
            f"{what}: class {loaded.__name__} lacks {lacks}; a provider has provision, destroy and observe"
        )
    for method in METHODS:
        _check_method(what, loaded, method)
    for attribute, or_raw in (("Properties", " or Raw"), ("Options", "")):
        _check_type(what, loaded, attribute, or_raw)
    if type(loaded.batch) is not int or loaded.batch < 1:
        raise CannotStart(f"{what}: {loaded.__name__}.batch: expected an integer >= 1, got {loaded.batch!r}")
    _check_example(what, loaded)
    return loaded  # type: ignore[no-any-return]


def _check_method(what: str, loaded: type[Provider], name: str) -> None:
    """Refuse a method that can't be called as it will be: with arguments by position, as many as the SDK's has."""
    method = getattr(loaded, name)
    expected = inspect.signature(getattr(Provider, name))
    takes_self = inspect.isfunction(inspect.getattr_static(loaded, name))
    try:
        has = inspect.signature(method)
    except ValueError:
        return  # not written in Python
    except TypeError:
        raise CannotStart(f"{what}: {loaded.__name__}.{name}: expected a method, got {method!r}") from None
    try:
        has.bind(*list(expected.parameters)[0 if takes_self else 1 :])
    except TypeError:
        wanted = ", ".join(expected.parameters)
        raise CannotStart(
            f"{what}: expected {loaded.__name__}.{name}({wanted}), got ({', '.join(has.parameters)})"
        ) from None


def _check_example(what: str, loaded: type[Provider]) -> None:
    """Refuse an example that JSON can't hold: it is shown. A secret in it would be, too."""
    if loaded.example is None:
        return
    if not isinstance(loaded.example, Mapping):
        raise CannotStart(f"{what}: {loaded.__name__}.example: expected a dict or None, got {loaded.example!r}")
    with _told(f"{what}: {loaded.__name__}.example"):
        msgspec.json.encode(loaded.example)


def _check_type(what: str, loaded: type[Provider], attribute: str, or_raw: str) -> None:
    shape = getattr(loaded, attribute)
    if not (isinstance(shape, type) and issubclass(shape, Struct)) and not (or_raw and shape is Raw):
        raise CannotStart(
            f"{what}: {loaded.__name__}.{attribute}: expected a msgspec Struct type{or_raw}, got {shape!r}"
        )
    with _told(f"{what}: {loaded.__name__}.{attribute}"):
        msgspec.json.Decoder(shape, dec_hook=secrets.decode_secret)
        if strange := sorted(each.__name__ for each in secrets.find_unknown_types(shape)):
            raise CannotStart(
                f"{what}: {loaded.__name__}.{attribute} has {', '.join(strange)}, which msgspec can't decode"
            )


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except CannotStart as error:
        raise CannotStart(f"{what}: {error}") from None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what a provider's own code raises, which may be anything, and where."""
    try:
        yield
    except CannotStart:
        raise
    except SyntaxError as error:
        raise CannotStart(f"{what}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        log.debug("%s", what, exc_info=True)
        raise CannotStart(f"{what}: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """Say where an exception comes from: the innermost line that is neither Python's own nor ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _is_theirs(file: str) -> bool:
    paths: Mapping[str, str] = sysconfig.get_paths()
    in_python = file.startswith((paths["stdlib"] + os.sep, "<frozen ")) and "site-packages" not in file
    return not in_python and file != __file__ and not file.endswith("/contextlib.py")
