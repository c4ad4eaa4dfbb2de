"""The provider for physical machines on emulated BMCs: claims, releases and observations."""

import fcntl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, NoCapacity, TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.providers.redfish.bmc import Bmc, TagConflict
from pyinfrakit.providers.redfish.options import Controller, Media, System
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.schema.secrets import Secret
from support.harness import ROOT, eventually
from support.rack import FAULTS, PASSWORD, USER, Rack, provider, rack
from support.web import served


@pytest.fixture(scope="module")
def built() -> Iterator[Rack]:
    """Two BMCs with two machines each."""
    with rack(2, 2) as rack_:
        yield rack_


@pytest.fixture
def bmcs(built: Rack) -> Rack:
    """The same two BMCs, in their initial state."""
    built.reset()
    return built


@pytest.fixture
def redfish(bmcs: Rack, tmp_path: Path) -> Redfish:
    return provider(tmp_path, bmcs.settings())


def find_timeout(kind: str) -> float:
    """Return a timeout for a BMC with this fault. It is short for the only fault that leads to a time-out."""
    return 1 if kind == "hang" else 20


def spec(logical: str | None = None, init: str = "", **properties: Any) -> Spec:
    return Spec(properties=Raw(msgspec.json.encode(properties)), logical_id=logical, init=init)


def destroy(redfish: Redfish, id: str) -> None:
    redfish.destroy([Record(id=id, state=State.DESTROYING, spec=Spec())], "terminate")


def observe(redfish: Redfish, id: str) -> Machine:
    (machine,) = [machine for machine in redfish.observe() if machine.id == id]
    return machine


def find_reason(redfish: Redfish, id: str) -> str:
    """Return why a machine does not work."""
    machine = observe(redfish, id)
    assert not machine.functional
    return machine.reason


# provision


def test_a_provision_claims_and_powers_on_a_machine_that_matches(bmcs: Rack, redfish: Redfish) -> None:
    """A provision writes mark and ID into the asset tag of a machine with the right tags, sets its boot source, and
    powers it on."""
    machine = redfish.provision("1a", spec(tags={"size": "small"}, boot="pxe"))
    assert "b1n1" == machine.handle
    assert {"b1n1": "infrakit:mine:1a"} == bmcs.tags()
    system = bmcs.system("b1n1")
    assert ("On", "Pxe") == (system["power_state"], system["boot_device"])


def test_live_properties_come_from_the_bmc(bmcs: Rack, redfish: Redfish) -> None:
    """An instance's properties are power, health, model, serial number, BMC and boot source, without credentials."""
    redfish.provision("1a", spec(boot="pxe"))
    live = observe(redfish, "1a").live
    assert live is not None
    assert {
        "machine": "b0n1",
        "bmc": bmcs.addresses[0],
        "power": "On",
        "health": "OK",
        "model": "Joo Janta 200",
        "serial": "SN-node-1",
        "boot": "Pxe",
        "tags": {"size": "large"},
    } == msgspec.json.decode(live)


def test_a_logical_id_picks_the_machine_that_it_names(redfish: Redfish) -> None:
    """A logical ID, or the property `machine`, selects the machine with this name; two different names are an error."""
    assert "b1n2" == redfish.provision("1a", spec("b1n2")).handle
    assert "b0n2" == redfish.provision("1b", spec("manager-1", machine="b0n2")).handle
    with pytest.raises(GiveUp, match=r"names machine b0n1, but Properties.machine b1n1"):
        redfish.provision("1c", spec("b0n1", machine="b1n1"))
    with pytest.raises(GiveUp, match="no machine 'b9n9' in the pool"):
        redfish.provision("1c", spec(machine="b9n9"))


def test_a_named_machine_that_is_not_free_is_an_error_that_says_why(bmcs: Rack, redfish: Redfish) -> None:
    """The error for a named machine tells that it is in use and by which instance, or is unhealthy, or is running."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n2")
    bmcs.power("b1n1", "On")
    list(redfish.observe())
    for name, why in (("b0n1", "in use by 1a"), ("b0n2", "health is Critical"), ("b1n1", "no plugin claims it")):
        with pytest.raises(GiveUp, match=f"machine {name} at BMC http.* is not free: .*{why}"):
            redfish.provision("1b", spec(name))


def test_a_machine_that_the_inventory_sets_aside_is_unavailable(bmcs: Rack, tmp_path: Path) -> None:
    """A machine that the inventory sets aside gets no instance, and its present instance is non-functional."""
    settings = bmcs.settings()
    first = provider(tmp_path, settings)
    first.provision("1a", spec("b0n1"))
    for machine in ("b0n1", "b0n2"):
        settings = msgspec.structs.replace(settings, bmcs=[_set_aside(each, machine) for each in settings.bmcs])
    second = provider(tmp_path, settings)
    assert "new disk" == find_reason(second, "1a")
    with pytest.raises(NoCapacity, match=r"b0n2 .* is not free: new disk"):
        second.provision("1b", spec("b0n2"))


def _set_aside(bmc: Controller, name: str) -> Controller:
    replace = msgspec.structs.replace
    return replace(bmc, machines=[replace(m, aside="new disk") if m.name == name else m for m in bmc.machines])


def test_no_free_machine_is_an_error_that_counts(bmcs: Rack, redfish: Redfish) -> None:
    """The error counts the matches that are in use, unhealthy, set aside, unreachable or running."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n2")
    bmcs.power("b1n1", "On")
    bmcs.fault("500", 1, path="node-2")
    list(redfish.observe())
    with pytest.raises(NoCapacity) as error:
        redfish.provision("1b", spec())
    counts = "1 in use, 1 unhealthy, 0 set aside, 1 unreachable, 1 running"
    assert f"no free machine: 4 of 4 match: {counts}" == str(error.value)
    with pytest.raises(NoCapacity, match="2 of 4 match size=large: 1 in use, 1 unhealthy"):
        redfish.provision("1b", spec(tags={"size": "large"}))
    with pytest.raises(GiveUp, match=r"no free machine: 0 of 4 match size=huge$") as none:
        redfish.provision("1b", spec(tags={"size": "huge"}))
    assert "give-up" == none.value.kind


def test_a_running_machine_without_a_claim_is_unavailable(bmcs: Rack, redfish: Redfish) -> None:
    """A machine that is on and that nobody claims gets no instance: somebody may be working on it."""
    for name in ("b0n1", "b0n2", "b1n1"):
        bmcs.power(name, "On")
    assert "b1n2" == redfish.provision("1a", spec()).handle


@pytest.mark.parametrize("kind", ["401", "404", "500", "garbage", "half", "drop", "hang"])
def test_a_bmc_that_fails_does_not_affect_another(bmcs: Rack, tmp_path: Path, kind: str) -> None:
    """A provision skips a machine whose BMC fails, and claims the next one that matches."""
    redfish = provider(tmp_path, bmcs.settings(timeout=find_timeout(kind)))
    bmcs.fault(kind, path="Systems")
    assert "b1n1" == redfish.provision("1a", spec()).handle


@pytest.mark.parametrize(
    "wrong",
    [
        {"boot": "iso"},
        {"url": "http://h/i"},
        {"boot": "http", "url": "i"},
        {"boot": "iso", "url": "http://joe:pw@h/i"},
    ],
)
def test_contradictory_properties_are_refused(redfish: Redfish, wrong: dict[str, Any]) -> None:
    """The error for a wrong boot source or URL names the field."""
    with pytest.raises(InvalidSpec, match=r"Properties\.url: expected"):
        redfish.validate(Raw(msgspec.json.encode(wrong)))


def test_an_iso_is_inserted_and_ejected(bmcs: Rack, redfish: Redfish, tmp_path: Path) -> None:
    """A machine boots from an ISO image, and its next instance finds the drive empty."""
    with served(tmp_path) as url:
        (tmp_path / "installer.iso").write_bytes(b"iso")
        redfish.provision("1a", spec("b0n1", boot="iso", url=f"{url}/installer.iso"))
        assert f"{url}/installer.iso" == bmcs.state()["media"]["node-1/Cd"]
        assert "Cd" == bmcs.system("b0n1")["boot_device"]
        destroy(redfish, "1a")
    assert "" == bmcs.state()["media"]["node-1/Cd"]


def test_a_machine_boots_by_http(bmcs: Rack, redfish: Redfish) -> None:
    """The BMC gets the URL of the image, for a single boot."""
    redfish.provision("1a", spec("b0n1", boot="http", url="http://images/image.efi"))
    asked = bmcs.state()["boots"][-1]
    assert ("UefiHttp", "http://images/image.efi", "Once") == tuple(
        asked[key] for key in ("BootSourceOverrideTarget", "HttpBootUri", "BootSourceOverrideEnabled")
    )
    assert "On" == bmcs.system("b0n1")["power_state"]


def test_a_boot_source_may_be_permanent(bmcs: Rack, redfish: Redfish) -> None:
    """The property `always` sets the boot source for every boot, and not just for the next one."""
    redfish.provision("1a", spec("b0n1", boot="pxe", always=True))
    asked = bmcs.state()["boots"][-1]
    assert ("Pxe", "Continuous") == (asked["BootSourceOverrideTarget"], asked["BootSourceOverrideEnabled"])


# Init


def test_init_is_on_a_disc_that_cloud_init_finds(bmcs: Rack, tmp_path: Path) -> None:
    """The BMC inserts a disc with user data and metadata, and a destroy removes its image."""
    (tmp_path / "www").mkdir()
    with served(tmp_path / "www") as url:
        redfish = provider(tmp_path, bmcs.settings(media=Media("www", url)))
        redfish.provision("1a", spec("b0n1", init="#!/bin/sh\njoin --token sesame\n"))
        (image,) = (tmp_path / "www").iterdir()
        assert f"{url}/{image.name}" == bmcs.state()["media"]["node-1/Cd"]
        assert {"user-data": b"#!/bin/sh\njoin --token sesame\n", "meta-data": META} == read_disc(image)
        destroy(redfish, "1a")
    assert [] == list((tmp_path / "www").iterdir())


def test_init_and_an_iso_are_in_two_drives(bmcs: Rack, tmp_path: Path) -> None:
    """A machine boots from an ISO image in one drive and reads `Init` from another; a destroy ejects both."""
    (tmp_path / "www").mkdir()
    with served(tmp_path / "www") as url:
        (tmp_path / "www" / "installer.iso").write_bytes(b"iso")
        redfish = provider(tmp_path, bmcs.settings(media=Media("www", url)))
        redfish.provision("1a", spec("b0n1", init="join", boot="iso", url=f"{url}/installer.iso"))
        media = bmcs.state()["media"]
        assert f"{url}/installer.iso" == media["node-1/Cd"]
        assert (tmp_path / "www" / media["node-1/Floppy"].rpartition("/")[2]).exists()
        destroy(redfish, "1a")
    assert {"node-1/Cd": "", "node-1/Floppy": ""} == bmcs.state()["media"]


META = b'{"instance-id": "1a", "local-hostname": "b0n1", "logical-id": "b0n1", "tags": {}}'


def read_disc(image: Path) -> dict[str, bytes]:
    """Return the files in an image, by name."""
    import io  # noqa: PLC0415

    import pycdlib  # noqa: PLC0415

    found = {}
    iso = pycdlib.PyCdlib()
    iso.open(str(image))
    assert b"cidata" == iso.pvd.volume_identifier.strip()
    for child in iso.list_children(rr_path="/"):
        if not child.is_dir():
            name = child.rock_ridge.name().decode()
            data = io.BytesIO()
            iso.get_file_from_iso_fp(data, rr_path=f"/{name}")
            found[name] = data.getvalue()
    iso.close()
    return found


def test_init_without_a_web_folder_is_refused(bmcs: Rack, redfish: Redfish) -> None:
    """A spec with `Init` is an error if the option `media` is missing, and claims no machine."""
    with pytest.raises(GiveUp, match=r"Init: .*set the option `media`"):
        redfish.provision("1a", spec(init="join"))
    assert {} == bmcs.tags()


# destroy


def test_a_destroy_restores_the_machine(bmcs: Rack, redfish: Redfish) -> None:
    """A destroy powers a machine off, restores its boot source and the operator's asset tag, and frees it."""
    bmcs.say("b0n1", AssetTag="inventory 4711")
    redfish.provision("1a", spec("b0n1", boot="pxe"))
    assert "infrakit:mine:1a" == bmcs.tags()["b0n1"]
    destroy(redfish, "1a")
    assert {"b0n1": "inventory 4711"} == bmcs.tags()
    system = bmcs.system("b0n1")
    assert ("Off", "Hdd") == (system["power_state"], system["boot_device"])
    assert "b0n1" == redfish.provision("1b", spec("b0n1")).handle


def test_a_machine_that_does_not_shut_down_is_forced_off(bmcs: Rack, tmp_path: Path) -> None:
    """A destroy forces a machine off if it does not shut down by itself in time."""
    redfish = provider(tmp_path, bmcs.settings(graceful_timeout=0.3))
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("stuck", path="Reset", times=1)
    destroy(redfish, "1a")
    resets = [each for each in bmcs.state()["requests"] if each.endswith("Reset")]
    assert 3 == len(resets), "on, shut down, forced off"
    assert "Off" == bmcs.system("b0n1")["power_state"]


def test_a_machine_is_forced_off_if_its_bmc_can_not_shut_it_down(bmcs: Rack, redfish: Redfish) -> None:
    """A destroy forces a machine off if its BMC refuses a graceful shutdown."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("400", path="Reset", times=1)
    destroy(redfish, "1a")
    assert "Off" == bmcs.system("b0n1")["power_state"]


def test_a_machine_is_free_only_after_its_cleaning(bmcs: Rack, tmp_path: Path) -> None:
    """The command gets the machine in an otherwise empty environment, and until it succeeds the machine is not free."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n[ -e {tmp_path}/wiped ] || {{ echo no disk found; exit 3; }}\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    with pytest.raises(
        TryAgain, match=r"machine b0n1: BMC .*: cleaning by .*wipe failed with status 3: no disk found; .* is not free"
    ):
        destroy(redfish, "1a")
    assert "infrakit:mine:1a:cleaning" == bmcs.tags()["b0n1"]
    assert "being cleaned" == find_reason(redfish, "1a")
    with pytest.raises(GiveUp, match=r"not free: in use by 1a .*\(cleaning\)"):
        redfish.provision("1b", spec("b0n1"))
    (tmp_path / "wiped").touch()
    destroy(redfish, "1a")
    assert {} == bmcs.tags()
    variables = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert ("b0n1", bmcs.addresses[0], "1a") == (variables["MACHINE"], variables["BMC"], variables["INSTANCE"])
    assert set() == variables.keys() - {"MACHINE", "BMC", "SYSTEM", "INSTANCE", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}


def test_a_cleaning_from_before_a_restart_is_not_repeated_meanwhile(bmcs: Rack, tmp_path: Path) -> None:
    """A destroy does not run the command while the command of a killed plugin still runs."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\necho wiping >> {tmp_path}/times\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    with (tmp_path / "b0n1.cleaning").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match=r"is still running, from before the last restart .* is not free"):
            destroy(redfish, "1a")
    destroy(redfish, "1a")
    assert "wiping\n" == (tmp_path / "times").read_text()
    assert {} == bmcs.tags()


def test_a_cleaning_that_times_out_is_killed(bmcs: Rack, tmp_path: Path) -> None:
    """A command that takes too long is killed with all processes that it started, and the machine is not free."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)], cleaning_timeout=0.3))
    redfish.provision("1a", spec("b0n1"))
    with pytest.raises(TryAgain, match=r"timed out after 0.3 s; .* is not free"):
        destroy(redfish, "1a")
    wait_until_gone(tmp_path / "child")


def test_a_cleaning_leaves_no_process_behind(bmcs: Rack, tmp_path: Path) -> None:
    """Processes that a successful command started are killed too, and its long output is no problem."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nhead -c 1000000 /dev/zero\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    destroy(redfish, "1a")
    wait_until_gone(tmp_path / "child")
    assert {} == bmcs.tags()


def test_the_last_output_of_a_cleaning_is_quoted(bmcs: Rack, tmp_path: Path) -> None:
    """The error quotes the end of the command's output, which holds the problem, however long the output is."""
    hook = tmp_path / "wipe"
    hook.write_text("#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\necho; echo no disk found >&2\nexit 3\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    with pytest.raises(TryAgain, match=r"failed with status 3: x+ no disk found; ") as error:
        destroy(redfish, "1a")
    assert len(str(error.value)) < 600


def wait_until_gone(pid_file: Path) -> None:
    """Wait until the process whose ID is in a file is gone."""
    pid = int(pid_file.read_text())
    eventually(lambda: _is_gone(pid), "the process is gone")


def _is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not noticed yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# claims


def test_a_claim_is_exclusive_between_plugins(bmcs: Rack, tmp_path: Path) -> None:
    """Two plugins that share a pool never get the same machine, and after the last one they get an error."""
    one, other = (provider(tmp_path, bmcs.settings(), mark=each, name=each) for each in ("one", "other"))
    got = [each.provision(id, spec()).handle for each, id in ((one, "1a"), (other, "1b"), (one, "1c"), (other, "1d"))]
    assert 4 == len(set(got))
    with pytest.raises(GiveUp, match="4 in use"):
        one.provision("1e", spec())


def test_many_claims_at_once_by_two_plugins_get_a_machine_each(bmcs: Rack, tmp_path: Path) -> None:
    """Of many parallel provisions, as many succeed as there are machines, each with a machine of its own."""
    both = [provider(tmp_path, bmcs.settings(), mark=each, name=each) for each in ("one", "other")]

    def one_more(number: int) -> str | None:
        try:
            return both[number % 2].provision(f"1{number}", spec()).handle
        except GiveUp:
            return None

    with ThreadPoolExecutor(12) as threads:
        got = [name for name in threads.map(one_more, range(12)) if name is not None]
    assert ["b0n1", "b0n2", "b1n1", "b1n2"] == sorted(got)
    assert set(got) == bmcs.tags().keys()


def test_a_tag_is_written_only_if_nothing_has_changed(bmcs: Rack, redfish: Redfish) -> None:
    """A write of an asset tag fails if the machine's ETag has changed, and is not repeated without the condition."""
    settings = bmcs.settings()
    bmc, machine = Bmc(settings.bmcs[0], settings), settings.bmcs[0].machines[0]
    etag = bmc.read_status(machine).etag
    bmcs.say("b0n1", AssetTag="somebody else's")
    with pytest.raises(TagConflict):
        bmc.write_tag(machine, "mine", etag)
    assert {"b0n1": "somebody else's"} == bmcs.tags()


def test_a_tag_and_its_etag_are_of_one_instant(bmcs: Rack, redfish: Redfish) -> None:
    """A claim of another plugin between the reads of a status either shows in it, or makes the write fail."""
    settings = bmcs.settings()
    bmc, machine = Bmc(settings.bmcs[0], settings), settings.bmcs[0].machines[0]
    bmc.read_status(machine)  # the connection and the service root are there now
    bmcs.fault("claimed", path=".*/node-1", method="GET", times=1)
    status = bmc.read_status(machine)
    if not status.tag:
        with pytest.raises(TagConflict):
            bmc.write_tag(machine, "mine", status.etag)
    assert {"b0n1": "infrakit:other:1"} == bmcs.tags()


def test_a_provision_skips_a_machine_that_another_plugin_claims_meanwhile(bmcs: Rack, tmp_path: Path) -> None:
    """A provision claims the next machine if the BMC refuses the tag because the ETag has changed."""
    redfish = provider(tmp_path, bmcs.settings())
    bmcs.fault("412", method="PATCH", times=1)
    assert "b0n2" == redfish.provision("1a", spec(tags={"size": "large"})).handle
    assert {"b0n2": "infrakit:mine:1a"} == bmcs.tags()


def test_a_named_machine_that_another_plugin_claims_meanwhile_is_an_error(bmcs: Rack, redfish: Redfish) -> None:
    """The error after a 412 for a named machine contains the machine and its BMC."""
    bmcs.fault("412", method="PATCH")
    with pytest.raises(GiveUp, match=r"machine b0n1 at BMC http.* is not free: another plugin was quicker"):
        redfish.provision("1a", spec("b0n1"))


def test_the_loser_of_a_double_claim_does_not_touch_the_machine(bmcs: Rack, tmp_path: Path) -> None:
    """Without ETags, two plugins may claim a machine; the first one's instance is then non-functional and harmless."""
    bmcs.without_etags()
    one = provider(tmp_path, bmcs.settings(), mark="one", name="one")
    one.provision("1a", spec("b0n1"))
    bmcs.say("b0n1", AssetTag="infrakit:other:1b")
    assert "claimed twice: its asset tag names 1b of the plugin with mark other" in find_reason(one, "1a")
    destroy(one, "1a")
    assert {"b0n1": "infrakit:other:1b"} == bmcs.tags()
    assert "On" == bmcs.system("b0n1")["power_state"]


def test_claims_survive_the_loss_of_the_claims_file(bmcs: Rack, tmp_path: Path) -> None:
    """Without the claims file, an instance is observed, keeps its machine and can be destroyed, by its asset tag."""
    provider(tmp_path, bmcs.settings()).provision("1a", spec())
    (tmp_path / "rack1.claims").unlink()
    again = provider(tmp_path, bmcs.settings())
    assert ("1a", "b0n1") == (observe(again, "1a").id, observe(again, "1a").handle)
    assert "b0n1" == again.provision("1a", spec()).handle
    destroy(again, "1a")
    assert {} == bmcs.tags()


def test_a_claim_whose_answer_was_lost_is_found_again(bmcs: Rack, redfish: Redfish) -> None:
    """If a BMC writes a tag but its answer is lost, the next call for the same ID returns the same machine."""
    bmcs.fault("late", method="PATCH", times=1)
    with pytest.raises(TryAgain, match="b0n1"):
        redfish.provision("1a", spec(tags={"size": "large"}))
    bmcs.mend()
    _wait_out(redfish)
    assert "b0n1" == redfish.provision("1a", spec(tags={"size": "large"})).handle
    assert {"b0n1": "infrakit:mine:1a"} == bmcs.tags()


def _wait_out(redfish: Redfish) -> None:
    """Wait until the pause after a BMC's failure is over."""
    import time  # noqa: PLC0415

    time.sleep(0.3)


def test_a_damaged_claims_file_stops_the_start(bmcs: Rack, tmp_path: Path) -> None:
    """A damaged claims file stops the start, and is not taken for an empty one."""
    (tmp_path / "rack1.claims").write_text("{")
    with pytest.raises(CannotStart, match=r"claims file .*rack1.claims"):
        provider(tmp_path, bmcs.settings())


def test_the_claims_file_is_private(redfish: Redfish, tmp_path: Path) -> None:
    """Only the plugin's user can read the claims file."""
    redfish.provision("1a", spec())
    assert 0o600 == stat.S_IMODE((tmp_path / "rack1.claims").stat().st_mode)


# health


def test_a_critical_machine_is_not_functional_until_it_heals(bmcs: Rack, redfish: Redfish) -> None:
    """A machine is non-functional while its health rollup is Critical."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n1")
    assert "its health is Critical: see its BMC's log" == find_reason(redfish, "1a")
    bmcs.well("b0n1")
    assert observe(redfish, "1a").functional


def test_a_machine_that_goes_off_is_not_functional(bmcs: Rack, redfish: Redfish) -> None:
    """A machine that is off without a destroy is non-functional."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert "it is off, but should be on" == find_reason(redfish, "1a")


def test_a_machine_without_its_tag_is_not_observed(bmcs: Rack, redfish: Redfish) -> None:
    """A machine whose asset tag somebody has removed belongs to no instance."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.say("b0n1", AssetTag="")
    assert [] == list(redfish.observe())


@pytest.mark.parametrize("kind", [*FAULTS, "stopped"])
def test_machines_of_a_faulty_bmc_are_unknown(bmcs: Rack, tmp_path: Path, kind: str) -> None:
    """Whatever a BMC does, its machines are unknown, also after a restart, and those of another BMC are observed."""
    settings = bmcs.settings(timeout=find_timeout(kind))
    first = provider(tmp_path, settings)
    first.provision("1a", spec("b0n1"))
    first.provision("1b", spec("b1n1"))
    bmcs.fault(kind, path="Systems") if kind != "stopped" else bmcs.fault("drop")
    for redfish in (first, provider(tmp_path, settings)):
        found = {machine.id: machine for machine in redfish.observe()}
        assert (True, "b0n1") == (found["1a"].unknown, found["1a"].handle)
        assert (False, True) == (found["1b"].unknown, found["1b"].functional)


def test_a_machine_that_is_unreachable_for_too_long_is_not_functional(bmcs: Rack, tmp_path: Path) -> None:
    """After `unreachable_after`, a machine is non-functional, with a reason that names its BMC, until it is back."""
    redfish = provider(tmp_path, bmcs.settings(unreachable_after=0.2))
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("drop")
    _wait_out(redfish)
    assert "no status for more than 0.2 s: machine b0n1: BMC http" in find_reason(redfish, "1a")
    bmcs.mend()
    _wait_out(redfish)
    assert observe(redfish, "1a").functional


def test_a_bmc_that_fails_gets_fewer_requests(bmcs: Rack, tmp_path: Path) -> None:
    """A BMC gets a pause after each failure: it may be restarting, or lock an account after a few wrong passwords."""
    redfish = provider(tmp_path, bmcs.settings(longest_pause=600))
    bmcs.fault("401", path="Systems")
    for _ in range(20):
        list(redfish.observe())
    assert 20 > 2 * sum("Systems" in request for request in bmcs.state()["requests"])


def test_a_failing_machine_is_power_cycled_once(bmcs: Rack, tmp_path: Path) -> None:
    """With `power_cycle`, a machine that fails after a power cycle gets no second one, not even after a restart."""
    settings = bmcs.settings(power_cycle=True, power_timeout=3)
    redfish = provider(tmp_path, settings)
    redfish.ready = {"1a"}
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n1")
    assert observe(redfish, "1a").unknown
    eventually(lambda: not observe(redfish, "1a").unknown, "it is broken")
    for each in (redfish, provider(tmp_path, settings)):
        each.ready = {"1a"}
        assert "its health is Critical: see its BMC's log, also after a power cycle" == find_reason(each, "1a")
    assert 2 == sum(request.endswith("Reset") for request in bmcs.state()["requests"]), "on, and one restart"


def test_the_power_cycle_of_a_machine_that_is_off_is_to_power_it_on(bmcs: Rack, tmp_path: Path) -> None:
    """With `power_cycle`, a machine that goes off is powered on again."""
    redfish = provider(tmp_path, bmcs.settings(power_cycle=True, power_timeout=3))
    redfish.ready = {"1a"}
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert observe(redfish, "1a").unknown
    eventually(lambda: not observe(redfish, "1a").unknown, "it is on")
    assert observe(redfish, "1a").functional


def test_a_machine_whose_instance_is_not_ready_is_not_power_cycled(bmcs: Rack, tmp_path: Path) -> None:
    """A machine whose instance is set aside gets no power cycle: somebody may have their hands in it."""
    redfish = provider(tmp_path, bmcs.settings(power_cycle=True))
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert "it is off, but should be on" == find_reason(redfish, "1a")
    assert "Off" == bmcs.system("b0n1")["power_state"]


# failures

PROBLEMS = {
    "400": r"it refuses \(400: as the test wishes\): read its log",
    "401": r"refuses the credentials \(401\): check",
    "404": r"no such resource \(404\): check `system` in the inventory",
    "500": r"it fails \(500: as the test wishes\): read its log, or reset the BMC",
    "half": "closed the connection before the end|no answer within",
    "drop": "closed the connection before the end of its answer: check the management network",
    "hang": "no answer within 1 s: check the management network",
}


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("request_", ["PATCH", "POST"])
def test_a_failure_names_machine_and_bmc_and_remedy(bmcs: Rack, tmp_path: Path, kind: str, request_: str) -> None:
    """The error of a claim or a power-on names machine, BMC and remedy, and no credentials; a destroy then succeeds."""
    redfish = provider(tmp_path, bmcs.settings(timeout=find_timeout(kind)))
    bmcs.fault(kind, method=request_)
    with pytest.raises(TryAgain, match=f"machine b0n1: BMC {bmcs.addresses[0]}: .*({PROBLEMS[kind]})") as error:
        redfish.provision("1a", spec("b0n1"))
    assert [] == [secret for secret in (USER, PASSWORD) if secret in str(error.value)]
    bmcs.mend()
    _wait_out(redfish)
    destroy(redfish, "1a")
    assert {} == bmcs.tags()
    assert "Off" == bmcs.system("b0n1")["power_state"]


@pytest.mark.parametrize("kind", ["garbage", "list"])
def test_an_answer_that_is_not_redfish_is_an_error(bmcs: Rack, redfish: Redfish, kind: str) -> None:
    """The error says so if another program answers at a BMC's address."""
    bmcs.fault(kind, path="Systems")
    with pytest.raises(GiveUp, match=r"machine b0n1 at BMC http.* is not free: .*: check that the address is a BMC's"):
        redfish.provision("1a", spec("b0n1"))


@pytest.mark.parametrize("kind", ["garbage", "list", "stuck"])
def test_an_asset_tag_is_read_back(bmcs: Rack, redfish: Redfish, kind: str) -> None:
    """A provision fails if the BMC accepts an asset tag and then does not have it."""
    bmcs.fault(kind, method="PATCH")
    with pytest.raises(
        GiveUp,
        match=r"machine b0n1 at BMC http.* is not free: its BMC did not keep its asset tag, .* check how many char",
    ):
        redfish.provision("1a", spec("b0n1"))


def test_a_refused_connection_is_an_error(bmcs: Rack, tmp_path: Path) -> None:
    """The error says so if nothing listens at a BMC's address."""
    dead = Controller("http://127.0.0.1:9", [System("dead", "/redfish/v1/Systems/1")])
    redfish = provider(tmp_path, bmcs.settings(bmcs=[dead]))
    with pytest.raises(
        GiveUp, match=r"machine dead at BMC http://127.0.0.1:9 is not free: .*it refuses the connection: check its"
    ):
        redfish.provision("1a", spec("dead"))


def test_a_power_change_is_verified(bmcs: Rack, tmp_path: Path) -> None:
    """A machine that stays off is an error and avoided for a while; one that stays on keeps its claim."""
    redfish = provider(tmp_path, bmcs.settings(power_timeout=3, graceful_timeout=0.3))
    bmcs.fault("stuck", path="Reset")
    with pytest.raises(TryAgain, match=r"machine b0n1: BMC http.*: still off 3 s after On: check its power supply"):
        redfish.provision("1a", spec(tags={"size": "large"}))
    destroy(redfish, "1a")
    bmcs.mend()
    assert "b0n2" == redfish.provision("1b", spec(tags={"size": "large"})).handle
    bmcs.fault("stuck", path="Reset")
    with pytest.raises(TryAgain, match=r"machine b0n2: BMC http.*: still on 3 s after ForceOff: switch it off by hand"):
        destroy(redfish, "1b")
    assert {"b0n2": "infrakit:mine:1b"} == bmcs.tags()


def test_credentials_that_a_bmc_repeats_are_redacted(bmcs: Rack, tmp_path: Path) -> None:
    """An error shows stars instead of credentials in a BMC's answer."""
    redfish = provider(tmp_path, bmcs.settings(username=Secret("as the"), password=Secret("wishes")))
    bmcs.fault("500", path="Systems")
    list(redfish.observe())
    first = next(iter(redfish.pool()))
    assert "(500: *** test ***)" in first.reason


# certificates

TLS = ROOT / "tests" / "tls"


@pytest.fixture(scope="module")
def https() -> Iterator[Rack]:
    """A BMC with a self-signed certificate."""
    with rack(1, 1, "--tls", str(TLS / "certificate.pem"), str(TLS / "key.pem")) as rack_:
        yield rack_


def test_a_certificate_that_is_not_trusted_is_an_error(https: Rack, tmp_path: Path) -> None:
    """The provider sends nothing to a BMC with a certificate that is not trusted; the error names the remedy."""
    with pytest.raises(
        GiveUp,
        match=r"machine b0n1 at BMC https.*: its certificate is not trusted: set `ca` to its CA, or `verify = false`",
    ):
        provider(tmp_path, https.settings()).provision("1a", spec("b0n1"))


@pytest.mark.parametrize("trust", [{"ca": str(TLS / "certificate.pem")}, {"verify": False}])
def test_a_certificate_is_trusted_by_its_ca_or_without_a_check(
    https: Rack, tmp_path: Path, trust: dict[str, Any]
) -> None:
    """Either the option `ca` or `verify = false` makes the provider accept a certificate."""
    redfish = provider(tmp_path, https.settings(**trust))
    assert "b0n1" == redfish.provision("1a", spec("b0n1")).handle
    destroy(redfish, "1a")


def test_a_missing_ca_file_stops_the_start(https: Rack, tmp_path: Path) -> None:
    """A CA file that does not exist is an error before the start."""
    with pytest.raises(CannotStart, match=r"ca: /nowhere\.pem: no such file"):
        provider(tmp_path, https.settings(ca="/nowhere.pem"))


# inventory


@pytest.mark.parametrize(
    ("bmcs_", "problem"),
    [
        (
            [Controller("https://a", [System("m")]), Controller("https://b", [System("m")])],
            "machines: duplicate name m",
        ),
        (
            [Controller("https://a", [System("m")]), Controller("https://a/", [System("n")])],
            "bmcs: duplicate address https://a",
        ),
        (
            [Controller("https://a", [System("m"), System("n")])],
            "https://a has several machines: set the `system` of each",
        ),
        ([Controller("https://joe:pw@a", [System("m")])], "expected https://HOST, without credentials"),
        ([Controller("ftp://a", [System("m")])], "expected https://HOST"),
    ],
)
def test_a_contradictory_inventory_stops_the_start(bmcs: Rack, tmp_path: Path, bmcs_: Any, problem: str) -> None:
    """The error for an inventory names the problem before the start, without the password in an address."""
    with pytest.raises(CannotStart, match=problem) as error:
        Redfish("rack1", tmp_path, bmcs.settings(bmcs=bmcs_))
    assert "pw" not in str(error.value)


def test_a_bmc_with_one_system_needs_no_system_named(tmp_path: Path) -> None:
    """The provider finds the only system of a BMC by itself."""
    with rack(1, 1) as small:
        alone = Controller(small.addresses[0], [System("only")])
        assert "only" == provider(tmp_path, small.settings(bmcs=[alone])).provision("1a", spec()).handle


def test_a_bmc_with_several_systems_needs_one_named(bmcs: Rack, tmp_path: Path) -> None:
    """The error tells the operator to set `system` if a BMC has several."""
    alone = Controller(bmcs.addresses[0], [System("only")])
    with pytest.raises(GiveUp, match="has 2 systems: set this machine's `system` in the inventory"):
        provider(tmp_path, bmcs.settings(bmcs=[alone])).provision("1a", spec("only"))
