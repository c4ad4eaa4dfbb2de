"""Emulated BMCs, and the provider for their machines."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers import ROOT
from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.providers.redfish.inventory import Controller, Settings, System
from pyinfrakit.schema.secrets import Secret

COMMAND = (sys.executable, str(ROOT / "examples" / "redfish" / "bmcs.py"))
TIMEOUT = 2.0
"""Seconds after which a BMC that hangs is given up."""


@contextmanager
def bmcs(count: int, machines: int) -> Iterator[Sequence[str]]:
    """Start BMCs with so many machines each, and give their addresses."""
    command = [*COMMAND, "--bmcs", str(count), "--systems", str(machines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def provider(folder: Path, addresses: Sequence[str], machines: int) -> Redfish:
    """Give the provider, started."""
    settings = Settings(
        bmcs=[Controller(address, _machines(address, machines)) for address in addresses],
        username=Secret("admin"),
        password=Secret("calvin"),
        timeout=TIMEOUT,
        longest_pause=0.01,
    )
    made = Redfish("rack", folder, settings)
    made.mark = "benchmark"
    made.start()
    return made


def hang(address: str, is_hanging: bool) -> None:
    """Have a BMC hang, or not."""
    faults: list[Mapping[str, Any]] = [{"kind": "hang", "path": "Systems"}] if is_hanging else []
    request = urllib.request.Request(f"{address}/-/fault", json.dumps(faults).encode())
    urllib.request.urlopen(request, timeout=10).close()


def _machines(address: str, count: int) -> list[System]:
    port = address.rpartition(":")[2]
    return [System(f"m{port}-{n}", f"/redfish/v1/Systems/node-{n}") for n in range(1, count + 1)]
