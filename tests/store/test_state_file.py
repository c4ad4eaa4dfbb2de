"""The state file: its content, its errors, and the safety of acknowledged changes."""

import asyncio
import itertools
import json
import os
import random
import re
import resource
import stat
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.disk import Disk
from pyinfrakit.errors import Damaged, InUse, StoreFailed
from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.rpc.client import Client, RemoteError
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.store.file import FileStore, document, recovery
from pyinfrakit.store.file.store import SOON
from pyinfrakit.store.records import Change, Drop, Put
from support.harness import Daemon, command, eventually

C_DEMO: dict[str, Any] = {
    "Provider": {},
    "Instances": [
        {"ID": "InfraKit-x1", "LogicalID": None, "Tags": {"infrakit.group": "g", "infrakit.config_sha": "abc"}},
        {"ID": "InfraKit-x0", "LogicalID": "10.0.0.1", "Tags": {"infrakit.group": "g"}},
    ],
    "NonFunctional": [{"ID": "InfraKit-broken", "LogicalID": "10.0.0.9", "Tags": {}}],
}
"""A file as the C demo writes it."""

EMPTY: dict[str, Any] = {"Provider": {}, "Instances": [], "NonFunctional": []}

Run = Callable[..., Daemon]


def keep(home: Path, content: Any, name: str = "rack1") -> Path:
    """Write the state file of a daemon in *home*. Return its path."""
    path = home / "state" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def listed(content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the IDs in service and the IDs out of service, as the C demo reads them from a file."""
    service, aside = content["Instances"], content["NonFunctional"]
    return [each["ID"] for each in service], [each["ID"] for each in aside]


def provisions(client: Client, count: int, first: int = 0) -> list[str]:
    """Provision in one batch. Return the IDs in the order of acceptance."""
    calls = [{"jsonrpc": "2.0", "method": "Instance.Provision", "params": {}, "id": first + n} for n in range(count)]
    replies = json.loads(client._exchange("POST", "/", json.dumps(calls).encode()))
    return [each["result"]["ID"] for each in sorted(replies, key=lambda each: int(each["id"]))]


# The C demo's files, and files for the C demo


def test_a_c_demo_file_loads_as_it_is(home: Path, run: Run) -> None:
    """Instances of a C demo file keep their IDs, order, tags and logical IDs; only those in service are described."""
    keep(home, C_DEMO)
    daemon = run(*FAST)
    assert C_DEMO["Instances"] == daemon.call("Instance.DescribeInstances")["Descriptions"]
    aside = daemon.record("InfraKit-broken")
    assert aside is not None
    assert ("non-functional", "10.0.0.9") == (aside.State, aside.LogicalID)


def test_instances_of_a_c_demo_file_can_be_destroyed(home: Path, run: Run) -> None:
    """Instances that the C demo created, in service or not, can be destroyed, and leave the file."""
    keep(home, C_DEMO)
    daemon = run(*FAST)
    for id in ("InfraKit-x1", "InfraKit-broken"):
        daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: listed(daemon.saved()) == (["InfraKit-x0"], []), "both are gone")
    assert ["InfraKit-x0"] == daemon.described()


def test_new_instances_sort_before_those_of_the_c_demo(home: Path, run: Run) -> None:
    """A new instance has a smaller ID than those of the C demo, so InfraKit destroys it first."""
    keep(home, C_DEMO)
    daemon = run(*FAST)
    new = daemon.provision()
    assert ["InfraKit-x1", "InfraKit-x0", new] == daemon.described()
    assert new == min(daemon.described())


def test_the_c_demo_can_read_a_written_file(simulated: Daemon) -> None:
    """Every entry has ID, LogicalID and Tags; described instances are in Instances, the others in NonFunctional."""
    ready = simulated.provision(logical="l", a="1")
    aside = simulated.provision()
    dying = simulated.provision({"destroy_delay": 600})
    with simulated.remote() as plugin:
        plugin.set_aside(aside, "to look at")
        plugin.destroy(dying)
    with simulated.client(timeout=60) as client:
        slow = threading.Thread(target=client.call, args=("Instance.Provision", {"Spec": {"Properties": {"delay": 5}}}))
        slow.start()
        saved = eventually(lambda: len(listed(found := simulated.saved())[0]) == 2 and found, "it is being provisioned")
        slow.join()
    assert {"Provider", "Instances", "NonFunctional"} == set(saved)
    assert ready == saved["Instances"][0]["ID"]
    assert ["ready", "provisioning"] == [each["State"] for each in saved["Instances"]]
    assert {aside: "non-functional", dying: "destroying"} == {e["ID"]: e["State"] for e in saved["NonFunctional"]}
    first = saved["Instances"][0]
    assert {"ID": ready, "LogicalID": "l", "Tags": {"a": "1"}} == {
        key: first[key] for key in ("ID", "LogicalID", "Tags")
    }
    for each in (*saved["Instances"], *saved["NonFunctional"]):
        assert isinstance(each["ID"], str)
        assert each["LogicalID"] is None or isinstance(each["LogicalID"], str)
        assert isinstance(each["Tags"], dict)


def test_unknown_keys_are_kept(home: Path, run: Run) -> None:
    """Keys of other programs stay as they are, at every level, through changes and a restart."""
    odd = {"Deep": [1, {"x": None}], "Big": 12345678901234567890123}
    content = {
        "Comment": odd,
        "Provider": {"Rack": odd},
        "Instances": [{**C_DEMO["Instances"][0], "Serial": odd}],
        "NonFunctional": [{**C_DEMO["NonFunctional"][0], "Serial": odd, "State": "non-functional"}],
        "Ünknown": "é\n",
    }
    keep(home, content)
    for _ in range(2):
        daemon = run(*FAST)
        daemon.provision()
        daemon.call("Instance.Label", Instance="InfraKit-x1", Labels={"new": "1"})
        assert 0 == daemon.stop()
    saved = daemon.saved()
    assert (odd, "é\n", odd) == (saved["Comment"], saved["Ünknown"], saved["Provider"]["Rack"])
    assert (odd, "1") == (saved["Instances"][0]["Serial"], saved["Instances"][0]["Tags"]["new"])
    assert odd == saved["NonFunctional"][0]["Serial"]


@pytest.mark.parametrize(
    ("name", "state", "becomes"),
    [
        ("Instances", None, State.READY),
        ("Instances", "ready", State.READY),
        ("Instances", "provisioning", State.PROVISIONING),
        ("Instances", "non-functional", State.READY),
        ("NonFunctional", None, State.NON_FUNCTIONAL),
        ("NonFunctional", "ready", State.NON_FUNCTIONAL),
        ("NonFunctional", "provisioning", State.NON_FUNCTIONAL),
        ("NonFunctional", "non-functional", State.NON_FUNCTIONAL),
        ("NonFunctional", "destroying", State.DESTROYING),
    ],
)
def test_the_list_counts_more_than_the_state(name: str, state: str | None, becomes: State) -> None:
    """If an entry's list and its State disagree, the list counts, because the C demo moves entries and keeps State."""
    content = {**EMPTY, name: [{"ID": "a", **({"State": state} if state else {})}]}
    (record,) = document.load(json.dumps(content).encode()).records
    assert becomes == record.state


def test_an_entry_that_the_c_demo_moved_back_is_clean() -> None:
    """An entry that the C demo moved back into service is not set aside by hand, and has no reason."""
    entry = {"ID": "a", "State": "non-functional", "ByHand": True, "Reason": "disk", "Since": 5.0}
    (record,) = document.load(json.dumps({**EMPTY, "Instances": [entry]}).encode()).records
    assert (State.READY, False, "") == (record.state, record.by_hand, record.reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
RAW = JSON.map(lambda value: Raw(json.dumps(value).encode()))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NAMES = TEXT.filter(bool)
OURS = {
    "ID",
    "Type",
    "LogicalID",
    "Tags",
    "State",
    "Since",
    "Reason",
    "ByHand",
    "Relabel",
    "Handle",
    "Init",
    "Attachments",
    "Properties",
}


def unknown(*known: str) -> st.SearchStrategy[dict[str, Raw]]:
    return st.dictionaries(TEXT.filter(lambda key: key not in known), RAW, max_size=2)


SPECS = st.builds(
    Spec,
    properties=st.none() | RAW,
    tags=st.dictionaries(TEXT, TEXT, max_size=3),
    init=TEXT,
    logical_id=st.none() | NAMES,
    attachments=st.lists(st.builds(Attachment, TEXT, TEXT), max_size=2).map(tuple),
)
RECORDS = st.builds(
    Record,
    id=NAMES | st.floats(0, 3e10).map(lambda now: ids.mint(ids.NEVER, now)),
    state=st.sampled_from(State),
    spec=SPECS,
    sub_type=st.just("") | TEXT,
    since=st.floats(0, 1e11),
    handle=st.none() | TEXT,
    reason=TEXT,
    by_hand=st.booleans(),
    relabel=st.booleans(),
    unknown=unknown(*OURS),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(RECORDS, max_size=5, unique_by=lambda r: r.id),
    st.floats(0, 3e10).map(lambda now: ids.mint(ids.NEVER, now)),
    NAMES,
    unknown("Mark", "LastID", "Checkpoint"),
    unknown("Provider", "Instances", "NonFunctional"),
)
def test_a_written_file_is_read_unchanged(
    found: list[Record], last: str, mark: str, provider: dict[str, Raw], top: dict[str, Raw]
) -> None:
    """A written file is read unchanged: every record, those in service first, and every unknown key."""
    in_order = [r for r in found if r.state.described] + [r for r in found if not r.state.described]
    content = document.Content(in_order, last, provider, mark, top)
    for written in (document.dump(content), document.dump_stamped(content, "12ab", 7)):
        assert content == document.load(b"".join(written))


# Errors at the start


def refused(home: Path, path: Path, *arguments: str) -> str:
    """Start a daemon that must fail. Return its one line on stderr."""
    done = command(home, "--name", "rack1", "--state", str(path), *arguments)
    assert 0 != done.returncode
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert not (home / "plugins" / "rack1").exists()
    return line


def changed(**keys: Any) -> bytes:
    return json.dumps({**C_DEMO, **keys}).encode()


def entry(**keys: Any) -> bytes:
    """Return a file whose second instance has *keys*."""
    return changed(Instances=[{"ID": "first"}, {"ID": "i", **keys}])


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in C_DEMO.items() if key != name}).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \n\t", "empty", id="blank"),
        pytest.param(bytes(range(256)), "not UTF-8", id="binary"),
        pytest.param(b"\0" * 4096, "not JSON", id="zeros"),
        pytest.param(b"hello", "not JSON", id="text"),
        pytest.param(b"[" * 100_000, "content: ", id="too deep"),
        pytest.param(b'{"a":' * 100_000, "content: ", id="objects too deep"),
        pytest.param(b"[" * 200 + b"]" * 200, "nested more than 128 levels deep", id="whole and too deep"),
        pytest.param(b"[1,", "not JSON", id="torn array"),
        pytest.param(b"[}", "not JSON", id="wrong bracket"),
        pytest.param(b"7 8", "not JSON", id="two numbers"),
        pytest.param(b"[" + b"1" * 5000 + b"]", "expected an object", id="huge number"),
        pytest.param(changed()[:-1], "ends too early", id="torn"),
        pytest.param(changed() + b"x", "not JSON", id="more at the end"),
        pytest.param(changed() * 2, "not JSON", id="two documents"),
        pytest.param(b"[]", "expected an object, got an array", id="array"),
        pytest.param(b"null", "expected an object, got null", id="null"),
        pytest.param(b"7", "expected an object, got 7", id="number"),
        pytest.param(b"{}", "Instances: missing", id="no lists"),
        pytest.param(without("Instances"), "Instances: missing", id="no Instances"),
        pytest.param(without("NonFunctional"), "NonFunctional: missing", id="no NonFunctional"),
        pytest.param(changed(Instances={}), "Instances: expected an array, got an object", id="Instances is an object"),
        pytest.param(changed(Instances=None), "Instances: expected an array, got null", id="Instances is null"),
        pytest.param(
            changed(NonFunctional="x"), 'NonFunctional: expected an array, got "x"', id="NonFunctional is text"
        ),
        pytest.param(changed(Provider=[]), "Provider: expected an object, got an array", id="Provider is an array"),
        pytest.param(
            changed(Provider={"LastID": 7}), "Provider.LastID: expected a string, got 7", id="LastID is a number"
        ),
        pytest.param(
            changed(Provider={"LastID": "x"}),
            'Provider.LastID: expected an ID that was minted here, got "x"',
            id="bad LastID",
        ),
        pytest.param(
            changed(Provider={"Mark": []}), "Provider.Mark: expected a string, got an array", id="Mark is an array"
        ),
        pytest.param(changed(Instances=["i"]), 'Instances[0]: expected an object, got "i"', id="entry is text"),
        pytest.param(
            changed(Instances=[{"ID": "i"}, None]), "Instances[1]: expected an object, got null", id="entry is null"
        ),
        pytest.param(changed(NonFunctional=[{}]), "NonFunctional[0]: missing required field ID", id="no ID"),
        pytest.param(entry(ID=5), "Instances[1].ID: expected a string, got 5", id="ID is a number"),
        pytest.param(entry(ID=""), "Instances[1].ID: expected an ID, got an empty string", id="ID is empty"),
        pytest.param(
            entry(ID="first"), 'Instances[1].ID: "first" is a duplicate of the ID at Instances[0]', id="ID twice"
        ),
        pytest.param(
            changed(NonFunctional=[{"ID": "InfraKit-x0"}]),
            'NonFunctional[0].ID: "InfraKit-x0" is a duplicate of the ID at Instances[1]',
            id="ID in both lists",
        ),
        pytest.param(
            entry(Tags={"ok": "1", "n": 5}), "Instances[1].Tags.n: expected a string, got 5", id="tag is a number"
        ),
        pytest.param(
            entry(Tags={"n": 5}, Strange=1), "Instances[1].Tags.n: expected a string, got 5", id="bad tag, unknown key"
        ),
        pytest.param(entry(Tags=["a"]), "Instances[1].Tags: expected an object", id="Tags is an array"),
        pytest.param(entry(LogicalID={}), "Instances[1].LogicalID: expected a string", id="LogicalID is an object"),
        pytest.param(entry(State="odd"), "Instances[1].State: ", id="unknown State"),
        pytest.param(entry(State=None), "Instances[1].State: expected", id="State is null"),
        pytest.param(entry(Since="now"), 'Instances[1].Since: expected a number, got "now"', id="Since is text"),
        pytest.param(entry(ByHand=1), "Instances[1].ByHand: expected true or false, got 1", id="ByHand is a number"),
        pytest.param(
            entry(Attachments=[{"Type": "x"}]), "Instances[1].Attachments[0]: missing", id="attachment without ID"
        ),
        pytest.param(changed().replace(b"10.0.0.1", b"\xff"), "not UTF-8 at byte", id="invalid UTF-8"),
        pytest.param(changed().replace(b"10.0.0.1", b"\\ud800"), "not JSON", id="half a surrogate"),
        pytest.param(changed().replace(b"10.0.0.1", b"a\\qb"), "not JSON", id="bad escape"),
    ],
)
def test_an_invalid_file_is_refused(home: Path, content: bytes, says: str) -> None:
    """A damaged file is refused with an error that names the file and the place, and is left untouched."""
    path = keep(home, content)
    with pytest.raises(Damaged) as caught:
        FileStore(path, "test")
    assert f"state file {path}: " in str(caught.value)
    assert says in str(caught.value)
    assert content == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "content: empty", id="empty"),
        pytest.param(bytes(range(256)), "content: not UTF-8 at byte 128", id="binary"),
        pytest.param(b"[1,", "content: not JSON", id="torn array"),
        pytest.param(b"[]", "content: expected an object, got an array", id="array"),
        pytest.param(without("NonFunctional"), "NonFunctional: missing", id="no NonFunctional"),
        pytest.param(changed(Instances={}), "Instances: expected an array", id="Instances is an object"),
        pytest.param(changed(Instances=["a\n\nb"]), "Instances[0]: expected an object", id="entry is text in lines"),
        pytest.param(entry(Tags={"n": 5}), "Instances[1].Tags.n: expected a string, got 5", id="tag is a number"),
        pytest.param(entry(Tags={"a\nb": 5}), "Instances[1].Tags.a", id="key in lines"),
        pytest.param(entry(ID="first"), 'Instances[1].ID: "first" is a duplicate', id="ID twice"),
        pytest.param(changed(Provider={"LastID": "x"}), "Provider.LastID: expected", id="bad LastID"),
    ],
)
def test_an_invalid_file_stops_the_start(home: Path, content: bytes, says: str) -> None:
    """A damaged file stops the start with one line that names the file and the place, and is left untouched."""
    path = keep(home, content)
    assert says in refused(home, path)
    assert content == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


def test_an_unknown_state_is_refused_with_the_known_ones(home: Path) -> None:
    """The error for an unknown State lists the known ones."""
    line = refused(home, keep(home, entry(State="odd")))
    for state in State:
        assert state in line


REAL = b"".join(
    document.dump_stamped(
        document.Content(
            [
                Record(
                    id="0ucv-1",
                    state=State.READY,
                    spec=Spec(tags={"a": "é"}, properties=Raw(b'{"x":[1,{}]}')),
                    since=1.5,
                ),
                Record(
                    id="0ucv-2",
                    state=State.DESTROYING,
                    spec=Spec(logical_id="l", init="a\nb"),
                    unknown={"k": Raw(b"{}")},
                ),
            ],
            notes={"more": Raw(b"[]")},
            mark="mark",
            unknown={"top": Raw(b'"x"')},
        ),
        "0123456789abcdef",
        12,
    )
)


def test_no_torn_file_is_taken_for_whole() -> None:
    """A file that was cut off at any byte is not taken for a whole one."""
    for cut in range(len(REAL.rstrip())):
        with pytest.raises((NotJSON, WrongShape)):
            document.load(REAL[:cut])


@pytest.mark.parametrize("cut", range(0, len(REAL.rstrip()), len(REAL) // 2))
def test_a_torn_file_stops_the_start(home: Path, cut: int) -> None:
    """A file that was cut off stops the start and is left untouched."""
    path = keep(home, REAL[:cut])
    refused(home, path)
    assert REAL[:cut] == path.read_bytes()


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_that_may_not_be_written_is_refused(home: Path, mode: int) -> None:
    """A read-only file stops the start, even of a daemon that runs as root, and is left untouched."""
    path = keep(home, C_DEMO)
    path.chmod(mode)
    assert f"read-only (mode {mode:04o})" in refused(home, path)
    assert mode == stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    assert C_DEMO == json.loads(path.read_bytes())


def test_a_path_to_no_regular_file_is_refused(home: Path) -> None:
    """A folder, a FIFO or a device in place of the file stops the start at once."""
    home.mkdir()
    os.mkfifo(home / "fifo")
    for path in (home, home / "fifo", Path("/dev/null")):
        assert "not a regular file" in refused(home, path)
    assert stat.S_ISFIFO((home / "fifo").stat().st_mode)


def test_a_path_that_leads_nowhere_is_refused(home: Path) -> None:
    """A missing parent, a parent that is a file, a loop of links, or a name that is too long stops the start."""
    path = keep(home, C_DEMO)
    assert f"the folder {home / 'nope'} does not exist" in refused(home, home / "nope" / "x.json")
    refused(home, path / "x.json")
    (home / "loop").symlink_to("loop")
    refused(home, home / "loop")
    refused(home, home / ("x" * 300))
    refused(home, home / ("x" * 254))
    assert {"state", "loop"} == {each.name for each in home.iterdir()} - {"plugins", "events"}


def test_one_daemon_a_file(daemon: Daemon) -> None:
    """A second daemon on the same file, even through a link, fails with an error that names the first."""
    link = daemon.home / "link.json"
    link.symlink_to(daemon.state)
    for path in (daemon.state, link):
        done = command(daemon.home, "--name", "other", "--state", str(path))
        assert 0 != done.returncode
        (line,) = done.stderr.splitlines()
        assert f"state file {path} is in use by plugin rack1 (process {daemon.pid})" in line


# The file itself


def test_a_link_stays_a_link(home: Path, run: Run) -> None:
    """If the state file is a link, its target is replaced and the link stays."""
    target = keep(home, C_DEMO, "real")
    link = home / "link.json"
    link.symlink_to(Path("state") / "real.json")
    daemon = run(*FAST, "--state", str(link))
    new = daemon.provision()
    daemon.stop()
    assert link.is_symlink()
    assert target == link.resolve()
    assert ["InfraKit-x1", "InfraKit-x0", new] == listed(json.loads(target.read_bytes()))[0]
    assert [target] == list(target.parent.iterdir())


def test_a_dangling_link_creates_its_target(home: Path, run: Run) -> None:
    """If the state file is a link to a missing file, the start creates that file."""
    (home / "elsewhere").mkdir(parents=True)
    link = home / "link.json"
    link.symlink_to(home / "elsewhere" / "new.json")
    daemon = run(*FAST, "--state", str(link))
    id = daemon.provision()
    daemon.stop()
    assert link.is_symlink()
    assert [id] == listed(json.loads((home / "elsewhere" / "new.json").read_bytes()))[0]


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_the_file_is_for_its_owner_alone(home: Path, run: Run, mode: int) -> None:
    """The state file's mode becomes 0600 at the start and stays so after changes."""
    path = keep(home, EMPTY)
    path.chmod(mode)
    daemon = run(*FAST)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    daemon.provision()
    modes = set()
    for each in path.parent.iterdir():
        with suppress(FileNotFoundError):  # the journal goes as soon as the file has all of it
            modes.add(stat.S_IMODE(each.stat().st_mode))
    assert {0o600} == modes


def test_a_stop_leaves_one_file(daemon: Daemon) -> None:
    """After a clean stop the state file is alone in its folder."""
    daemon.provision()
    assert 0 == daemon.stop()
    assert [daemon.state] == list(daemon.state.parent.iterdir())


def test_a_restart_changes_nothing(daemon: Daemon) -> None:
    """A stop and a start leave the file's content unchanged, including the mark and the last ID."""
    daemon.provision({"x": [1]}, logical="l", a="1")
    daemon.stop()
    before = daemon.state.read_bytes()
    daemon.start()
    assert before == daemon.state.read_bytes()
    assert re.fullmatch("[0-9a-f]{16}", daemon.saved()["Provider"]["Mark"])


def test_the_mark_can_be_set(home: Path, run: Run) -> None:
    """`--mark` replaces the file's mark for good."""
    keep(home, {**EMPTY, "Provider": {"Mark": "old"}})
    daemon = run("--mark", "mine", *FAST)
    daemon.stop()
    assert "mine" == daemon.saved()["Provider"]["Mark"]


# Acknowledged changes


def test_concurrent_provisions_are_all_kept(daemon: Daemon) -> None:
    """200 concurrent provisions get 200 IDs; all are described, and all are in the file after a stop."""
    with ThreadPoolExecutor(40) as pool:
        made = list(pool.map(lambda _: daemon.provision(), range(200)))
    assert 200 == len(set(made))
    assert sorted(made) == sorted(daemon.described())
    assert 0 == daemon.stop()
    assert sorted(made) == sorted(listed(daemon.saved())[0])


def test_ids_descend_over_10000_provisions(daemon: Daemon) -> None:
    """Each of 10,000 IDs sorts before all earlier ones, even after a restart."""
    made: list[str] = []
    for part in range(2):
        if part:
            daemon.stop()
            daemon.start()
        with daemon.client(timeout=60) as client:
            for _ in range(50):
                made += provisions(client, 100, len(made))
    assert 10_000 == len(made)
    assert sorted(set(made), reverse=True) == made
    assert made == daemon.described()


def test_ids_descend_when_the_clock_steps_back(home: Path, run: Run) -> None:
    """If the clock steps back behind the last ID's time, new IDs still sort before it, even after restarts."""
    last = ids.mint(ids.NEVER, 2**33)
    keep(home, {**EMPTY, "Provider": {"LastID": last}})
    made = [last]
    for _ in range(2):
        daemon = run(*FAST)
        with daemon.client() as client:
            made += provisions(client, 20)
        daemon.kill()
    assert sorted(set(made), reverse=True) == made
    assert made[-1] == daemon.saved()["Provider"]["LastID"]


def test_ids_are_not_used_again_after_a_destroy(daemon: Daemon) -> None:
    """The last ID is stored after its instance is gone, and a restart continues from it."""
    gone = daemon.provision()
    daemon.call("Instance.Destroy", Instance=gone)
    eventually(lambda: daemon.record(gone) is None, "it is gone")
    daemon.stop()
    assert gone == daemon.saved()["Provider"]["LastID"]
    daemon.start()
    assert daemon.provision() < gone


class Model:
    """The state that a daemon acknowledged and must have after any crash: tags by ID, and the IDs set aside."""

    def __init__(self, daemon: Daemon, dice: random.Random) -> None:
        self.daemon = daemon
        self.dice = dice
        self.tags: dict[str, dict[str, str]] = {}
        self.aside: set[str] = set()

    def act(self) -> None:
        """Make one random call and wait for its acknowledgement only."""
        calls = [self.provision]
        if self.tags.keys() - self.aside:
            calls += [self.label, self.destroy, self.set_aside]
        if self.aside:
            calls += [self.restore]
        self.dice.choice(calls)()

    def any_of(self, ids: set[str]) -> str:
        return self.dice.choice(sorted(ids))

    def provision(self) -> None:
        tags = {"n": str(self.dice.randrange(100))}
        self.tags[self.daemon.provision(**tags)] = tags

    def label(self) -> None:
        id, tags = self.any_of(set(self.tags)), {self.dice.choice("nm"): str(self.dice.randrange(100))}
        self.daemon.call("Instance.Label", Instance=id, Labels=tags)
        self.tags[id] = {**self.tags[id], **tags}

    def destroy(self) -> None:
        id = self.any_of(set(self.tags))
        self.daemon.call("Instance.Destroy", Instance=id)
        del self.tags[id]
        self.aside.discard(id)

    def set_aside(self) -> None:
        id = self.any_of(self.tags.keys() - self.aside)
        self.daemon.call("Operator.SetAside", Instance=id, Reason="dice")
        self.aside.add(id)

    def restore(self) -> None:
        id = self.any_of(self.aside)
        self.daemon.call("Operator.Restore", Instance=id)
        self.aside.remove(id)

    def check(self) -> None:
        described = {e["ID"]: e["Tags"] for e in self.daemon.call("Instance.DescribeInstances")["Descriptions"]}
        assert {id: tags for id, tags in self.tags.items() if id not in self.aside} == described
        records = {e["ID"]: e for e in self.daemon.call("Operator.Records")["Records"] if e["State"] != "destroying"}
        assert self.tags == {id: each["Tags"] for id, each in records.items()}
        assert self.aside == {id for id, each in records.items() if each["State"] == "non-functional"}


def test_acknowledged_changes_survive_a_kill(daemon: Daemon) -> None:
    """A `kill -9` right after an acknowledged call loses nothing and brings no destroyed instance back."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    model = Model(daemon, random.Random(seed))
    for _ in range(25):
        model.act()
        daemon.kill()
        daemon.start()
        model.check()
    daemon.stop()
    assert model.tags.keys() - model.aside == set(listed(daemon.saved())[0])


def test_an_acknowledged_destroy_resumes_after_a_kill(simulated: Daemon) -> None:
    """An acknowledged destroy is completed after a kill and a restart, without a new call."""
    id = simulated.provision({"destroy_delay": 0.5})
    simulated.call("Instance.Destroy", Instance=id)
    simulated.kill()
    simulated.start()
    assert [] == simulated.described()
    eventually(lambda: simulated.record(id) is None and not simulated.world.look().machines, "it is destroyed")


def test_the_file_is_whole_at_every_instant(daemon: Daemon) -> None:
    """A reader finds a whole document at every instant; with its journal it holds all acknowledged changes."""
    looks: list[bytes] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            data = daemon.state.read_bytes()
            if not looks or data != looks[-1]:
                looks.append(data)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for n in itertools.count():
            id = daemon.provision(n=str(n))
            assert id in listed(daemon.saved())[0]
            if n % 3 == 0:
                daemon.call("Instance.Destroy", Instance=id)
                assert id not in listed(daemon.saved())[0]
            if len(looks) > 10:
                break
        ended.set()
        reading.result()
    for data in looks:
        assert {"Provider", "Instances", "NonFunctional"} == set(json.loads(data))


# Failing disks


def ready(id: str, reason: str = "") -> Record:
    return Record(id=id, state=State.READY, spec=Spec(), reason=reason)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file grow, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def missing_folder(folder: Path) -> Iterator[None]:
    """Move the state file's folder away for a while."""
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(folder)


def on_disk(path: Path) -> list[str]:
    """Return the IDs that a start after a crash would find."""
    return [record.id for record in recovery.assemble(recovery.read(Disk(), path)).content.records]


def in_store(path: Path, story: Callable[[FileStore], Coroutine[Any, Any, None]]) -> None:
    """Run *story* with a store at *path*."""

    async def run() -> None:
        with FileStore(path, "test") as store:
            await asyncio.wait_for(story(store), 30)

    path.parent.mkdir(exist_ok=True)
    asyncio.run(run())


Trouble = Callable[[Path], Any]


@pytest.mark.parametrize("trouble", [full_disk, missing_folder])
def test_a_failed_commit_is_undone(tmp_path: Path, trouble: Trouble) -> None:
    """A commit that can't be written fails with the file's name; memory is restored exactly; later commits work."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        await store.commit(*(Put(ready(id)) for id in "abc"))
        before = list(store.records)
        with trouble(path.parent):
            changes: list[Change] = [
                Put(ready("c", "new"), front=True),
                Put(ready("d")),
                Drop("a"),
                Put(ready("b", "new")),
                Put(ready("a")),
            ]
            failing = store.commit(*changes)
            assert ["c", "b", "d", "a"] == [r.id for r in store.records]
            with pytest.raises(StoreFailed, match=re.escape(str(path))):
                await failing
            assert before == list(store.records)
        assert ["a", "b", "c"] == on_disk(path)
        await store.commit(Put(ready("e"), front=True))
        assert ["e", "a", "b", "c"] == [r.id for r in store.records] == on_disk(path)

    in_store(path, story)


def test_commits_on_top_of_a_failed_commit_fail_too(tmp_path: Path) -> None:
    """Commits during a failing write fail with it, and so does an empty commit that waits for them."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        await store.commit(Put(ready("a")), Put(ready("b")))
        with full_disk(path):
            first = store.commit(Drop("a"))
            await asyncio.sleep(0)  # the write begins
            upon = store.commit(Put(ready("a", "again")), Put(ready("b"), front=True))
            waits = store.commit()
            outcomes = await asyncio.gather(first, upon, waits, return_exceptions=True)
        assert [StoreFailed] * 3 == [type(each) for each in outcomes]
        assert [ready("a"), ready("b")] == list(store.records)
        await store.commit()
        await store.flush()
        assert ["a", "b"] == on_disk(path)

    in_store(path, story)


def test_flush_fails_on_a_full_disk_after_a_failed_commit(tmp_path: Path) -> None:
    """After a failed commit a flush writes a fresh file; it fails if the disk is still full."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        await store.commit(Put(ready("a")))
        with full_disk(path):
            with pytest.raises(StoreFailed):
                await store.commit(Put(ready("b")))
            with pytest.raises(StoreFailed):
                await store.flush()
        await store.flush()
        assert ["a"] == on_disk(path)

    in_store(path, story)


def test_concurrent_commits_are_all_written(tmp_path: Path) -> None:
    """Concurrent commits are on the disk when they are done, in the order of the calls."""
    path = tmp_path / "s" / "state.json"
    names = [f"i{n}" for n in range(100)]

    async def story(store: FileStore) -> None:
        async def one(id: str) -> None:
            await store.commit(Put(ready(id)))
            assert id in on_disk(path)

        await asyncio.gather(*map(one, names))
        assert names == on_disk(path)

    in_store(path, story)


def test_an_empty_commit_waits_for_the_write_under_way(tmp_path: Path) -> None:
    """An empty commit ends together with the write that is under way."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        with full_disk(path):
            failing = store.commit(Put(ready("c")))
            await asyncio.sleep(0)  # the write begins
            outcomes = await asyncio.gather(store.commit(), failing, return_exceptions=True)
        assert [StoreFailed] * 2 == [type(each) for each in outcomes]

    in_store(path, story)


def test_a_wait_for_a_commit_may_be_cancelled(tmp_path: Path) -> None:
    """A cancelled wait for a commit does not stop the commit."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        store.commit(Put(ready("a"))).cancel()
        await store.commit()
        assert ["a"] == on_disk(path)

    in_store(path, story)


def test_a_record_that_can_not_be_encoded_stops_nothing_else(tmp_path: Path) -> None:
    """A record with text that is not Unicode, as in some file names, fails without blocking later commits."""
    path = tmp_path / "s" / "state.json"

    async def story(store: FileStore) -> None:
        async def odd() -> None:
            await store.commit(Put(ready("a", os.fsdecode(b"no file \xff"))))

        await asyncio.wait_for(asyncio.gather(odd(), return_exceptions=True), 5)
        await asyncio.wait_for(store.commit(Put(ready("b"))), 5)
        assert "b" in on_disk(path)

    in_store(path, story)


def test_a_store_serves_one_event_loop_after_another(tmp_path: Path) -> None:
    """A store works on each event loop in turn, also if the last one ended in the middle of a write or a checkpoint."""
    path = tmp_path / "state.json"

    async def abandon(id: str, pause: float) -> None:
        store.commit(Put(ready(id)))
        store.commit(Put(ready(f"{id}-later")), urgent=False)
        await asyncio.sleep(pause)

    async def commit(id: str) -> None:
        await asyncio.wait_for(store.commit(Put(ready(id))), 30)
        assert id in on_disk(path)

    with FileStore(path, "test") as store:
        for round, pause in enumerate((0, 0.001, 0.01, SOON, 0)):
            asyncio.run(abandon(f"abandoned-{round}", pause))
            if round != 3:  # twice in a row nothing is waited for
                asyncio.run(commit(f"kept-{round}"))
        asyncio.run(store.flush())
        assert [path, path.with_name("state.json.lock")] == sorted(tmp_path.iterdir())
        assert [each.id for each in store.records] == on_disk(path)
        assert 14 == len(store.records)


def test_a_failed_checkpoint_is_retried_soon(tmp_path: Path) -> None:
    """After a checkpoint that fails halfway, the next one comes within seconds, and the journal goes."""
    path = tmp_path / "s" / "state.json"
    failures = [OSError("a test"), None]

    class Flaky(Disk):
        def write(self, path: Path, pieces: Iterable[bytes]) -> None:
            if not failures or (failure := failures.pop()) is None:  # the first is the store's start
                super().write(path, pieces)
                return
            next(iter(pieces))
            raise failure

    async def story(store: FileStore) -> None:
        await store.commit(Put(ready("a")))
        while [*path.parent.glob("*.journal-*")]:
            await asyncio.sleep(0.01)

    path.parent.mkdir()
    with FileStore(path, "test", disk=Flaky()) as store:
        asyncio.run(asyncio.wait_for(story(store), 20))
    assert not failures


def test_one_store_a_file(tmp_path: Path) -> None:
    """A second store on an open file is refused, by any path, until the first store is closed."""
    path = tmp_path / "s" / "state.json"
    (tmp_path / "link").symlink_to(path)

    async def story(store: FileStore) -> None:
        for other in (path, tmp_path / "link"):
            with pytest.raises(InUse, match="test"):
                FileStore(other, "other")

    for _ in range(2):
        in_store(path, story)


def test_a_full_disk_fails_calls_until_there_is_space(daemon: Daemon) -> None:
    """On a full disk, changing calls fail with the file's name and describe still answers; with space, all calls work."""
    kept = daemon.provision(a="1")
    eventually(
        lambda: b'"ready"' in daemon.state.read_bytes() and not [*daemon.state.parent.glob("*.journal-*")],
        "all is in it",
    )
    before = daemon.state.read_bytes()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Instance.Provision", {"Spec": {"Tags": {"a": "2"}}}),
        ("Instance.Label", {"Instance": kept, "Labels": {"a": "2"}}),
        ("Instance.Destroy", {"Instance": kept}),
        ("Operator.SetAside", {"Instance": kept, "Reason": "x"}),
    ]
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (len(before) // 2, resource.RLIM_INFINITY))
    for method, params in calls:
        with pytest.raises(RemoteError, match=re.escape(f"state file {daemon.state} can't be written: ")):
            daemon.call(method, **params)
        assert [{"ID": kept, "LogicalID": None, "Tags": {"a": "1"}}] == daemon.call("Instance.DescribeInstances")[
            "Descriptions"
        ]
        assert before == daemon.state.read_bytes()
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    new = daemon.provision()
    assert [kept, new] == daemon.described()
    assert 0 == daemon.stop()
    assert ([kept, new], []) == listed(daemon.saved())
