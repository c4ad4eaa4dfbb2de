"""Sub-types share one daemon and one state file, but each is a plugin independent of the others."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit.errors import CannotStart, StoreFailed, UnknownInstance
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.rpc.operator.types import StatusResult
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.records import Drop, Note, Put
from support.faulty_disk import Fault, FaultyDisk
from support.harness import PROGRAMS, Daemon, command, eventually, replace_underscores

SUB_TYPES = ("compute", "storage")
PROGRAM = (sys.executable, str(PROGRAMS / "sub_types.py"), "simulator")

Run = Callable[..., Daemon]


def run_sub_types(run: Run, *sub_types: str) -> Daemon:
    """Run a daemon with sub-types, by default `SUB_TYPES`."""
    return run(program=(*PROGRAM, ",".join(sub_types or SUB_TYPES)))


@contextmanager
def remote(daemon: Daemon, sub_type: str) -> Iterator[OperatorClient]:
    with daemon.client() as client:
        yield OperatorClient(client, sub_type)


def provision(daemon: Daemon, sub_type: str, *, logical: str | None = None, **tags: str) -> str:
    with remote(daemon, sub_type) as plugin:
        return plugin.provision(types.SpecParams(Tags=replace_underscores(tags), LogicalID=logical))


def describe(daemon: Daemon, sub_type: str) -> list[str]:
    with remote(daemon, sub_type) as plugin:
        return [each.ID for each in plugin.describe({})]


def read_status(daemon: Daemon, sub_type: str) -> StatusResult:
    with remote(daemon, sub_type) as plugin:
        return plugin.status()


def wait_for_observations(daemon: Daemon) -> None:
    """Wait for two more observations of each sub-type. The second one has seen everything that was there before."""
    for sub_type in (*SUB_TYPES, *SUB_TYPES):
        before = read_status(daemon, sub_type).Observed
        eventually(partial(has_changed, daemon, sub_type, before), f"{sub_type} is observed")


def has_changed(daemon: Daemon, sub_type: str, observed: float | None) -> bool:
    return read_status(daemon, sub_type).Observed != observed


def group_by_sub_type(daemon: Daemon) -> dict[str, set[str]]:
    """Return the IDs in the state file and its journal by their recorded sub-type."""
    found: dict[str, set[str]] = {}
    for each in (*daemon.saved()["Instances"], *daemon.saved()["NonFunctional"]):
        found.setdefault(each.get("Type", ""), set()).add(each["ID"])
    return found


def read_files(daemon: Daemon) -> dict[Path, bytes]:
    """Return the state file and its journals."""
    found = daemon.state.parent.glob(f"{daemon.state.name}*")
    return {path: path.read_bytes() for path in found if path.suffix != ".lock"}


# --- On the wire


def test_handshakes_name_the_sub_types(run: Run) -> None:
    """`Handshake.Types` and `Handshake.Hello` list the sub-types in place of the default object."""
    daemon = run_sub_types(run)
    names = daemon.call("Handshake.Types")["Types"]
    assert {("compute", "storage")} == {tuple(each) for each in names.values()}
    for objects in daemon.call("Handshake.Hello")["Objects"].values():
        assert [{"Name": "compute", "ProxyFor": ""}, {"Name": "storage", "ProxyFor": ""}] == objects


OPERATOR = ("Records", "SetAside", "Restore", "Confirm", "Status", "Orphans", "Adopt", "AdoptOrphans", "DestroyOrphans")
CALLS = [
    *(f"Instance.{name}" for name in ("Validate", "Provision", "Label", "Destroy", "DescribeInstances")),
    *(f"Operator.{name}" for name in OPERATOR),
]


def test_a_call_without_a_known_sub_type_is_an_error(run: Run) -> None:
    """An unknown sub-type causes InfraKit's own error, and a missing one causes an error that lists the sub-types."""
    daemon = run_sub_types(run)
    id = provision(daemon, "compute")
    for method in CALLS:
        with pytest.raises(RemoteError, match=r"^no-plugin:disk$"):
            daemon.call(method, Type="disk", Instance=id)
        for none in (None, "", "."):
            with pytest.raises(RemoteError, match=r"^no-plugin: use NAME/compute or NAME/storage$"):
                daemon.call(method, Type=none, Instance=id)
    assert [id] == describe(daemon, "compute")


def test_the_api_document_is_of_the_first_sub_type(run: Run) -> None:
    """The requests in `/info/api.json` name the first sub-type, so clients can send them unchanged."""
    daemon = run_sub_types(run)
    _, _, body = daemon.exchange(b"GET /info/api.json HTTP/1.1\r\nHost: h\r\n\r\n")
    requests = [each["Request"] for each in json.loads(body)["Interfaces"][0]["Methods"]]
    assert ["compute"] * len(requests) == [each["params"]["Type"] for each in requests]
    for request in requests:
        if "Instance" not in request["params"]:
            assert json.loads(daemon.post(json.dumps(request))[2]).get("error") is None


def test_commands_name_a_sub_type_after_a_slash(run: Run) -> None:
    """`NAME/SUB-TYPE` selects a sub-type in every command, and `NAME` alone is an error that lists the sub-types."""
    daemon = run_sub_types(run)
    spec = json.dumps({"Properties": {}})
    result = command(daemon.home, "provision", "rack1/storage", "-", input=spec)
    assert (0, "") == (result.returncode, result.stderr)
    assert describe(daemon, "storage") == command(daemon.home, "describe", "rack1/storage", "-q").stdout.split()
    assert [] == command(daemon.home, "describe", "rack1/compute", "-q").stdout.split()
    assert "use NAME/compute or NAME/storage" in command(daemon.home, "describe", "rack1").stderr


# --- Separation


def test_instances_of_one_sub_type_are_unknown_to_the_other(run: Run) -> None:
    """A sub-type describes, labels, destroys, sets aside and counts its own instances only."""
    daemon = run_sub_types(run)
    mine, others = provision(daemon, "compute", tier="web"), provision(daemon, "storage", tier="web")
    assert ([mine], [others]) == tuple(describe(daemon, sub_type) for sub_type in SUB_TYPES)
    with remote(daemon, "compute") as plugin:
        for method in (
            plugin.destroy,
            plugin.restore,
            lambda id: plugin.label(id, {"a": "b"}),
            lambda id: plugin.set_aside(id, ""),
        ):
            with pytest.raises(RemoteError, match=re.escape(str(UnknownInstance(others)))):
                method(others)
        assert [mine] == [each.ID for each in plugin.records({"tier": "web"})]
        plugin.destroy(mine)
    eventually(lambda: sum(read_status(daemon, "compute").States.values()) == 0, "the instance is gone")
    assert {"ready": 1} == {state: count for state, count in read_status(daemon, "storage").States.items() if count}
    assert [others] == describe(daemon, "storage")


def test_sub_types_have_separate_logical_ids(run: Run) -> None:
    """Two sub-types may use the same logical ID in the same group for different instances."""
    daemon = run_sub_types(run)
    ids = {sub_type: provision(daemon, sub_type, logical="10.0.0.1", infrakit_group="g") for sub_type in SUB_TYPES}
    assert ids == {
        sub_type: provision(daemon, sub_type, logical="10.0.0.1", infrakit_group="g") for sub_type in SUB_TYPES
    }
    assert {sub_type: {id} for sub_type, id in ids.items()} == group_by_sub_type(daemon)


def test_machines_of_one_sub_type_are_not_orphans_of_the_other(run: Run) -> None:
    """Each sub-type recognizes its machines by its own mark, even with a shared provider."""
    daemon = run_sub_types(run)
    ids = {sub_type: provision(daemon, sub_type) for sub_type in SUB_TYPES}
    wait_for_observations(daemon)
    assert {"compute": [], "storage": []} == {sub_type: read_status(daemon, sub_type).Orphans for sub_type in SUB_TYPES}
    mark = daemon.saved()["Provider"]["Mark"]
    assert {id: f"{mark}-{sub_type}" for sub_type, id in ids.items()} == {
        id: machine.mark for id, machine in daemon.world.look().machines.items()
    }


def test_an_orphan_belongs_to_the_sub_type_of_its_mark(run: Run) -> None:
    """An orphan can be adopted or destroyed only by the sub-type whose mark it has."""
    daemon = run_sub_types(run)
    id, destroyed = provision(daemon, "storage"), provision(daemon, "storage")
    daemon.stop()
    saved = json.loads(daemon.state.read_bytes())
    daemon.state.write_text(json.dumps({**saved, "Instances": []}))
    assert 0 == command(daemon.home, "fsck", str(daemon.state), "--accept-edit").returncode
    daemon.start()
    wait_for_observations(daemon)
    with pytest.raises(RemoteError):
        daemon.call("Operator.AdoptOrphans", Type="compute", Instances=[id])
    daemon.call("Operator.DestroyOrphans", Type="storage", Instances=[destroyed])
    daemon.call("Operator.AdoptOrphans", Type="storage", Instances=[id])
    eventually(lambda: group_by_sub_type(daemon) == {"storage": {id}}, "one orphan is adopted and the other destroyed")
    daemon.kill()
    daemon.start()
    assert ([], [id]) == tuple(describe(daemon, sub_type) for sub_type in SUB_TYPES)


def test_a_restart_keeps_sub_types_apart(run: Run) -> None:
    """After a kill or a clean stop, each sub-type has its instances in order, and new IDs sort before all earlier ones."""
    daemon = run_sub_types(run)
    for _ in range(3):
        for sub_type in SUB_TYPES:
            provision(daemon, sub_type)
    with remote(daemon, "storage") as plugin:
        plugin.set_aside(describe(daemon, "storage")[1], "must survive a restart")
    before = {sub_type: describe(daemon, sub_type) for sub_type in SUB_TYPES}
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        wait_for_observations(daemon)
        assert before == {sub_type: describe(daemon, sub_type) for sub_type in SUB_TYPES}
        assert {"non-functional": 1, "ready": 2} == {
            k: n for k, n in read_status(daemon, "storage").States.items() if n
        }
    oldest = min(id for ids in group_by_sub_type(daemon).values() for id in ids)
    assert all(provision(daemon, sub_type) < oldest for sub_type in SUB_TYPES)


def test_a_stop_leaves_one_file(run: Run) -> None:
    """A stop waits for the calls of all providers and leaves one file, in which each entry names its sub-type."""
    daemon = run_sub_types(run)
    ids = {sub_type: {provision(daemon, sub_type)} for sub_type in SUB_TYPES}
    assert 0 == daemon.stop()
    assert ids == group_by_sub_type(daemon)
    assert [daemon.state] == list(read_files(daemon))
    for sub_type in SUB_TYPES:
        assert f"{sub_type}: provider Simulator: 0 instances" in daemon.log


def test_a_held_loss_belongs_to_one_sub_type(run: Run) -> None:
    """A sub-type's held losses survive a restart, and another sub-type neither holds nor confirms them."""
    daemon = run_sub_types(run)
    lost = sorted(provision(daemon, "compute") for _ in range(4))
    kept = provision(daemon, "storage")
    wait_for_observations(daemon)
    with daemon.world.change() as scene:
        scene.machines = {kept: scene.machines[kept]}
    eventually(lambda: sorted(read_status(daemon, "compute").Held) == lost, "the losses are held")
    assert {"Watch/compute"} == {key for key in daemon.saved()["Provider"] if key.startswith("Watch")}
    daemon.kill()
    daemon.start()
    wait_for_observations(daemon)
    assert (lost, []) == tuple(sorted(read_status(daemon, sub_type).Held) for sub_type in SUB_TYPES)
    with remote(daemon, "storage") as storage, remote(daemon, "compute") as compute:
        assert [] == list(storage.confirm())
        assert lost == sorted(compute.confirm())
    eventually(lambda: describe(daemon, "compute") == [], "the losses are dropped")
    assert [kept] == describe(daemon, "storage")


def test_fsck_and_export_keep_the_sub_type(run: Run, home: Path) -> None:
    """An export and a repaired copy keep each instance's sub-type."""
    daemon = run_sub_types(run)
    ids = {sub_type: {provision(daemon, sub_type), provision(daemon, sub_type)} for sub_type in SUB_TYPES}
    copy = home / "copy.json"
    assert 0 == command(home, "export", str(daemon.state), "-o", str(copy)).returncode
    daemon.stop()
    copy.write_bytes(copy.read_bytes().replace(b'"Provider":', b'"Provider";', 1))
    assert 0 == command(home, "fsck", str(copy), "--repair").returncode
    daemon.state.write_bytes(copy.read_bytes())
    assert ids == group_by_sub_type(daemon)
    daemon.start()
    assert ids == {sub_type: set(describe(daemon, sub_type)) for sub_type in SUB_TYPES}


# --- The store


def make_record(id: str, sub_type: str, **tags: str) -> Record:
    return Record(id=id, sub_type=sub_type, state=State.READY, spec=Spec(tags=tags))


def format_state(*entries: Any) -> bytes:
    return json.dumps({"Instances": entries, "NonFunctional": [], "Provider": {}}).encode()


@pytest.mark.parametrize(
    ("sub_types", "entry", "message"),
    [
        (
            SUB_TYPES,
            {"ID": "i2", "Type": "disk"},
            "instance i2 is of sub-type 'disk', but this plugin has the sub-types compute, storage",
        ),
        (SUB_TYPES, {"ID": "i2"}, "instance i2 has no sub-type, but this plugin has the sub-types compute, storage"),
        (
            ("",),
            {"ID": "i2", "Type": "compute"},
            "instance i2 is of sub-type 'compute', but this plugin has no sub-types",
        ),
    ],
)
def test_a_record_of_an_unknown_sub_type_stops_the_start(
    tmp_path: Path, sub_types: Sequence[str], entry: dict[str, str], message: str
) -> None:
    """A record of an unknown sub-type stops the start with one line that names it and the known ones; the file stays."""
    path = tmp_path / "state.json"
    before = format_state({"ID": "i1", "Type": sub_types[0]}, entry)
    path.write_bytes(before)
    with pytest.raises(CannotStart, match=re.escape(message)) as caught:
        FileStore(path, "test", sub_types=sub_types)
    assert "\n" not in str(caught.value)
    assert before == path.read_bytes()
    assert [path] == [each for each in tmp_path.iterdir() if each.suffix != ".lock"]


def test_a_journal_of_an_unknown_sub_type_stops_the_start(run: Run) -> None:
    """A journal with a record of an unknown sub-type stops the start, and the file and journal stay."""
    daemon = run_sub_types(run)
    for _ in range(20):
        id = provision(daemon, "storage")
        daemon.kill()
        if len(before := read_files(daemon)) > 1:  # Otherwise the state file took over the journal before the kill.
            break
        daemon.state.unlink()
        daemon.start()
    assert 1 < len(before)
    with pytest.raises(CannotStart, match=rf"instance {id} is of sub-type 'storage'"):
        FileStore(daemon.state, "test", sub_types=["compute"])
    assert before == read_files(daemon)


def test_a_failed_write_undoes_the_changes_of_all_sub_types(tmp_path: Path) -> None:
    """Changes that are written together fail together, each in its own sub-type's records."""
    disk = FaultyDisk()

    async def commit_and_fail() -> None:
        with FileStore(tmp_path / "state.json", "test", sub_types=SUB_TYPES, disk=disk) as store:
            compute, storage = (store.part(sub_type) for sub_type in SUB_TYPES)
            await asyncio.gather(
                compute.commit(Put(make_record("c", "compute"))), storage.commit(Put(make_record("s", "storage")))
            )
            disk.fail = lambda step: Fault()
            failed = await asyncio.gather(
                compute.commit(Put(make_record("c", "compute", changed="1")), Note("n", Raw(b"1"))),
                storage.commit(Drop("s"), Note("n", Raw(b"2"))),
                compute.commit(Put(make_record("c", "compute", changed="2")), Put(make_record("new", "compute"))),
                return_exceptions=True,
            )
            disk.fail = lambda step: None
            assert [StoreFailed] * 3 == [type(each) for each in failed]
            assert ([make_record("c", "compute")], {}) == (list(compute.records), compute.records.notes)
            assert ([make_record("s", "storage")], {}) == (list(storage.records), storage.records.notes)
            await store.flush()

    asyncio.run(commit_and_fail())


def test_a_store_is_the_part_of_its_first_sub_type(tmp_path: Path) -> None:
    """A store is the part of its first sub-type, so a store without sub-types needs no part."""
    with FileStore(tmp_path / "state.json", "test", "m", SUB_TYPES) as store:
        assert ("compute", "m-compute") == (store.sub_type, store.mark)
        assert store is store.part("compute")
        assert ("storage", "m-storage") == (store.part("storage").sub_type, store.part("storage").mark)
    with FileStore(tmp_path / "plain.json", "test", "m") as store:
        assert ("", "m") == (store.sub_type, store.mark)
        assert store is store.part("")
