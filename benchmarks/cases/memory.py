"""Cases of memory: the cost of an instance, and growth over many requests."""

from collections.abc import Iterator
from statistics import median

from benchmarks.cases.subjects import Plugin
from benchmarks.cases.workspace import Workspace
from benchmarks.load import calls
from benchmarks.load.calls import Operation, build_describes
from benchmarks.load.generator import CONNECTIONS, Generator, Load
from benchmarks.report.tables import MIB, Baseline, Report, Row, at_most, print_progress
from benchmarks.servers.process import Daemon

MAX_INSTANCE_BYTES = 2048
"""Bytes that an instance may take beyond its own JSON."""

SAMPLES = 20
"""Samples of memory while growth is measured."""

WARMUP = SAMPLES // 5
"""Samples of the warm-up, whose growth does not count: caches and pools fill up."""

WINDOW = SAMPLES // 10
"""Samples whose median is compared, after the warm-up and at the end."""

CHANGE_SHARE = 20
"""One request in this many is a provision, one a label, and one a destroy. The others describe a group."""

MAX_REQUEST_BYTES = 2.0
"""Bytes that memory may grow per request. A leak of 40 bytes per provision would reach it."""


def measure_memory(workspace: Workspace) -> Report:
    """Compare the memory of a daemon that has many instances with one that has none."""
    large = workspace.scale.large
    print_progress("memory")
    with Generator() as generator:
        empty, full = (_measure_resident(workspace, generator, size) for size in (0, large))
    own = workspace.fleet(large).json_bytes / large
    beyond = (full - empty) / large - own
    measure = "memory per instance, beyond its own JSON"
    rows = [
        Row("memory", empty / MIB, "MiB", 0),
        Row("memory", full / MIB, "MiB", large),
        Row(measure, beyond, "B", large, baselines={"its own JSON": Baseline(own, beyond / own)}),
    ]
    return Report(rows, [at_most(MAX_INSTANCE_BYTES, beyond, f"{measure}, in bytes", large)])


def _measure_resident(workspace: Workspace, generator: Generator, size: int) -> int:
    """Return a daemon's resident memory in bytes."""
    with workspace.create_daemon(size) as daemon:
        # Describes come first, with properties and without, so that memory that they allocate counts.
        Load(generator, daemon).run([calls.describe(properties=True), calls.describe(properties=False)], 2)
        return int(daemon.process.memory_info().rss)


def measure_growth(workspace: Workspace) -> Report:
    """Measure the growth of memory over many requests of all kinds."""
    size, requests = workspace.scale.small, workspace.scale.memory_requests
    connections = max(CONNECTIONS)
    with Generator() as generator, workspace.create_daemon(size) as daemon:
        samples = list(_sample_resident(daemon, Load(generator, daemon, connections), requests // SAMPLES))
    early, late = median(samples[WARMUP : WARMUP + WINDOW]), median(samples[-WINDOW:])
    per_request = (late - early) / requests * SAMPLES / (SAMPLES - WARMUP - WINDOW)
    rows = [
        Row(f"memory after {requests * WARMUP // SAMPLES:,} requests", early / MIB, "MiB", size, connections),
        Row(f"memory after {requests:,} requests", late / MIB, "MiB", size, connections),
        Row("memory growth", (late - early) / MIB, "MiB", size, connections),
        Row("memory growth", late - early, "B", size, connections),
    ]
    return Report(
        rows, [at_most(MAX_REQUEST_BYTES, per_request, "memory growth per request, in bytes", size, connections)]
    )


def _sample_resident(daemon: Daemon, load: Load, requests: int) -> Iterator[int]:
    """Yield the resident memory in bytes after each batch of *requests* requests."""
    changes = requests // CHANGE_SHARE
    plugin = Plugin(load, daemon.fleet, changes, daemon.settle)
    describes = build_describes(daemon.fleet)[Operation.DESCRIBE_GROUP]
    for sample in range(SAMPLES):
        if sample % WARMUP == 0:
            print_progress(f"flat: {requests * sample:,} of {requests * SAMPLES:,} requests")
        load.run(describes, requests - 3 * changes)
        for operation in (Operation.PROVISION, Operation.LABEL, Operation.DESTROY):
            plugin(operation)
        yield int(daemon.process.memory_info().rss)
