"""Values and exceptions of foreign code, such as a provider's. They are read once: nothing of theirs runs later.

A subclass of a plain type may do anything in its methods, and so may an exception in `__str__`. What these
functions return is of exactly the plain type.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_TEXT = 1 << 16
"""Most characters of an exception's text. Readers cut it further, but only after its secrets are hidden."""


def copy_text(value: Any, name: str) -> str:
    """Return a string. Raise TypeError, which calls *value* by its *name*, or UnicodeEncodeError for half a character."""
    if not issubclass(type(value), str):
        raise TypeError(f"expected a string as {name}, got {quote(value)}")
    text = str.__str__(value)
    if not text.isascii():
        text.encode()
    return text


def copy_flag(value: Any, name: str) -> bool:
    """Return a truth value, such as True, 1 or NumPy's. Raise TypeError for other values: "no" would be true."""
    flag = bool(value)
    if flag != value:
        raise TypeError(f"expected True or False as {name}, got {quote(value)}")
    return flag


def quote(value: Any) -> str:
    """Return a short name of a wrong value. Only numbers and the like are shown: others may hold a secret."""
    kind = type(value)
    if kind in (bool, float, type(None)) or (kind is int and abs(value) < 1 << 64):
        return repr(value)
    return f"a value of type {_name_type(kind)}"


def describe_error(error: BaseException) -> str:
    """Return an exception's type and text in one line."""
    name = _name_type(type(error))
    text = " ".join(read_text(error).split())
    if not text or text.startswith(name):
        return text or name
    return f"{name}: {text}"


class Trace(Exception):
    """A foreign exception for the log: its description, its traceback, and its causes."""


def copy_trace(error: BaseException, causes: int = 8) -> Trace:
    """Return an exception for the log, with at most so many of its causes."""
    trace = Trace(describe_error(error)).with_traceback(_read_slot(error, "__traceback__"))
    cause, context = _read_slot(error, "__cause__"), _read_slot(error, "__context__")
    if causes and cause is not None:
        trace.__cause__ = copy_trace(cause, causes - 1)
    elif causes and context is not None and not _read_slot(error, "__suppress_context__"):
        trace.__context__ = copy_trace(context, causes - 1)
    return trace


def _read_slot(error: BaseException, name: str) -> Any:
    """Return an attribute that Python itself sets. A subclass may replace what `error.__cause__` does."""
    return BaseException.__dict__[name].__get__(error)


def read_text(error: BaseException) -> str:
    """Return an exception's text, at most `LONGEST_TEXT` characters, whatever its class does."""
    text = attempt(lambda: str.__str__(str(error)), None)
    if text is None:
        return f"{_name_type(type(error))}, whose text can't be read"
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}…"
    return text.encode(errors="backslashreplace").decode()


def attempt(read: Callable[[], T], default: T) -> T:
    """Return the result of *read*, or *default* if it raises anything."""
    try:
        return read()
    except BaseException:  # noqa: BLE001 - foreign code may raise SystemExit just as well
        return default


def _name_type(kind: type) -> str:
    """Return a type's name as tracebacks show it. A metaclass may replace what `kind.__qualname__` does."""
    name = str.__str__(type.__dict__["__qualname__"].__get__(kind))
    module = type.__dict__["__module__"].__get__(kind)
    return name if type(module) is not str or module == "builtins" else f"{module}.{name}"
