"""Sub-types: one daemon and one state file, and for each sub-type a plugin that knows nothing of the others."""

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
from support.harness import PROGRAMS, Daemon, command, dotted, eventually

TYPES = ("compute", "storage")
PROGRAM = (sys.executable, str(PROGRAMS / "typed.py"), "simulator")

Run = Callable[..., Daemon]


def typed(run: Run, *types: str) -> Daemon:
    return run(program=(*PROGRAM, ",".join(types or TYPES)))


@contextmanager
def remote(daemon: Daemon, type: str) -> Iterator[OperatorClient]:
    with daemon.client() as client:
        yield OperatorClient(client, type)


def provision(daemon: Daemon, type: str, *, logical: str | None = None, **tags: str) -> str:
    with remote(daemon, type) as plugin:
        return plugin.provision(types.SpecParams(Tags=dotted(tags), LogicalID=logical))


def described(daemon: Daemon, type: str) -> list[str]:
    with remote(daemon, type) as plugin:
        return [each.ID for each in plugin.describe({})]


def status(daemon: Daemon, type: str) -> StatusResult:
    with remote(daemon, type) as plugin:
        return plugin.status()


def observed_again(daemon: Daemon) -> None:
    """Wait until each has been observed twice more: what is there now was seen by then."""
    for type in (*TYPES, *TYPES):
        before = status(daemon, type).Observed
        eventually(partial(has_changed, daemon, type, before), f"{type} is observed")


def has_changed(daemon: Daemon, type: str, observed: float | None) -> bool:
    return status(daemon, type).Observed != observed


def by_type(daemon: Daemon) -> dict[str, set[str]]:
    """Give the IDs in the state file and its journal, by the sub-type that stands there."""
    found: dict[str, set[str]] = {}
    for each in (*daemon.saved()["Instances"], *daemon.saved()["NonFunctional"]):
        found.setdefault(each.get("Type", ""), set()).add(each["ID"])
    return found


def files(daemon: Daemon) -> dict[Path, bytes]:
    """Give the state file and its journals."""
    found = daemon.state.parent.glob(f"{daemon.state.name}*")
    return {path: path.read_bytes() for path in found if path.suffix != ".lock"}


# --- On the wire


def test_handshakes_name_the_sub_types(run: Run) -> None:
    """`Handshake.Types` and `Handshake.Hello` list the sub-types in place of the default object."""
    daemon = typed(run)
    types = daemon.call("Handshake.Types")["Types"]
    assert {("compute", "storage")} == {tuple(names) for names in types.values()}
    for objects in daemon.call("Handshake.Hello")["Objects"].values():
        assert [{"Name": "compute", "ProxyFor": ""}, {"Name": "storage", "ProxyFor": ""}] == objects


OPERATOR = ("Records", "SetAside", "Restore", "Confirm", "Status", "Orphans", "Adopt", "AdoptOrphans", "DestroyOrphans")
CALLS = [
    *(f"Instance.{name}" for name in ("Validate", "Provision", "Label", "Destroy", "DescribeInstances")),
    *(f"Operator.{name}" for name in OPERATOR),
]


def test_a_call_of_no_known_sub_type_is_an_error(run: Run) -> None:
    """An unknown sub-type is named in InfraKit's words; where none is given the error says what there are."""
    daemon = typed(run)
    id = provision(daemon, "compute")
    for method in CALLS:
        with pytest.raises(RemoteError, match=r"^no-plugin:disk$"):
            daemon.call(method, Type="disk", Instance=id)
        for none in (None, "", "."):
            with pytest.raises(RemoteError, match=r"^no-plugin: say NAME/compute or NAME/storage$"):
                daemon.call(method, Type=none, Instance=id)
    assert [id] == described(daemon, "compute")


def test_the_api_document_is_of_the_first_sub_type(run: Run) -> None:
    """The requests in `/info/api.json` name the first sub-type, so that they can be sent as they stand there."""
    daemon = typed(run)
    _, _, body = daemon.exchange(b"GET /info/api.json HTTP/1.1\r\nHost: h\r\n\r\n")
    requests = [each["Request"] for each in json.loads(body)["Interfaces"][0]["Methods"]]
    assert ["compute"] * len(requests) == [each["params"]["Type"] for each in requests]
    for request in requests:
        if "Instance" not in request["params"]:
            assert json.loads(daemon.post(json.dumps(request))[2]).get("error") is None


def test_our_command_line_names_a_sub_type_by_a_slash(run: Run) -> None:
    """`NAME/TYPE` is one sub-type to every command; `NAME` alone is an error that names them."""
    daemon = typed(run)
    spec = json.dumps({"Properties": {}})
    made = command(daemon.home, "provision", "rack1/storage", "-", input=spec)
    assert (0, "") == (made.returncode, made.stderr)
    assert described(daemon, "storage") == command(daemon.home, "describe", "rack1/storage", "-q").stdout.split()
    assert [] == command(daemon.home, "describe", "rack1/compute", "-q").stdout.split()
    assert "say NAME/compute or NAME/storage" in command(daemon.home, "describe", "rack1").stderr


# --- Each for itself


def test_instances_of_one_sub_type_are_unknown_to_the_other(run: Run) -> None:
    """What is described, labelled, destroyed, set aside and counted is the sub-type's own."""
    daemon = typed(run)
    mine, others = provision(daemon, "compute", tier="web"), provision(daemon, "storage", tier="web")
    assert ([mine], [others]) == tuple(described(daemon, type) for type in TYPES)
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
    eventually(lambda: sum(status(daemon, "compute").States.values()) == 0, "the instance is gone")
    assert {"ready": 1} == {state: count for state, count in status(daemon, "storage").States.items() if count}
    assert [others] == described(daemon, "storage")


def test_a_logical_id_is_one_sub_types_own(run: Run) -> None:
    """Both may have the same logical ID in the same group: it is the identity of two things."""
    daemon = typed(run)
    ids = {type: provision(daemon, type, logical="10.0.0.1", infrakit_group="g") for type in TYPES}
    assert ids == {type: provision(daemon, type, logical="10.0.0.1", infrakit_group="g") for type in TYPES}
    assert {type: {id} for type, id in ids.items()} == by_type(daemon)


def test_machines_of_one_sub_type_are_not_orphans_of_the_other(run: Run) -> None:
    """With the same provider each tells its machines by a mark of its own."""
    daemon = typed(run)
    ids = {type: provision(daemon, type) for type in TYPES}
    observed_again(daemon)
    assert {"compute": [], "storage": []} == {type: status(daemon, type).Orphans for type in TYPES}
    mark = daemon.saved()["Provider"]["Mark"]
    assert {id: f"{mark}-{type}" for type, id in ids.items()} == {
        id: machine.mark for id, machine in daemon.world.look().machines.items()
    }


def test_adopted_machines_are_of_the_sub_type_that_adopted_them(run: Run) -> None:
    """A record of an orphan, whether adopted or to be destroyed, is of the sub-type whose mark the machine has."""
    daemon = typed(run)
    id, destroyed = provision(daemon, "storage"), provision(daemon, "storage")
    daemon.stop()
    saved = json.loads(daemon.state.read_bytes())
    daemon.state.write_text(json.dumps({**saved, "Instances": []}))
    daemon.start()
    observed_again(daemon)
    with pytest.raises(RemoteError):
        daemon.call("Operator.AdoptOrphans", Type="compute", Instances=[id])
    daemon.call("Operator.DestroyOrphans", Type="storage", Instances=[destroyed])
    daemon.call("Operator.AdoptOrphans", Type="storage", Instances=[id])
    eventually(lambda: by_type(daemon) == {"storage": {id}}, "one is adopted, the other destroyed")
    daemon.kill()
    daemon.start()
    assert ([], [id]) == tuple(described(daemon, type) for type in TYPES)


def test_a_restart_keeps_sub_types_apart(run: Run) -> None:
    """After a kill and after a clean stop each has what it had, in its order; later IDs sort before all that were minted."""
    daemon = typed(run)
    for _ in range(3):
        for type in TYPES:
            provision(daemon, type)
    with remote(daemon, "storage") as plugin:
        plugin.set_aside(described(daemon, "storage")[1], "to be seen after a restart")
    before = {type: described(daemon, type) for type in TYPES}
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        observed_again(daemon)
        assert before == {type: described(daemon, type) for type in TYPES}
        assert {"non-functional": 1, "ready": 2} == {k: n for k, n in status(daemon, "storage").States.items() if n}
    oldest = min(id for ids in by_type(daemon).values() for id in ids)
    assert all(provision(daemon, type) < oldest for type in TYPES)


def test_all_is_in_one_file_after_a_stop(run: Run) -> None:
    """A stop waits for the calls of all providers, and leaves one file, in which each entry names its sub-type."""
    daemon = typed(run)
    ids = {type: {provision(daemon, type)} for type in TYPES}
    assert 0 == daemon.stop()
    assert ids == by_type(daemon)
    assert [daemon.state] == list(files(daemon))
    for type in TYPES:
        assert f"{type}: provider Simulator: 0 instances" in daemon.log


def test_a_held_loss_is_of_one_sub_type(run: Run) -> None:
    """Losses that are held in one sub-type are so after a restart; the other is free of them, and confirms none."""
    daemon = typed(run)
    lost = sorted(provision(daemon, "compute") for _ in range(4))
    kept = provision(daemon, "storage")
    observed_again(daemon)
    with daemon.world.change() as scene:
        scene.machines = {kept: scene.machines[kept]}
    eventually(lambda: sorted(status(daemon, "compute").Held) == lost, "the losses are held")
    assert {"Watch/compute"} == {key for key in daemon.saved()["Provider"] if key.startswith("Watch")}
    daemon.kill()
    daemon.start()
    observed_again(daemon)
    assert (lost, []) == tuple(sorted(status(daemon, type).Held) for type in TYPES)
    with remote(daemon, "storage") as storage, remote(daemon, "compute") as compute:
        assert [] == list(storage.confirm())
        assert lost == sorted(compute.confirm())
    eventually(lambda: described(daemon, "compute") == [], "they are dropped")
    assert [kept] == described(daemon, "storage")


def test_fsck_and_export_keep_the_sub_type(run: Run, home: Path) -> None:
    """An export, and what is saved of a damaged file, say of each instance which sub-type it is of."""
    daemon = typed(run)
    ids = {type: {provision(daemon, type), provision(daemon, type)} for type in TYPES}
    copy = home / "copy.json"
    assert 0 == command(home, "export", str(daemon.state), "-o", str(copy)).returncode
    daemon.stop()
    copy.write_bytes(copy.read_bytes().replace(b'"Provider":', b'"Provider";', 1))
    assert 0 == command(home, "fsck", str(copy), "--repair").returncode
    daemon.state.write_bytes(copy.read_bytes())
    assert ids == by_type(daemon)
    daemon.start()
    assert ids == {type: set(described(daemon, type)) for type in TYPES}


# --- The store


def record(id: str, type: str, **tags: str) -> Record:
    return Record(id=id, sub_type=type, state=State.READY, spec=Spec(tags=tags))


def content(*entries: Any) -> bytes:
    return json.dumps({"Instances": entries, "NonFunctional": [], "Provider": {}}).encode()


@pytest.mark.parametrize(
    ("types", "entry", "says"),
    [
        (
            TYPES,
            {"ID": "i2", "Type": "disk"},
            "instance i2 is of sub-type 'disk', but this plugin has the sub-types compute, storage",
        ),
        (TYPES, {"ID": "i2"}, "instance i2 has no sub-type, but this plugin has the sub-types compute, storage"),
        (
            ("",),
            {"ID": "i2", "Type": "compute"},
            "instance i2 is of sub-type 'compute', but this plugin has no sub-types",
        ),
    ],
)
def test_a_record_that_nobody_would_look_after_stops_the_start(
    tmp_path: Path, types: Sequence[str], entry: dict[str, str], says: str
) -> None:
    """The error, of one line, names the instance, its sub-type and those that are known; the file is left as it was."""
    path = tmp_path / "state.json"
    before = content({"ID": "i1", "Type": types[0]}, entry)
    path.write_bytes(before)
    with pytest.raises(CannotStart, match=re.escape(says)) as caught:
        FileStore(path, "test", sub_types=types)
    assert "\n" not in str(caught.value)
    assert before == path.read_bytes()
    assert [path] == [each for each in tmp_path.iterdir() if each.suffix != ".lock"]


def test_the_journal_of_another_sub_type_stops_the_start_too(run: Run) -> None:
    """What a kill left in the journal is of the daemon's sub-types as well, or file and journal are left as they are."""
    daemon = typed(run)
    for _ in range(20):
        id = provision(daemon, "storage")
        daemon.kill()
        if len(before := files(daemon)) > 1:  # else all of it came into the state file before the kill
            break
        daemon.state.unlink()
        daemon.start()
    assert 1 < len(before)
    with pytest.raises(CannotStart, match=rf"instance {id} is of sub-type 'storage'"):
        FileStore(daemon.state, "test", sub_types=["compute"])
    assert before == files(daemon)


def test_a_failed_write_takes_back_the_changes_of_all(tmp_path: Path) -> None:
    """Changes that are written together fail together, each in the records that it was made to."""
    disk = FaultyDisk()

    async def story() -> None:
        with FileStore(tmp_path / "state.json", "test", sub_types=TYPES, disk=disk) as store:
            compute, storage = (store.part(type) for type in TYPES)
            await asyncio.gather(
                compute.commit(Put(record("c", "compute"))), storage.commit(Put(record("s", "storage")))
            )
            disk.fail = lambda step: Fault()
            failed = await asyncio.gather(
                compute.commit(Put(record("c", "compute", changed="1")), Note("n", Raw(b"1"))),
                storage.commit(Drop("s"), Note("n", Raw(b"2"))),
                compute.commit(Put(record("c", "compute", changed="2")), Put(record("new", "compute"))),
                return_exceptions=True,
            )
            disk.fail = lambda step: None
            assert [StoreFailed] * 3 == [type(each) for each in failed]
            assert ([record("c", "compute")], {}) == (list(compute.records), compute.records.notes)
            assert ([record("s", "storage")], {}) == (list(storage.records), storage.records.notes)
            await store.flush()

    asyncio.run(story())


def test_the_first_sub_type_is_the_stores_own(tmp_path: Path) -> None:
    """A store is that of its first sub-type, so one without sub-types needs no part."""
    with FileStore(tmp_path / "state.json", "test", "m", TYPES) as store:
        assert ("compute", "m-compute") == (store.sub_type, store.mark)
        assert store is store.part("compute")
        assert ("storage", "m-storage") == (store.part("storage").sub_type, store.part("storage").mark)
    with FileStore(tmp_path / "plain.json", "test", "m") as store:
        assert ("", "m") == (store.sub_type, store.mark)
        assert store is store.part("")
