"""Describes of all instances and of a group, beside a constant reply of the same length and the C demo's way."""

from collections.abc import Iterator

from benchmarks.bench import Bench, say
from benchmarks.field import Field
from benchmarks.race import Name, Rates, Work, race
from benchmarks.report import Report, Row, Target, at_least
from benchmarks.scale import CONNECTIONS, Scale


def measure(bench: Bench) -> Report:
    """Measure at all sizes, with one and several connections."""
    scale = bench.scale
    rows: list[Row] = []
    targets: list[Target] = []
    with Field(bench) as field:
        for connections in CONNECTIONS:
            contenders = field.describers(connections)
            for work, judge in ((Work.DESCRIBE_ALL, _all), (Work.DESCRIBE_GROUP, _group)):
                say(f"{work}: connections: {connections}")
                rates = race(contenders, [work], scale.rounds, scale.patience)
                rows += _rows(rates, work, connections, scale)
                targets += judge(rates, connections, scale)
    return Report(rows, targets)


def _rows(rates: Rates, work: Work, connections: int, scale: Scale) -> Iterator[Row]:
    for size in sorted({*scale.sizes, scale.few}):
        others = {"constant": Name("constant", size), "demo": Name("demo", size)}
        yield rates.row(work, Name("daemon", size), others, connections)


def _all(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    work, size = Work.DESCRIBE_ALL, scale.middle
    ratio = rates.ratio(work, Name("daemon", size), Name("constant", size))
    yield at_least(0.6, ratio, f"{work}: of constant reply", size, connections)
    if connections == 1:
        ratio = rates.ratio(work, Name("daemon", size), Name("demo", size))
        yield at_least(20, ratio, f"{work}: × the C demo's way", size, connections)


def _group(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    work, large, middle = Work.DESCRIBE_GROUP, scale.large, scale.middle
    ratio = rates.ratio(work, Name("daemon", large), Name("daemon", scale.few))
    yield at_least(0.8, ratio, f"{work}: of the rate at {scale.few}", large, connections)
    ratio = rates.ratio(work, Name("daemon", large), Name("constant", large))
    yield at_least(0.6, ratio, f"{work}: of constant reply", large, connections)
    if connections == 1:
        ratio = rates.ratio(work, Name("daemon", middle), Name("demo", middle))
        yield at_least(100, ratio, f"{work}: × the C demo's way", middle, connections)
