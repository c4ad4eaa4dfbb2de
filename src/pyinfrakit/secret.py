"""Values that are shown to nobody: a field type for a provider's properties and options."""

from typing import Any

HIDDEN = "***"


class Secret:
    """A string that no log, message or description shows; whoever needs it asks for it by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the string itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def made(type_: type, value: Any) -> Any:
    """Make a secret, for msgspec's ``dec_hook``. The error does not show what was given."""
    if type_ is not Secret:
        raise NotImplementedError(f"{type_!r} is no type that JSON can hold")
    if not isinstance(value, str):
        raise ValueError("expected a string, which is a secret")
    return Secret(value)


def hidden(value: Any) -> Any:
    """Give what stands for a secret, for msgspec's ``enc_hook``."""
    if isinstance(value, Secret):
        return HIDDEN
    raise NotImplementedError(f"{value!r} is nothing that JSON can hold")
