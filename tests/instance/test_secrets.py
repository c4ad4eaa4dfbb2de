"""No exit of the daemon shows a secret that a provider tells: no log, reply, description or event."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyinfrakit.instance.redaction import Redaction
from pyinfrakit.providers.file import File
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.schema.encodings import strip
from pyinfrakit.store.records import Records
from support.encodings import ENCODINGS
from support.harness import PROGRAMS, Daemon, eventually

WAYS = (
    "refuse",
    "raise",
    "give up",
    "return nonsense",
    "handle",
    "log",
    "thread",
    "live",
    "broken",
    "can't observe",
    "can't destroy",
)

CHARACTERS = st.sampled_from("abcdefghXYZ0189 '\"\\$%&<>+/=-_#@:;!(){}é€")
SECRETS = st.text(CHARACTERS, min_size=8, max_size=30).filter(
    lambda text: len(set(strip(text))) >= 6 and text == text.strip() and "***" not in text
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a provider that tells secrets."""
    home = tmp_path_factory.mktemp("leaking")
    (home / "state").mkdir()
    (home / "state" / "way").write_text("live")
    (home / "state" / "leak").write_text("")
    arguments = ("--provider", f"{PROGRAMS / 'leaking.py'}:Leaking", "--sync-interval", "0.05", "--log", "5")
    with Daemon(home, *arguments, "--missing-after", "10000") as daemon:
        yield daemon


def find_texts(value: Any) -> Iterator[str]:
    """Yield all strings in JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from find_texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_texts(each)


def leak(daemon: Daemon, way: str, text: str, spec: dict[str, Any]) -> list[str]:
    """Have the provider show *text* about an instance. Return all texts that the daemon showed meanwhile."""
    folder, start = daemon.state.parent, len(daemon.log)
    (folder / "leak").write_text(text)
    (folder / "way").write_text(way)
    shown: list[str] = []
    id, begin = "", time.time()
    try:
        id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    except RemoteError as error:
        shown.append(str(error))
    if way == "thread":
        eventually(lambda: " ended | " in daemon.log[start:], "the thread has ended")
    if way in ("broken", "can't observe"):
        eventually(lambda: "non-functional" in str(read(daemon)) or daemon.call("Operator.Status").get("Trouble"))
    shown += find_texts(read(daemon))
    if id:
        with suppress(RemoteError):
            daemon.call("Instance.Destroy", Instance=id)
        if way == "can't destroy":
            eventually(lambda: "work on" in daemon.log[start:], "the destroy failed")
        shown += find_texts(read(daemon))
    (folder / "way").write_text("live")
    eventually(lambda: not daemon.call("Operator.Records")["Records"], "the instance is gone")
    events = daemon.call("Operator.Events", Since=begin)
    return [*shown, *find_texts(events), *daemon.log[start:].splitlines()]


def read(daemon: Daemon) -> Any:
    return [
        daemon.call("Operator.Records"),
        daemon.call("Instance.DescribeInstances", Properties=True),
        daemon.call("Operator.Status"),
        daemon.call("Operator.Orphans"),
    ]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(secret=SECRETS, encoding=st.sampled_from(sorted(ENCODINGS)))
def test_no_exit_shows_a_secret_property(daemon: Daemon, way: str, secret: str, encoding: str) -> None:
    """A secret property is shown nowhere, in no encoding, whatever the provider does."""
    text = ENCODINGS[encoding](secret)
    shown = leak(daemon, way, text, {"Properties": {"password": secret}})
    assert [] == [
        each for each in shown if secret in each or text in each or text.encode("unicode_escape").decode() in each
    ]


@pytest.mark.parametrize("way", WAYS[1:])  # `validate` does not get Init
@pytest.mark.parametrize(
    "encoding", ["as it is", "quoted by a shell", "in a URL", "in basic authentication", "as JSON"]
)
def test_no_exit_shows_a_word_of_init(daemon: Daemon, way: str, encoding: str) -> None:
    """A password in `Init` is shown nowhere, in no encoding, whatever the provider does."""
    secret = "swordfish:4711"
    text = ENCODINGS[encoding](secret)
    init = f"#!/bin/sh\ndocker login --password '{secret}' registry.local\n"
    shown = leak(daemon, way, text, {"Properties": {"password": "x4711x"}, "Init": init})
    assert [] == [each for each in shown if "swordfish" in each or text in each]


def test_errors_about_all_instances_hide_the_secrets_of_each(tmp_path: Path) -> None:
    """What a provider says about no instance in particular hides the secrets of all, however many there are."""
    scripts = {str(number): f"join --token swordfish-{number}" for number in range(1500)}
    records = [Record(id=id, state=State.READY, spec=Spec(init=init)) for id, init in scripts.items()]
    for some in (records[:500], records):
        redaction = Redaction(File("rack1", tmp_path), Records(some))
        assert "rack 7: *** and *** are wrong" == redaction.redact_all(
            "rack 7: swordfish-7 and swordfish-432 are wrong"
        )


def test_an_error_does_not_quote_init(daemon: Daemon) -> None:
    """An error about a spec of the wrong form quotes neither `Init` nor what may contain it."""
    for spec in ({"Init": 4711471147}, {"Init": ["4711471147"]}, "4711471147", json.dumps({"Init": "4711471147"})):
        with pytest.raises(RemoteError) as error:
            daemon.call("Instance.Provision", Spec=spec)
        assert "4711471147" not in str(error.value)
    assert "4711471147" not in daemon.log


def test_nobody_forges_a_line_of_the_log(daemon: Daemon) -> None:
    """Each line of the log begins with its time, whatever a client, a machine or a provider says."""
    id = daemon.call("Instance.Provision", Spec={"Properties": {"password": "x4711x"}})["ID"]
    hostile = "x\n2026-11-25 00:00:00,000 CRITICAL forged\r\x1b[2J\x85\u2028\u202e\x9b1m"
    daemon.call("Operator.SetAside", Instance=id, Reason=hostile)
    daemon.call("Instance.Destroy", Instance=id)
    for way in ("log", "raise", "can't observe"):
        leak(daemon, way, hostile, {"Properties": {"password": "x4711x"}})
    assert all(line.isprintable() and line.startswith("20") for line in daemon.log.split("\n")[:-1])
    assert not any(line.split()[2:4] == ["CRITICAL", "forged"] for line in daemon.log.splitlines())


def test_nobody_floods_the_log(daemon: Daemon) -> None:
    """A call that fails again and again, with a long text, adds little to the log."""
    start = len(daemon.log)
    with daemon.client() as client:
        for _ in range(500):
            with pytest.raises(RemoteError):
                client.call("Instance.Destroy", {"Instance": "x" * 100_000})
    assert len(daemon.log) - start < 1_000_000
    assert "the last line like this one for a minute" in daemon.log[start:]
