"""The redactor hides secrets in any form, and leaves the rest of a text as it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec, TryAgain
from pyinfrakit.schema.encodings import strip
from pyinfrakit.schema.redactor import MAX_SOURCE, Redactor, redact_error
from support.encodings import ENCODINGS

CHARACTERS = st.sampled_from("abcdefghXYZ0189 '\"\\$%&<>+/=-_#@:;!`(){}é€😀")
SECRETS = st.text(CHARACTERS, min_size=4, max_size=30).filter(lambda text: len(strip(text)) >= 4)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=SECRETS)
def test_secrets_are_hidden_in_every_encoding(encoding: str, secret: str) -> None:
    """A secret is hidden however it is encoded, and the text around it stays."""
    encoded = ENCODINGS[encoding](secret)
    redacted = Redactor([secret]).redact(f"[{encoded}] no. 7")
    assert encoded not in redacted
    assert "***" in redacted
    assert redacted.startswith("[")
    assert redacted.endswith("] no. 7")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("swordfish", "***"),
        ("wrong: swordfish4711", "wrong: ***4711"),
        ("+ TOKEN=swor\nd-fish", "+ TOKEN=swor\nd-fish"),
        ("sword\nfish", "***"),
        ("it ends in swordf", "it ends in ***"),
        ("it is cut: swordf… at 500", "it is cut: ***… at 500"),
        ("a sword and a fish", "a *** a fish"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_texts_around_secrets_stay(text: str, expected: str) -> None:
    """A secret is hidden in longer words, over several lines and cut off. Everything else stays."""
    assert expected == Redactor(["swordfish"]).redact(text.replace("and a fish", "fish a fish"))


def test_short_secrets_are_hidden() -> None:
    """A secret is hidden whatever its length."""
    assert "login *** with ***" == Redactor(["a1", "pw42"]).redact("login a1 with pw42")


INIT = """#!/bin/sh
export TOKEN='swordfish-4711'
docker login -p abc1 -u 'the admin' https://ci:s3cr.et%2Fpw@registry.local/v2
echo c2FsbW9uLXRyb3V0Cg== | base64 -d
curl --password=pa:ss@wo/rd=1 10.0.0.1:2377 </etc/hosts
mysql -e "set password = 'it''s me'"
curl -u ci:pw42 https://registry.local/
"""


@pytest.mark.parametrize(
    "text",
    [
        "swordfish-4711",
        "+ export TOKEN=swordfish-4711",
        "abc1",
        "pw42",
        "the admin",
        "s3cr.et%2Fpw",
        "s3cr.et/pw",
        "salmon-trout",
        "pa:ss@wo/rd=1",
        "curl --password=pa:ss@wo/rd=1 10.0.0.1:2377 </etc/hosts",
    ],
)
def test_words_of_scripts_are_hidden(text: str) -> None:
    """Each line of a script is hidden, and each word that may be a password, however the script writes it."""
    redacted = Redactor(scripts=[INIT]).redact(f"no. 7: {text} (7)")
    assert text not in redacted
    assert redacted.startswith("no. 7: ")
    assert redacted.endswith(" (7)")


@pytest.mark.parametrize("text", ["docker: command not found", "10.0.0.1:2377 /etc/hosts", "web-1 failed", "/bin/sh"])
def test_harmless_words_of_scripts_stay(text: str) -> None:
    """Commands, addresses, usual paths and the words that are known anyway stay."""
    assert text == Redactor(scripts=[INIT + "hostname web-1\n"], known=["web-1"]).redact(text)


def test_a_long_secret_is_hidden_where_it_is_cut() -> None:
    """Of a secret that is longer than the text, the part in the text is hidden."""
    secret = "swordfish-4712-" + "A" * 30_000
    assert "+ request='***" == Redactor(scripts=[secret]).redact(f"+ request='{secret}"[:16384])
    assert "… ***" == Redactor(scripts=[secret]).redact(f"… {secret[10_000:20_000]}")


def test_a_text_is_hidden_if_its_secrets_are_too_long() -> None:
    """Beside a script that takes too long to look for, nothing of a text is shown."""
    assert "***" == Redactor(scripts=["join\n" * MAX_SOURCE]).redact("disk 4711 is broken")


def test_many_secrets_with_the_same_beginning_are_hidden() -> None:
    """However many secrets share a piece, each is hidden whole."""
    secrets = [f"swordfish-{number}-{'x' * (number % 7)}" for number in range(1000)]
    redactor = Redactor(secrets)
    for secret in secrets[::97]:
        assert "key *** is wrong" == redactor.redact(f"key {secret} is wrong")


def test_secrets_are_hidden_in_json() -> None:
    """In JSON, secrets are hidden in strings and keys, and as numbers. JSON without them stays byte for byte."""
    live = Raw(b'{"url":"https://u:swordfish@h/", "swordfish":1,"a":["4711", 4711, 47110],"b":true}')
    redacted = json.loads(bytes(Redactor(["swordfish", "4711"]).redact_json(live)))
    assert {"url": "https://u:***@h/", "***": 1, "a": ["***", "***", 47110], "b": True} == redacted
    assert live is Redactor(["salmon"]).redact_json(live)


def test_secrets_are_hidden_in_errors() -> None:
    """An error without secrets is the same error. In another one, its text and its attributes are redacted."""
    redact = Redactor(["swordfish"]).redact
    error = TryAgain("busy", after=3)
    assert error is redact_error(error, redact)
    hidden = redact_error(InvalidSpec("Properties.swordfish", "got swordfish"), redact)
    assert isinstance(hidden, InvalidSpec)
    assert ("Properties.***", "got ***", "Properties.***: got ***") == (hidden.field, hidden.problem, str(hidden))
