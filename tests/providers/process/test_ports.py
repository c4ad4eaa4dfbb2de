"""Ports of instances: tests with real daemons, and with programs that take ports themselves."""

import contextlib
import fcntl
import json
import os
import pwd
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import Daemon, command, eventually, root_only
from support.processes import (
    AS_USER,
    USER,
    Instances,
    Start,
    destroy,
    kill,
    read_live,
    sh_command,
    sleep_command,
    wait_for_problem,
)


def find_range(count: int) -> range:
    """Return consecutive ports that nobody uses now."""
    while True:
        first = random.randrange(30000, 32700 - count)
        with ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(listen(port, "0.0.0.0"))
            return range(first, first + count)


def limit(ports: range) -> tuple[str, str]:
    """Return the flags of a daemon with these ports for its instances."""
    return "--option", f"ports={ports[0]}-{ports[-1]}"


def listen(port: int, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((address, port))


def read_ports(daemon: Daemon, id: str) -> Any:
    """Return an instance's ports by name, once they are observed: until then, its properties are those of the spec."""
    eventually(lambda: isinstance((read_live(daemon, id) or {}).get("ports"), dict), f"{id} has ports")
    return read_live(daemon, id)["ports"]


def read_metadata(daemon: Daemon, id: str) -> Any:
    """Return the metadata in an instance's folder, once it exists."""
    path = daemon.state.with_name(f"{daemon.name}.processes") / id / "instance.json"
    return json.loads(eventually(lambda: path.exists() and path.read_text(), f"{id} has a folder"))


@root_only
def test_another_users_folder_is_no_folder_of_instances(start: Start, home: Path) -> None:
    """A folder beside the provider's that belongs to another user neither takes ports nor makes the provider wait."""
    daemon = start()
    foreign = daemon.state.with_name("foreign.processes") / "x"
    foreign.mkdir(parents=True)
    os.mkfifo(foreign / "instance.json")
    os.chown(foreign.parent, pwd.getpwnam(USER).pw_uid, -1)
    assert "http" in read_ports(daemon, daemon.provision(sleep_command(ports=["http"])))


def test_a_locked_folder_fails_the_provision(start: Start) -> None:
    """If another program keeps the folder locked, a provision with ports fails in time, and others succeed."""
    daemon = start("--provision-wait", "14")
    fd = os.open(daemon.state.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(RemoteError, match="another program has locked it"):
            daemon.provision(sleep_command(ports=["http"]))
        daemon.provision(sleep_command())
    finally:
        os.close(fd)


def test_a_process_gets_the_ports_that_it_asks_for(start: Start) -> None:
    """A process finds its ports in its environment, and InfraKit finds them in the live properties with the address."""
    daemon = start()
    show = "echo $PORT $PORT_HTTP $PORT_ADMIN; sleep 600"
    id = daemon.provision(sh_command(show, ports=["http", "admin"]))
    ports = read_ports(daemon, id)
    assert ["http", "admin"] == list(ports)
    assert all(20000 <= port <= 29999 for port in ports.values())
    assert ports["http"] != ports["admin"]
    live = read_live(daemon, id)
    assert ("127.0.0.1", ports["http"]) == (live["address"], live["port"])
    stdout = daemon.state.with_name("rack1.processes") / id / "stdout"
    expected = f"{ports['http']} {ports['http']} {ports['admin']}\n"
    eventually(lambda: expected == stdout.read_text(), "the process has its ports")


def test_a_process_without_ports_has_only_an_address(start: Start) -> None:
    """A process that asks for no ports may set PORT itself, and its live properties have the address alone."""
    daemon = start()
    id = daemon.provision(sleep_command(environment={"PORT": "80"}))
    live = eventually(lambda: (live := read_live(daemon, id)) and "status" in live and live)
    assert {"pid", "started", "status", "address"} == live.keys()
    assert "127.0.0.1" == live["address"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_in_use_is_skipped(start: Start, address: str) -> None:
    """An instance never gets a port on which another program listens."""
    ports = find_range(3)
    daemon = start(*limit(ports))
    with listen(ports[1], address):
        assigned = [read_ports(daemon, daemon.provision(sleep_command(ports=["http"])))["http"] for _ in range(2)]
        assert sorted(assigned) == [ports[0], ports[2]]


def test_without_a_free_port_there_is_no_capacity(start: Start, instances: Instances) -> None:
    """A provision fails for want of ports, leaves nothing behind, and succeeds once an instance with ports is gone."""
    ports = find_range(3)
    daemon = start(*limit(ports))
    id = daemon.provision(sleep_command(ports=["http", "admin"]))
    with pytest.raises(RemoteError, match=f"no free port for admin: all of {ports[0]}-{ports[-1]}") as error:
        daemon.provision(sleep_command(ports=["http", "admin"]))
    assert "no-capacity" == error.value.kind
    eventually(lambda: [id] == [each["ID"] for each in daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]])
    destroy(daemon, id)
    assert [] == instances.all()
    daemon.provision(sleep_command(ports=["http", "admin", "debug"]))


def test_parallel_instances_of_two_daemons_share_no_port(start: Start) -> None:
    """Two daemons beside each other assign each port once, even if nobody listens on it yet."""
    ports = find_range(20)
    one, two = start(*limit(ports)), start(*limit(ports), name="rack2")
    with ThreadPoolExecutor(8) as pool:
        daemons = [one, two] * 10
        ids = list(pool.map(lambda daemon: daemon.provision(sleep_command(ports=["http"])), daemons))
    assigned = [read_ports(daemon, id)["http"] for daemon, id in zip(daemons, ids, strict=True)]
    assert list(ports) == sorted(assigned)


def test_an_ended_instance_keeps_its_port(start: Start) -> None:
    """The port of an ended instance goes to no other one before the destroy."""
    ports = find_range(2)
    daemon = start(*limit(ports))
    ended = daemon.provision(sh_command("exit 1", ports=["http"]))
    kept = read_metadata(daemon, ended)["Ports"]["http"]
    assert {*ports} - {kept} == {read_ports(daemon, daemon.provision(sleep_command(ports=["http"])))["http"]}


def test_a_repeated_provision_has_the_same_ports(start: Start, instances: Instances) -> None:
    """After a crash in the middle of a provision, the instance starts with the ports that it was assigned before."""
    daemon = start("--provision-wait", "0")
    properties = sh_command("echo $PORT; sleep 600", ports=["http"])
    id = daemon.call("Instance.Provision", Spec={"Properties": properties, "Init": "sleep 3"})["ID"]
    eventually(lambda: len(instances.all()) >= 2, "Init runs")
    before = read_metadata(daemon, id)["Ports"]
    daemon.kill()
    kill(instances.all())
    daemon.start()
    stdout = daemon.state.with_name("rack1.processes") / id / "stdout"
    eventually(lambda: f"{before['http']}\n" == stdout.read_text(), "the process has its port")
    assert before == read_ports(daemon, id)


def test_a_restart_and_a_label_keep_the_ports(start: Start) -> None:
    """An instance has the same ports after a restart of the daemon and after a label."""
    daemon = start()
    id = daemon.provision(sleep_command(ports=["http"]))
    before = read_ports(daemon, id)
    daemon.call("Instance.Label", Instance=id, Labels={"tier": "web"})
    eventually(lambda: {"tier": "web"} == read_metadata(daemon, id)["Tags"])
    daemon.kill()
    daemon.start()
    assert before == read_ports(daemon, id)


def test_a_taken_port_makes_the_process_fail_visibly(start: Start) -> None:
    """If another program takes the port between assignment and start, the process ends, and its instance says how."""
    ports = find_range(1)
    daemon = start("--provision-wait", "0", *limit(ports))
    server = "import os, socket; socket.create_server(('127.0.0.1', int(os.environ['PORT']))); input()"
    properties = {"command": "python3", "arguments": ["-c", server], "ports": ["http"]}
    id = daemon.call("Instance.Provision", Spec={"Properties": properties, "Init": "sleep 2"})["ID"]
    eventually(lambda: {"http": ports[0]} == read_metadata(daemon, id)["Ports"], "the port is assigned")
    with listen(ports[0]):
        assert "exited with status 1" == wait_for_problem(daemon, id)


@pytest.mark.parametrize("text", ["", "20000", "20000-", "0-10", "30000-20000", "1-70000", "a-b", " 1-2", "1-2\n"])
def test_a_wrong_range_of_ports_stops_the_start(home: Path, text: str) -> None:
    """A range that is not one of ports is an error that shows an example."""
    result = command(home, "--provider", "process", *AS_USER, "--option", f"ports={text}", "--log", "1")
    assert 2 == result.returncode
    assert "option ports: expected FIRST-LAST, each from 1 to 65535, such as 20000-29999, got" in result.stderr
