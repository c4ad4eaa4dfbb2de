"""The redactors of a plugin: of one instance, of several, or of all of them."""

import asyncio
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from msgspec import Raw

from pyinfrakit.provider import Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.redactor import (
    PLACEHOLDER,
    Redact,
    Redactor,
    find_pieces,
    has_piece,
    hide_everywhere,
    join,
    replace,
)
from pyinfrakit.schema.secrets import EMPTY_OBJECT, contains_secret, find_secrets, split_strings
from pyinfrakit.store.records import Records

KEPT = 256
"""Redactors that are kept. The members of a group mostly share one."""

AT_ONCE = 1000
"""Specs whose secrets are looked for together. More would take too much memory."""


_Key = tuple[bytes, str]
"""The parts of a spec that have secrets: its properties and `Init`."""


class Redaction:
    """Makes the redactors of one provider's instances. Each hides the secrets of the provider's options too."""

    def __init__(self, provider: Provider, records: Records) -> None:
        self._shape = provider.Properties
        self._records = records
        self._options = find_secrets(provider.options)
        self._keys: frozenset[_Key] | None = None
        records.subscribe(self._note_change)
        self._recent: deque[_Key] = deque(maxlen=KEPT)
        """Specs whose instances may be gone: a provider may still have their secrets in an error."""
        self._make = lru_cache(KEPT)(self._make_redactor)
        self._join = lru_cache(1)(self._join_redactors)
        hide_everywhere(self.redact_all)

    def of(self, *specs: Spec) -> Redactor:
        """Return the redactor for the secrets of *specs*."""
        redactors = [self._make(*_key(spec), frozenset(_list_public(spec))) for spec in specs]
        return redactors[0] if len(redactors) == 1 else join(redactors)

    def watch(self, *specs: Spec) -> Redact:
        """Return the same as a function, for a call about *specs*: the redactor is made when there is a text to redact."""
        self._recent.extend(map(_key, specs))
        return lambda text: self.of(*specs).redact(text)

    def has_secrets(self, spec: Spec) -> bool:
        """Return whether anything in live properties may be a secret of *spec*."""
        return bool(spec.init or self._options) or contains_secret(self._shape)

    def redact_all(self, text: str) -> str:
        """Return *text* without the secrets of all instances. It takes a second for 100,000 different specs with secrets.

        Of that many, those are left out that share no piece of six characters with the text. The event loop can't
        spare a second: there, all of the text is hidden.
        """
        keys = self._list_keys()
        if len(keys) <= AT_ONCE:
            return self._join(keys).redact(text)
        if _is_on_event_loop():
            return f"{PLACEHOLDER} (too many secrets to look for them here)"
        pieces = find_pieces(text)
        rest = (key for key in keys if has_piece(key[1], pieces) or has_piece(key[0].decode(), pieces))
        found = Redactor(self._options).find(text)
        while some := frozenset(islice(rest, AT_ONCE)):
            found += self._join_redactors(some).find(text)
        return replace(text, found)

    def _list_keys(self) -> frozenset[_Key]:
        if self._keys is None:
            self._keys = frozenset(_key(each.spec) for each in self._records.peek() if self.has_secrets(each.spec))
        return self._keys.union(self._recent)

    def _note_change(self, old: Record | None, new: Record | None) -> None:
        if old is None or new is None or old.spec is not new.spec:
            self._keys = None

    def _join_redactors(self, keys: frozenset[_Key]) -> Redactor:
        properties = {properties for properties, _ in keys}
        secrets = {secret for each in properties for secret in self._split(each)[0]}
        return Redactor(self._options | secrets, {init for _, init in keys})

    def _make_redactor(self, properties: bytes, init: str, public: frozenset[str]) -> Redactor:
        secrets, strings = self._split(properties)
        return Redactor(self._options | secrets, [init], strings | public)

    def _split(self, properties: bytes) -> tuple[set[str], set[str]]:
        return split_strings(Raw(properties) if properties else EMPTY_OBJECT, self._shape)


def _key(spec: Spec) -> _Key:
    return bytes(spec.properties or b""), spec.init


def _list_public(spec: Spec) -> Iterator[str]:
    """Yield what is shown of a spec anyway."""
    yield from spec.tags.values()
    if spec.logical_id is not None:
        yield spec.logical_id


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
