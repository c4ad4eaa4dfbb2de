"""Provisions, labels and destroys, beside a constant reply, the disk, and the C demo's way."""

from collections.abc import Iterator, Mapping

from benchmarks.bench import Bench, say
from benchmarks.field import Field
from benchmarks.race import Name, Rates, Work, race
from benchmarks.report import Report, Row, Target, at_least
from benchmarks.scale import CONNECTIONS, Scale

WORKS = (Work.PROVISION, Work.LABEL, Work.DESTROY)
CONSTANT, DISK, SYNCED = Name("constant"), Name("disk"), Name("synced")

_BOUNDS: Mapping[int, tuple[float, str, Mapping[Name, float]]] = {
    1: (0.4, "the disk or constant reply", {DISK: 1, CONSTANT: 1}),
    64: (1, "5 × the disk or 0.4 × constant reply", {DISK: 5, CONSTANT: 0.4}),
}
"""By connections, what provisions must reach, of what, as words and as factors."""


def measure(bench: Bench) -> Report:
    """Measure at all sizes, with one and several connections."""
    scale = bench.scale
    rows: list[Row] = []
    targets: list[Target] = []
    with Field(bench) as field:
        for connections in CONNECTIONS:
            say(f"provision, label, destroy: connections: {connections}")
            rates = race(field.changers(connections), WORKS, scale.rounds, scale.patience)
            rows += _rows(rates, connections, scale)
            targets += _targets(rates, connections, scale)
    return Report(rows, targets)


def _rows(rates: Rates, connections: int, scale: Scale) -> Iterator[Row]:
    for work in WORKS:
        for size in sorted({*scale.sizes, scale.few}):
            others = {"constant": CONSTANT, "disk": DISK, "synced": SYNCED, "demo": Name("demo", size)}
            yield rates.row(work, Name("daemon", size), others, connections)


def _targets(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    if connections in _BOUNDS:
        bound, what, bounds = _BOUNDS[connections]
        for size in scale.sizes:
            ratio = rates.ratio_to_least(Work.PROVISION, Name("daemon", size), bounds)
            yield at_least(bound, ratio, f"provision: of {what}, the lower", size, connections)
    for work in WORKS:
        ratio = rates.ratio(work, Name("daemon", scale.large), Name("daemon", scale.small))
        yield at_least(0.8, ratio, f"{work}: of the rate at {scale.small:,}", scale.large, connections)
        if connections == 1:
            ratio = rates.ratio(work, Name("daemon", scale.middle), Name("demo", scale.middle))
            yield at_least(100, ratio, f"{work}: × the C demo's way", scale.middle, connections)
