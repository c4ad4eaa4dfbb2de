"""A rack of emulated BMCs, and the provider for it."""

import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.providers.redfish.options import Controller, Options, System
from pyinfrakit.schema.secrets import Secret
from support.harness import ROOT

BMCS = ROOT / "examples" / "redfish" / "bmcs.py"
USER, PASSWORD = "admin", "calvin"
TRUST = ssl.create_default_context(cafile=ROOT / "tests" / "tls" / "certificate.pem")
FAULTS = ("401", "404", "412", "500", "garbage", "list", "half", "drop", "hang")

QUICK = Options(
    bmcs=[],
    username=Secret(USER),
    password=Secret(PASSWORD),
    timeout=20,
    poll_timeout=20,
    power_timeout=5,
    graceful_timeout=5,
    longest_pause=0.2,
)


class Rack:
    """BMCs with *systems* systems each. Machine ``b0n1`` is system node-1 of the first BMC."""

    def __init__(self, addresses: list[str], systems: int, process: "subprocess.Popen[bytes]") -> None:
        self.addresses = addresses
        self.systems = systems
        self.process = process

    def settings(self, **changes: Any) -> Options:
        """Return the inventory. Machines of the first BMC are large, others are small."""
        bmcs = [Controller(address, self._machines(number)) for number, address in enumerate(self.addresses)]
        return replace(QUICK, **{"bmcs": bmcs, **changes})

    def _machines(self, bmc: int) -> list[System]:
        size = "small" if bmc else "large"
        return [
            System(f"b{bmc}n{n}", f"/redfish/v1/Systems/node-{n}", {"size": size}) for n in range(1, self.systems + 1)
        ]

    def toml(self, **changes: Any) -> str:
        """Return the inventory as a configuration file; credentials are in the environment."""
        options = {"timeout": 20, "longest_pause": 0.2, "power_timeout": 5, "graceful_timeout": 5, **changes}
        lines = [
            'provider = "redfish"',
            "[options]",
            'username = { env = "BMC_USER" }',
            'password = { env = "BMC_PASSWORD" }',
        ]
        lines += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
        for number, address in enumerate(self.addresses):
            lines += ["[[options.bmcs]]", f'address = "{address}"']
            for machine in self._machines(number):
                tags = ", ".join(f'{key} = "{value}"' for key, value in machine.tags.items())
                lines += [
                    "[[options.bmcs.machines]]",
                    f'name = "{machine.name}"',
                    f'system = "{machine.system}"',
                    f"tags = {{ {tags} }}",
                ]
        return "\n".join(lines)

    def reset(self) -> None:
        for address in self.addresses:
            _post(f"{address}/-/reset", None)

    def fault(self, kind: str, bmc: int = 0, path: str = "", method: str = "", times: int | None = None) -> None:
        """Make requests to a BMC fail from now on."""
        fault = {"kind": kind, "path": path, "method": method, "times": times}
        _post(f"{self.addresses[bmc]}/-/fault", [fault])

    def mend(self, bmc: int = 0) -> None:
        _post(f"{self.addresses[bmc]}/-/fault", [])

    def say(self, machine: str, **said: Any) -> None:
        """Change the report of a system on itself."""
        bmc, node = self._locate(machine)
        _post(f"{self.addresses[bmc]}/-/system/{node}", said)

    def power(self, machine: str, state: str) -> None:
        """Change a machine's power without a Redfish request."""
        bmc, node = self._locate(machine)
        _post(f"{self.addresses[bmc]}/-/power/{node}", state)

    def sick(self, machine: str) -> None:
        self.say(machine, Status={"State": "Enabled", "Health": "Critical", "HealthRollup": "Critical"})

    def well(self, machine: str) -> None:
        self.say(machine, Status={"State": "Enabled", "Health": "OK", "HealthRollup": "OK"})

    def without_etags(self, bmc: int = 0) -> None:
        _post(f"{self.addresses[bmc]}/-/etags", False)

    def state(self, bmc: int = 0) -> dict[str, Any]:
        state: dict[str, Any] = _post(f"{self.addresses[bmc]}/-/state", None)
        return state

    def tags(self) -> dict[str, str]:
        """Return all asset tags that are not empty, by machine."""
        found = {}
        for number in range(len(self.addresses)):
            for node, said in self.state(number)["said"].items():
                if said.get("AssetTag"):
                    found[f"b{number}n{node.removeprefix('node-')}"] = said["AssetTag"]
        return found

    def system(self, machine: str) -> dict[str, Any]:
        """Return the emulator's data about a system."""
        bmc, node = self._locate(machine)
        system: dict[str, Any] = self.state(bmc)["systems"][node]
        return system

    @staticmethod
    def _locate(machine: str) -> tuple[int, str]:
        bmc, _, node = machine.removeprefix("b").partition("n")
        return int(bmc), f"node-{node}"


@contextmanager
def rack(bmcs: int, systems: int, *flags: str) -> Iterator[Rack]:
    """Run BMCs in the background."""
    command = [sys.executable, str(BMCS), "--bmcs", str(bmcs), "--systems", str(systems), *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            rack_ = Rack(json.loads(process.stdout.readline()), systems, process)
            rack_.tags()  # each has to answer first
            yield rack_
        finally:
            process.terminate()


def provider(folder: Path, settings: Options, mark: str = "mine", name: str = "rack1") -> Redfish:
    """Return a running provider."""
    redfish = Redfish(name, folder, settings)
    redfish.mark = mark
    redfish.start()
    return redfish


def _post(address: str, content: Any) -> Any:
    data = json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60, context=TRUST) as reply:
        return json.load(reply)
