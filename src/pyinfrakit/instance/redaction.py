"""The redactors of a plugin: of one instance, of several, or of all of them."""

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from msgspec import Raw

from pyinfrakit.provider import Provider
from pyinfrakit.record import Spec
from pyinfrakit.schema.redactor import Redactor, find_pieces, has_piece, hide_everywhere, join, replace
from pyinfrakit.schema.secrets import EMPTY_OBJECT, contains_secret, find_secrets, split_strings
from pyinfrakit.store.records import Records

KEPT = 256
"""Redactors that are kept. The members of a group mostly share one."""

AT_ONCE = 1000
"""Specs whose secrets are looked for together. More would take too much memory."""


class Redaction:
    """Makes the redactors of one provider's instances. Each hides the secrets of the provider's options too."""

    def __init__(self, provider: Provider, records: Records) -> None:
        self._shape = provider.Properties
        self._records = records
        self._options = find_secrets(provider.options)
        self._recent: deque[tuple[bytes, str]] = deque(maxlen=KEPT)
        """Specs whose instances may be gone: a provider may still have their secrets in an error."""
        self._make = lru_cache(KEPT)(self._make_redactor)
        self._join = lru_cache(1)(self._join_redactors)
        hide_everywhere(self.redact_all)

    def of(self, *specs: Spec) -> Redactor:
        """Return the redactor for the secrets of *specs*."""
        redactors = [self._make(*_key(spec), frozenset(_list_public(spec))) for spec in specs]
        return redactors[0] if len(redactors) == 1 else join(redactors)

    def has_secrets(self, spec: Spec) -> bool:
        """Return whether anything in live properties may be a secret of *spec*."""
        return bool(spec.init or self._options) or contains_secret(self._shape)

    def redact_all(self, text: str) -> str:
        """Return *text* without the secrets of all instances. It takes a second for 100,000 different specs with secrets.

        Of that many, those are left out that share no piece of six characters with the text.
        """
        keys = {_key(record.spec) for record in self._records.peek() if self.has_secrets(record.spec)}
        keys.update(self._recent)
        if len(keys) <= AT_ONCE:
            return self._join(frozenset(keys)).redact(text)
        pieces = find_pieces(text)
        rest = (key for key in keys if has_piece(key[1], pieces) or has_piece(key[0].decode(), pieces))
        found = Redactor(self._options).find(text)
        while some := frozenset(islice(rest, AT_ONCE)):
            found += self._join_redactors(some).find(text)
        return replace(text, found)

    def _join_redactors(self, keys: frozenset[tuple[bytes, str]]) -> Redactor:
        properties = {properties for properties, _ in keys}
        secrets = {secret for each in properties for secret in self._split(each)[0]}
        return Redactor(self._options | secrets, {init for _, init in keys})

    def _make_redactor(self, properties: bytes, init: str, public: frozenset[str]) -> Redactor:
        self._recent.append((properties, init))
        secrets, strings = self._split(properties)
        return Redactor(self._options | secrets, [init], strings | public)

    def _split(self, properties: bytes) -> tuple[set[str], set[str]]:
        return split_strings(Raw(properties) if properties else EMPTY_OBJECT, self._shape)


def _key(spec: Spec) -> tuple[bytes, str]:
    return bytes(spec.properties or b""), spec.init


def _list_public(spec: Spec) -> Iterator[str]:
    """Yield what is shown of a spec anyway."""
    yield from spec.tags.values()
    if spec.logical_id is not None:
        yield spec.logical_id
