"""Observations of physical machines behind many BMCs: beside the slowest BMC's time, also where one hangs."""

import time
from statistics import median

from benchmarks.bench import Bench, say
from benchmarks.bmcs import bmcs, hang, provider
from benchmarks.report import Beside, Report, Row, at_most
from pyinfrakit.providers.redfish import Redfish

MILLI = 1000


def measure(bench: Bench) -> Report:
    """Observe all, round after round."""
    count, machines = bench.scale.bmcs, bench.scale.behind
    rows, targets = [], []
    with bmcs(count, machines) as addresses:
        redfish = provider(bench.folder, addresses, machines)
        for what, is_hanging in (("observation", False), ("observation while a BMC hangs", True)):
            say(f"rack: {what}")
            hang(addresses[0], is_hanging)
            list(redfish.observe())
            rounds = [_seconds(redfish) for _ in range(bench.scale.starts)]
            worst = max(taken / (2 * slowest + 1) for taken, slowest, _ in rounds)
            beside = {
                "slowest BMC": median(slowest for _, slowest, _ in rounds),
                "median BMC": median(middle for _, _, middle in rounds),
            }
            taken = median(taken for taken, _, _ in rounds)
            of = {name: Beside(seconds * MILLI, taken / seconds) for name, seconds in beside.items()}
            rows.append(Row(f"{what}, {count} BMCs", taken * MILLI, "ms", count * machines, None, of))
            targets.append(at_most(1.0, worst, f"{what}: × (2 × the slowest BMC's time in it + 1 s)", count * machines))
    return Report(rows, targets)


def _seconds(redfish: Redfish) -> tuple[float, float, float]:
    """Observe once: give how long that took, the slowest BMC, and the median one."""
    time.sleep(0.05)  # a BMC that failed may be asked again
    began = time.perf_counter()
    list(redfish.observe())
    taken = time.perf_counter() - began
    return taken, max(redfish.polls.took.values()), median(redfish.polls.took.values())
