"""Providers that run in the benchmark's own process, and the emulated BMCs that one of them talks to."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

from benchmarks.servers.process import ROOT
from pyinfrakit.providers.process import Process
from pyinfrakit.providers.process.options import Options as ProcessOptions
from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.providers.redfish.options import Controller, System
from pyinfrakit.providers.redfish.options import Options as RedfishOptions
from pyinfrakit.schema.secrets import Secret

EMULATOR = (sys.executable, str(ROOT / "examples" / "redfish" / "bmcs.py"))

MARK = "benchmarks"
"""The plugin identity on all machines, so that a daemon and a provider here observe the same ones."""

USER = "nobody" if os.geteuid() == 0 else None
"""The user that processes run as. The process provider requires one other than root if it runs as root."""

BMC_TIMEOUT = 2.0
"""Seconds before a request to a BMC times out."""


def start_process_provider(folder: Path) -> Process:
    """Return a provider that observes the processes of the daemon whose state file is in *folder*."""
    provider = Process("plugin", folder, ProcessOptions(user=USER))
    provider.mark = MARK
    asyncio.run(provider.start())
    return provider


def start_redfish_provider(folder: Path, addresses: Sequence[str], machines: int) -> Redfish:
    """Return a provider that observes *machines* machines behind each of the BMCs."""
    options = RedfishOptions(
        bmcs=[Controller(address, _list_systems(address, machines)) for address in addresses],
        username=Secret("admin"),
        password=Secret("calvin"),
        timeout=BMC_TIMEOUT,
        longest_pause=0.01,  # every round asks the BMC that hangs again
    )
    provider = Redfish("rack", folder, options)
    provider.mark = MARK
    provider.start()
    return provider


def _list_systems(address: str, count: int) -> list[System]:
    port = address.rpartition(":")[2]
    return [System(f"m{port}-{n}", f"/redfish/v1/Systems/node-{n}") for n in range(1, count + 1)]


class Observation(Struct, frozen=True):
    """The seconds of an observation, and the seconds that its slowest and its median BMC took."""

    total: float
    slowest_bmc: float
    median_bmc: float


def time_rack_observation(provider: Redfish) -> Observation:
    """Observe all machines once and return the time."""
    time.sleep(0.05)  # longer than the provider's pause before it asks a failed BMC again
    began = time.perf_counter()
    list(provider.observe())
    total = time.perf_counter() - began
    seconds = provider.poller.durations.values()
    return Observation(total, max(seconds), median(seconds))


@contextmanager
def run_bmcs(count: int, machines: int) -> Iterator[Sequence[str]]:
    """Run *count* emulated BMCs with *machines* machines each, and yield their addresses."""
    command = [*EMULATOR, "--bmcs", str(count), "--systems", str(machines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def set_hang(address: str, is_hanging: bool) -> None:
    """Make a BMC hang, or respond again."""
    faults: list[Mapping[str, Any]] = [{"kind": "hang", "path": "Systems"}] if is_hanging else []
    request = urllib.request.Request(f"{address}/-/fault", json.dumps(faults).encode())
    urllib.request.urlopen(request, timeout=10).close()
