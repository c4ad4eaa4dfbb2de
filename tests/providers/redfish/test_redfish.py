"""The provider for physical machines: what it claims, frees and sees, on emulated BMCs."""

import fcntl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.providers.redfish.bmc import Bmc, Changed
from pyinfrakit.providers.redfish.inventory import Controller, Media, System
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
    """The same, as new."""
    built.reset()
    return built


@pytest.fixture
def redfish(bmcs: Rack, tmp_path: Path) -> Redfish:
    return provider(tmp_path, bmcs.settings())


def patience(kind: str) -> float:
    """Give how many seconds a BMC has to answer while requests to it fail so: in one way alone that is waited for in vain."""
    return 1 if kind == "hang" else 20


def spec(logical: str | None = None, init: str = "", **properties: Any) -> Spec:
    return Spec(properties=Raw(msgspec.json.encode(properties)), logical_id=logical, init=init)


def destroy(redfish: Redfish, id: str) -> None:
    redfish.destroy([Record(id=id, state=State.DESTROYING, spec=Spec())], "terminate")


def seen(redfish: Redfish, id: str) -> Machine:
    (found,) = [machine for machine in redfish.observe() if machine.id == id]
    return found


def reason(redfish: Redfish, id: str) -> str:
    """Give why a machine does not work."""
    machine = seen(redfish, id)
    assert not machine.functional
    return machine.reason


# provision


def test_a_provision_claims_and_powers_on_a_machine_that_fits(bmcs: Rack, redfish: Redfish) -> None:
    """It has the tags, the mark and the ID are its asset tag, it boots as wanted, and it is on."""
    machine = redfish.provision("1a", spec(tags={"size": "small"}, boot="pxe"))
    assert "b1n1" == machine.handle
    assert {"b1n1": "infrakit:mine:1a"} == bmcs.tags()
    system = bmcs.system("b1n1")
    assert ("On", "Pxe") == (system["power_state"], system["boot_device"])


def test_live_properties_are_what_the_bmc_says(bmcs: Rack, redfish: Redfish) -> None:
    """Power, health, model, serial number, BMC and boot source are in an instance's properties, and no credentials."""
    redfish.provision("1a", spec(boot="pxe"))
    live = seen(redfish, "1a").live
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
    """So does `machine` in the properties; where both name one, it must be the same."""
    assert "b1n2" == redfish.provision("1a", spec("b1n2")).handle
    assert "b0n2" == redfish.provision("1b", spec("manager-1", machine="b0n2")).handle
    with pytest.raises(GiveUp, match=r"names machine b0n1, and Properties.machine b1n1"):
        redfish.provision("1c", spec("b0n1", machine="b1n1"))
    with pytest.raises(GiveUp, match="no machine 'b9n9' in the pool"):
        redfish.provision("1c", spec(machine="b9n9"))


def test_a_named_machine_that_is_not_free_is_an_error_that_says_why(bmcs: Rack, redfish: Redfish) -> None:
    """In use, it names the instance; unhealthy, running or set aside it says so."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n2")
    bmcs.power("b1n1", "On")
    list(redfish.observe())
    for name, why in (("b0n1", "in use by 1a"), ("b0n2", "health is Critical"), ("b1n1", "nobody claims it")):
        with pytest.raises(GiveUp, match=f"machine {name} at BMC http.* is not free: .*{why}"):
            redfish.provision("1b", spec(name))


def test_a_machine_that_the_inventory_sets_aside_is_not_taken(bmcs: Rack, tmp_path: Path) -> None:
    """Its reason is told; where an instance has it, it is not functional."""
    settings = bmcs.settings()
    first = provider(tmp_path, settings)
    first.provision("1a", spec("b0n1"))
    for machine in ("b0n1", "b0n2"):
        settings = msgspec.structs.replace(settings, bmcs=[_aside(each, machine) for each in settings.bmcs])
    second = provider(tmp_path, settings)
    assert "new disk" == reason(second, "1a")
    with pytest.raises(GiveUp, match=r"b0n2 .* is not free: new disk"):
        second.provision("1b", spec("b0n2"))


def _aside(bmc: Controller, name: str) -> Controller:
    replace = msgspec.structs.replace
    return replace(bmc, machines=[replace(m, aside="new disk") if m.name == name else m for m in bmc.machines])


def test_no_free_machine_is_an_error_that_counts(bmcs: Rack, redfish: Redfish) -> None:
    """It says how many fit, and how many of these are in use, unhealthy, set aside, unreachable or running."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n2")
    bmcs.power("b1n1", "On")
    bmcs.fault("500", 1, path="node-2")
    list(redfish.observe())
    with pytest.raises(GiveUp) as error:
        redfish.provision("1b", spec())
    counts = "1 in use, 1 unhealthy, 0 set aside, 1 unreachable, 1 running"
    assert f"no free machine: 4 of 4 fit, of which {counts}" == str(error.value)
    with pytest.raises(GiveUp, match="2 of 4 fit size=large, of which 1 in use, 1 unhealthy"):
        redfish.provision("1b", spec(tags={"size": "large"}))
    with pytest.raises(GiveUp, match=r"no free machine: 0 of 4 fit size=huge$"):
        redfish.provision("1b", spec(tags={"size": "huge"}))


def test_a_machine_that_runs_and_that_nobody_claims_is_not_taken(bmcs: Rack, redfish: Redfish) -> None:
    """Somebody may be working on it."""
    for name in ("b0n1", "b0n2", "b1n1"):
        bmcs.power(name, "On")
    assert "b1n2" == redfish.provision("1a", spec()).handle


@pytest.mark.parametrize("kind", ["401", "404", "500", "garbage", "half", "drop", "hang"])
def test_a_bmc_that_fails_keeps_no_machine_of_another_from_being_taken(bmcs: Rack, tmp_path: Path, kind: str) -> None:
    """The next one that fits is."""
    redfish = provider(tmp_path, bmcs.settings(timeout=patience(kind)))
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
def test_properties_that_contradict_themselves_are_refused(redfish: Redfish, wrong: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(InvalidSpec, match=r"Properties\.url: expected"):
        redfish.validate(Raw(msgspec.json.encode(wrong)))


def test_an_iso_is_inserted_and_ejected(bmcs: Rack, redfish: Redfish, tmp_path: Path) -> None:
    """A machine boots from the image, and the next one who gets it does not find it in the drive."""
    with served(tmp_path) as url:
        (tmp_path / "installer.iso").write_bytes(b"iso")
        redfish.provision("1a", spec("b0n1", boot="iso", url=f"{url}/installer.iso"))
        assert f"{url}/installer.iso" == bmcs.state()["media"]["node-1/Cd"]
        assert "Cd" == bmcs.system("b0n1")["boot_device"]
        destroy(redfish, "1a")
    assert "" == bmcs.state()["media"]["node-1/Cd"]


def test_a_machine_boots_by_http(bmcs: Rack, redfish: Redfish) -> None:
    """Its BMC is told the URL, and that it is for once."""
    redfish.provision("1a", spec("b0n1", boot="http", url="http://images/image.efi"))
    asked = bmcs.state()["boots"][-1]
    assert ("UefiHttp", "http://images/image.efi", "Once") == tuple(
        asked[key] for key in ("BootSourceOverrideTarget", "HttpBootUri", "BootSourceOverrideEnabled")
    )
    assert "On" == bmcs.system("b0n1")["power_state"]


def test_a_machine_boots_so_always_if_that_is_wanted(bmcs: Rack, redfish: Redfish) -> None:
    """The boot source is set for good, and not for the next start alone."""
    redfish.provision("1a", spec("b0n1", boot="pxe", always=True))
    asked = bmcs.state()["boots"][-1]
    assert ("Pxe", "Continuous") == (asked["BootSourceOverrideTarget"], asked["BootSourceOverrideEnabled"])


# Init


def test_init_is_on_a_disc_that_cloud_init_finds(bmcs: Rack, tmp_path: Path) -> None:
    """The BMC has fetched it; it has the user data, and who the machine is; a destroy removes it."""
    (tmp_path / "www").mkdir()
    with served(tmp_path / "www") as url:
        redfish = provider(tmp_path, bmcs.settings(media=Media("www", url)))
        redfish.provision("1a", spec("b0n1", init="#!/bin/sh\njoin --token sesame\n"))
        (image,) = (tmp_path / "www").iterdir()
        assert f"{url}/{image.name}" == bmcs.state()["media"]["node-1/Cd"]
        assert {"user-data": b"#!/bin/sh\njoin --token sesame\n", "meta-data": META} == disc(image)
        destroy(redfish, "1a")
    assert [] == list((tmp_path / "www").iterdir())


def test_init_and_an_iso_are_in_two_drives(bmcs: Rack, tmp_path: Path) -> None:
    """The machine boots from the one, and finds the other; both are ejected in the end."""
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


def disc(image: Path) -> dict[str, bytes]:
    """Read an image: its files, by name."""
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


def test_init_without_a_place_for_it_is_refused(bmcs: Rack, redfish: Redfish) -> None:
    """It is not dropped in silence, and no machine is claimed."""
    with pytest.raises(GiveUp, match=r"Init: .*set the option `media`"):
        redfish.provision("1a", spec(init="join"))
    assert {} == bmcs.tags()


# destroy


def test_a_destroy_leaves_the_machine_as_it_was(bmcs: Rack, redfish: Redfish) -> None:
    """It is off, boots as before, and has the asset tag that the operator had given it; and it is free again."""
    bmcs.say("b0n1", AssetTag="inventory 4711")
    redfish.provision("1a", spec("b0n1", boot="pxe"))
    assert "infrakit:mine:1a" == bmcs.tags()["b0n1"]
    destroy(redfish, "1a")
    assert {"b0n1": "inventory 4711"} == bmcs.tags()
    system = bmcs.system("b0n1")
    assert ("Off", "Hdd") == (system["power_state"], system["boot_device"])
    assert "b0n1" == redfish.provision("1b", spec("b0n1")).handle


def test_a_machine_that_does_not_shut_down_is_forced_off(bmcs: Rack, tmp_path: Path) -> None:
    """It has its time to do so by itself first."""
    redfish = provider(tmp_path, bmcs.settings(graceful_timeout=0.3))
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("stuck", path="Reset", times=1)
    destroy(redfish, "1a")
    resets = [each for each in bmcs.state()["requests"] if each.endswith("Reset")]
    assert 3 == len(resets), "on, shut down, forced off"
    assert "Off" == bmcs.system("b0n1")["power_state"]


def test_a_machine_that_can_not_be_asked_to_shut_down_is_forced_off(bmcs: Rack, redfish: Redfish) -> None:
    """Not all BMCs can do that."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("400", path="Reset", times=1)
    destroy(redfish, "1a")
    assert "Off" == bmcs.system("b0n1")["power_state"]


def test_a_machine_rests_until_its_cleaning_succeeds(bmcs: Rack, tmp_path: Path) -> None:
    """The command is told which machine, in an environment of nothing else; while it fails the machine is not free."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\nenv > {tmp_path}/told\n[ -e {tmp_path}/wiped ] || {{ echo no disk found; exit 3; }}\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    with pytest.raises(
        TryAgain, match=r"machine b0n1: its cleaning by .*wipe failed \(3\): no disk found; it is not free"
    ):
        destroy(redfish, "1a")
    assert "infrakit:mine:1a:cleaning" == bmcs.tags()["b0n1"]
    assert "being cleaned" == reason(redfish, "1a")
    with pytest.raises(GiveUp, match=r"not free: in use by 1a .*\(cleaning\)"):
        redfish.provision("1b", spec("b0n1"))
    (tmp_path / "wiped").touch()
    destroy(redfish, "1a")
    assert {} == bmcs.tags()
    told = dict(line.split("=", 1) for line in (tmp_path / "told").read_text().splitlines())
    assert ("b0n1", bmcs.addresses[0], "1a") == (told["MACHINE"], told["BMC"], told["INSTANCE"])
    assert set() == told.keys() - {"MACHINE", "BMC", "SYSTEM", "INSTANCE", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}


def test_a_cleaning_that_an_earlier_plugin_began_is_waited_for(bmcs: Rack, tmp_path: Path) -> None:
    """What a killed plugin has left running is not run a second time beside it."""
    hook = tmp_path / "wipe"
    hook.write_text(f"#!/bin/sh\necho wiping >> {tmp_path}/times\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)]))
    redfish.provision("1a", spec("b0n1"))
    with (tmp_path / "b0n1.cleaning").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="which an earlier run of the plugin began, goes on; it is not free"):
            destroy(redfish, "1a")
    destroy(redfish, "1a")
    assert "wiping\n" == (tmp_path / "times").read_text()
    assert {} == bmcs.tags()


def test_a_cleaning_that_takes_too_long_is_ended(bmcs: Rack, tmp_path: Path) -> None:
    """With all that it started; the machine is not free."""
    hook = tmp_path / "wipe"
    hook.write_text("#!/bin/sh\nsleep 600 &\nwait\n")
    hook.chmod(0o755)
    redfish = provider(tmp_path, bmcs.settings(cleaning=[str(hook)], cleaning_timeout=0.3))
    redfish.provision("1a", spec("b0n1"))
    with pytest.raises(TryAgain, match=r"did not end within 0.3 s; it is not free"):
        destroy(redfish, "1a")


# claims


def test_a_claim_is_exclusive_between_plugins(bmcs: Rack, tmp_path: Path) -> None:
    """Two plugins that share a pool never get the same machine; what is left when there are no more is the error."""
    one, other = (provider(tmp_path, bmcs.settings(), mark=each, name=each) for each in ("one", "other"))
    got = [each.provision(id, spec()).handle for each, id in ((one, "1a"), (other, "1b"), (one, "1c"), (other, "1d"))]
    assert 4 == len(set(got))
    with pytest.raises(GiveUp, match="4 in use"):
        one.provision("1e", spec())


def test_many_claims_at_once_by_two_plugins_get_a_machine_each(bmcs: Rack, tmp_path: Path) -> None:
    """There are as many that get one as there are machines, and none is given twice."""
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


def test_a_tag_is_written_only_as_long_as_nothing_has_changed(bmcs: Rack, redfish: Redfish) -> None:
    """The ETag is the condition, and it is not given up where it does not hold."""
    settings = bmcs.settings()
    bmc, machine = Bmc(settings.bmcs[0], settings), settings.bmcs[0].machines[0]
    etag = bmc.look(machine).etag
    bmcs.say("b0n1", AssetTag="somebody else's")
    with pytest.raises(Changed):
        bmc.write_tag(machine, "mine", etag)
    assert {"b0n1": "somebody else's"} == bmcs.tags()


def test_a_machine_that_another_plugin_claims_meanwhile_is_left_to_it(bmcs: Rack, tmp_path: Path) -> None:
    """Its BMC refuses the write, as the ETag has changed; the next machine is taken."""
    redfish = provider(tmp_path, bmcs.settings())
    bmcs.fault("412", method="PATCH", times=1)
    assert "b0n2" == redfish.provision("1a", spec(tags={"size": "large"})).handle
    assert {"b0n2": "infrakit:mine:1a"} == bmcs.tags()


def test_a_named_machine_that_another_plugin_claims_meanwhile_is_told(bmcs: Rack, redfish: Redfish) -> None:
    """A 412 is an error that names machine and BMC."""
    bmcs.fault("412", method="PATCH")
    with pytest.raises(GiveUp, match=r"machine b0n1 at BMC http.* is not free: another plugin was quicker"):
        redfish.provision("1a", spec("b0n1"))


def test_a_double_claim_is_told_and_the_loser_lets_go(bmcs: Rack, tmp_path: Path) -> None:
    """Where a BMC has no ETags, both may write; whose tag is not there any more is not functional, and harms nothing."""
    bmcs.without_etags()
    one = provider(tmp_path, bmcs.settings(), mark="one", name="one")
    one.provision("1a", spec("b0n1"))
    bmcs.say("b0n1", AssetTag="infrakit:other:1b")
    assert "claimed twice: its asset tag says that it is 1b, of the plugin with mark other" in reason(one, "1a")
    destroy(one, "1a")
    assert {"b0n1": "infrakit:other:1b"} == bmcs.tags()
    assert "On" == bmcs.system("b0n1")["power_state"]


def test_claims_survive_the_loss_of_the_claims_file(bmcs: Rack, tmp_path: Path) -> None:
    """The asset tags say whose the machines are: the instance is seen, keeps its machine, and can be destroyed."""
    provider(tmp_path, bmcs.settings()).provision("1a", spec())
    (tmp_path / "rack1.claims").unlink()
    again = provider(tmp_path, bmcs.settings())
    assert ("1a", "b0n1") == (seen(again, "1a").id, seen(again, "1a").handle)
    assert "b0n1" == again.provision("1a", spec()).handle
    destroy(again, "1a")
    assert {} == bmcs.tags()


def test_a_claim_of_which_nobody_heard_is_found_again(bmcs: Rack, redfish: Redfish) -> None:
    """Where the BMC did write the tag, and its answer was lost, the next call for the ID has that machine, and no second."""
    bmcs.fault("late", method="PATCH", times=1)
    with pytest.raises(TryAgain, match="b0n1"):
        redfish.provision("1a", spec(tags={"size": "large"}))
    bmcs.mend()
    _wait_out(redfish)
    assert "b0n1" == redfish.provision("1a", spec(tags={"size": "large"})).handle
    assert {"b0n1": "infrakit:mine:1a"} == bmcs.tags()


def _wait_out(redfish: Redfish) -> None:
    """Wait until no BMC is left alone any more."""
    import time  # noqa: PLC0415

    time.sleep(0.3)


def test_a_damaged_claims_file_stops_the_start(bmcs: Rack, tmp_path: Path) -> None:
    """It is not taken for empty."""
    (tmp_path / "rack1.claims").write_text("{")
    with pytest.raises(CannotStart, match=r"claims file .*rack1.claims"):
        provider(tmp_path, bmcs.settings())


def test_the_claims_file_is_private(redfish: Redfish, tmp_path: Path) -> None:
    """As the state file is."""
    redfish.provision("1a", spec())
    assert 0o600 == stat.S_IMODE((tmp_path / "rack1.claims").stat().st_mode)


# health


def test_a_critical_machine_is_not_functional_until_it_heals(bmcs: Rack, redfish: Redfish) -> None:
    """The rollup counts."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n1")
    assert "its health is Critical: its BMC's log says more" == reason(redfish, "1a")
    bmcs.well("b0n1")
    assert seen(redfish, "1a").functional


def test_a_machine_that_goes_off_is_not_functional(bmcs: Rack, redfish: Redfish) -> None:
    """Unless it is told to."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert "it is powered off, and should not be" == reason(redfish, "1a")


def test_what_was_cleared_by_hand_is_not_shown(bmcs: Rack, redfish: Redfish) -> None:
    """Whose asset tag somebody has removed is nobody's."""
    redfish.provision("1a", spec("b0n1"))
    bmcs.say("b0n1", AssetTag="")
    assert [] == list(redfish.observe())


@pytest.mark.parametrize("kind", [*FAULTS, "stopped"])
def test_what_can_not_be_seen_is_unknown_and_delays_nobody(bmcs: Rack, tmp_path: Path, kind: str) -> None:
    """Whatever a BMC does, its machines are unknown, also after a restart, and those of the other are seen."""
    settings = bmcs.settings(timeout=patience(kind))
    first = provider(tmp_path, settings)
    first.provision("1a", spec("b0n1"))
    first.provision("1b", spec("b1n1"))
    bmcs.fault(kind, path="Systems") if kind != "stopped" else bmcs.fault("drop")
    for redfish in (first, provider(tmp_path, settings)):
        found = {machine.id: machine for machine in redfish.observe()}
        assert (True, "b0n1") == (found["1a"].unknown, found["1a"].handle)
        assert (False, True) == (found["1b"].unknown, found["1b"].functional)


def test_what_is_not_seen_for_too_long_is_not_functional(bmcs: Rack, tmp_path: Path) -> None:
    """The reason says why, and names the BMC."""
    redfish = provider(tmp_path, bmcs.settings(unreachable_after=0.2))
    redfish.provision("1a", spec("b0n1"))
    bmcs.fault("drop")
    _wait_out(redfish)
    assert "not seen for more than 0.2 s: machine b0n1: BMC http" in reason(redfish, "1a")
    bmcs.mend()
    _wait_out(redfish)
    assert seen(redfish, "1a").functional


def test_a_bmc_that_fails_is_left_alone_for_longer_and_longer(bmcs: Rack, tmp_path: Path) -> None:
    """Accounts are locked after a few wrong passwords, and a BMC may be starting."""
    redfish = provider(tmp_path, bmcs.settings(longest_pause=600))
    bmcs.fault("401", path="Systems")
    for _ in range(20):
        list(redfish.observe())
    assert 20 > 2 * sum("Systems" in request for request in bmcs.state()["requests"])


def test_a_failing_machine_is_power_cycled_once_if_asked_for(bmcs: Rack, tmp_path: Path) -> None:
    """What becomes of it is waited for; what still fails then is given up, and not cycled again, also by the next daemon."""
    settings = bmcs.settings(power_cycle=True, power_timeout=3)
    redfish = provider(tmp_path, settings)
    redfish.ready = {"1a"}
    redfish.provision("1a", spec("b0n1"))
    bmcs.sick("b0n1")
    assert seen(redfish, "1a").unknown
    eventually(lambda: not seen(redfish, "1a").unknown, "it is given up")
    for each in (redfish, provider(tmp_path, settings)):
        each.ready = {"1a"}
        assert "its health is Critical: its BMC's log says more, also after a power cycle" == reason(each, "1a")
    assert 2 == sum(request.endswith("Reset") for request in bmcs.state()["requests"]), "on, and one restart"


def test_a_machine_that_went_off_is_switched_on_again_if_asked_for(bmcs: Rack, tmp_path: Path) -> None:
    """That is its power cycle."""
    redfish = provider(tmp_path, bmcs.settings(power_cycle=True, power_timeout=3))
    redfish.ready = {"1a"}
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert seen(redfish, "1a").unknown
    eventually(lambda: not seen(redfish, "1a").unknown, "it is on")
    assert seen(redfish, "1a").functional


def test_a_machine_whose_instance_is_not_ready_is_not_power_cycled(bmcs: Rack, tmp_path: Path) -> None:
    """Somebody may have their hands in it."""
    redfish = provider(tmp_path, bmcs.settings(power_cycle=True))
    redfish.provision("1a", spec("b0n1"))
    bmcs.power("b0n1", "Off")
    assert "it is powered off, and should not be" == reason(redfish, "1a")
    assert "Off" == bmcs.system("b0n1")["power_state"]


# what goes wrong

TOLD = {
    "400": r"it refuses \(400: as the test wishes\): look into its own log",
    "401": r"refuses the credentials \(401\): check",
    "404": r"no such thing \(404\): check the machine's `system`",
    "500": r"it fails \(500: as the test wishes\): look into its own log, or reset it",
    "half": "broke off in the middle|no answer within",
    "drop": "broke off in the middle",
    "hang": "no answer within 1 s: is the management network up",
}


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("request_", ["PATCH", "POST"])
def test_a_failure_names_machine_and_bmc_and_what_to_do(bmcs: Rack, tmp_path: Path, kind: str, request_: str) -> None:
    """Whether the claim fails or the power-on, the error has all that, and no credentials; the next call puts it right."""
    redfish = provider(tmp_path, bmcs.settings(timeout=patience(kind)))
    bmcs.fault(kind, method=request_)
    with pytest.raises(TryAgain, match=f"machine b0n1: BMC {bmcs.addresses[0]}: .*({TOLD[kind]})") as error:
        redfish.provision("1a", spec("b0n1"))
    assert [] == [secret for secret in (USER, PASSWORD) if secret in str(error.value)]
    bmcs.mend()
    _wait_out(redfish)
    destroy(redfish, "1a")
    assert {} == bmcs.tags()
    assert "Off" == bmcs.system("b0n1")["power_state"]


@pytest.mark.parametrize("kind", ["garbage", "list"])
def test_what_is_no_redfish_is_told(bmcs: Rack, redfish: Redfish, kind: str) -> None:
    """Where something else answers at a BMC's address, the error says so."""
    bmcs.fault(kind, path="Systems")
    with pytest.raises(GiveUp, match=r"machine b0n1 at BMC http.* is not free: .*: is the address a BMC's"):
        redfish.provision("1a", spec("b0n1"))


@pytest.mark.parametrize("kind", ["garbage", "list", "stuck"])
def test_a_tag_that_is_not_kept_is_told(bmcs: Rack, redfish: Redfish, kind: str) -> None:
    """A BMC may say yes to what it then does not do: what was written is read again."""
    bmcs.fault(kind, method="PATCH")
    with pytest.raises(
        GiveUp, match=r"machine b0n1 at BMC http.* is not free: its BMC did not keep its asset tag, .* is there room"
    ):
        redfish.provision("1a", spec("b0n1"))


def test_a_refused_connection_is_told(bmcs: Rack, tmp_path: Path) -> None:
    """Where nothing listens at a BMC's address, the error says so."""
    dead = Controller("http://127.0.0.1:9", [System("dead", "/redfish/v1/Systems/1")])
    redfish = provider(tmp_path, bmcs.settings(bmcs=[dead]))
    with pytest.raises(
        GiveUp, match=r"machine dead at BMC http://127.0.0.1:9 is not free: .*it refuses the connection: is the"
    ):
        redfish.provision("1a", spec("dead"))


def test_a_power_change_that_never_happens_is_told(bmcs: Rack, tmp_path: Path) -> None:
    """A machine that does not come on is an error, and left alone for a while; one that does not go off is tried again."""
    redfish = provider(tmp_path, bmcs.settings(power_timeout=3, graceful_timeout=0.3))
    bmcs.fault("stuck", path="Reset")
    with pytest.raises(TryAgain, match=r"machine b0n1: BMC http.*: still off 3 s after On: look at its power supply"):
        redfish.provision("1a", spec(tags={"size": "large"}))
    destroy(redfish, "1a")
    bmcs.mend()
    assert "b0n2" == redfish.provision("1b", spec(tags={"size": "large"})).handle
    bmcs.fault("stuck", path="Reset")
    with pytest.raises(TryAgain, match=r"machine b0n2: BMC http.*: still on 3 s after ForceOff: switch it off by hand"):
        destroy(redfish, "1b")
    assert {"b0n2": "infrakit:mine:1b"} == bmcs.tags()


def test_credentials_that_a_bmc_repeats_are_not_told(bmcs: Rack, tmp_path: Path) -> None:
    """An error that has them has stars instead."""
    redfish = provider(tmp_path, bmcs.settings(username=Secret("as the"), password=Secret("wishes")))
    bmcs.fault("500", path="Systems")
    list(redfish.observe())
    first = next(iter(redfish.pool()))
    assert "(500: *** test ***)" in first.reason


# certificates

TLS = ROOT / "tests" / "tls"


@pytest.fixture(scope="module")
def https() -> Iterator[Rack]:
    """A BMC with a certificate that it has signed itself."""
    with rack(1, 1, "--tls", str(TLS / "certificate.pem"), str(TLS / "key.pem")) as rack_:
        yield rack_


def test_a_certificate_that_is_not_trusted_is_told(https: Rack, tmp_path: Path) -> None:
    """Nothing is sent to a BMC that might be another one; the error says what to do."""
    with pytest.raises(
        GiveUp, match=r"machine b0n1 at BMC https.*: its certificate is not trusted: give its CA by `ca`, or say"
    ):
        provider(tmp_path, https.settings()).provision("1a", spec("b0n1"))


@pytest.mark.parametrize("trust", [{"ca": str(TLS / "certificate.pem")}, {"verify": False}])
def test_a_certificate_is_trusted_by_its_ca_or_as_it_is_said_so(
    https: Rack, tmp_path: Path, trust: dict[str, Any]
) -> None:
    """Either is enough."""
    redfish = provider(tmp_path, https.settings(**trust))
    assert "b0n1" == redfish.provision("1a", spec("b0n1")).handle
    destroy(redfish, "1a")


def test_a_ca_file_that_is_not_there_is_told(https: Rack, tmp_path: Path) -> None:
    """Before the start."""
    with pytest.raises(CannotStart, match=r"ca: /nowhere\.pem: no such file"):
        provider(tmp_path, https.settings(ca="/nowhere.pem"))


# inventory


@pytest.mark.parametrize(
    ("bmcs_", "told"),
    [
        (
            [Controller("https://a", [System("m")]), Controller("https://b", [System("m")])],
            "machines: two are called m",
        ),
        (
            [Controller("https://a", [System("m")]), Controller("https://a/", [System("n")])],
            "bmcs: two have the address https://a",
        ),
        (
            [Controller("https://a", [System("m"), System("n")])],
            "https://a has several machines: each needs its system",
        ),
        ([Controller("https://joe:pw@a", [System("m")])], "expected an address as https://HOST, without credentials"),
        ([Controller("ftp://a", [System("m")])], "expected an address as https://HOST"),
    ],
)
def test_an_inventory_that_makes_no_sense_is_refused(bmcs: Rack, tmp_path: Path, bmcs_: Any, told: str) -> None:
    """Before the start, with what is wrong; a password in an address is not repeated."""
    with pytest.raises(CannotStart, match=told) as error:
        Redfish("rack1", tmp_path, bmcs.settings(bmcs=bmcs_))
    assert "pw" not in str(error.value)


def test_a_bmc_with_one_system_needs_no_system_named(tmp_path: Path) -> None:
    """It is found; where there are several, the error says what to write."""
    with rack(1, 1) as small:
        alone = Controller(small.addresses[0], [System("only")])
        assert "only" == provider(tmp_path, small.settings(bmcs=[alone])).provision("1a", spec()).handle


def test_a_system_that_is_not_named_among_several_is_told(bmcs: Rack, tmp_path: Path) -> None:
    """The error says what to write into the inventory."""
    alone = Controller(bmcs.addresses[0], [System("only")])
    with pytest.raises(GiveUp, match="has 2 systems: say in the inventory which one this machine is, by `system`"):
        provider(tmp_path, bmcs.settings(bmcs=[alone])).provision("1a", spec("only"))
