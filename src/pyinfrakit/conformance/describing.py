"""Checks of what DescribeInstances shows of instances that were made, and which of them."""

from collections.abc import Mapping
from itertools import pairwise

from pyinfrakit.conformance.answers import value
from pyinfrakit.conformance.checks import Check, listed
from pyinfrakit.conformance.report import Broken, Fact, NotApplicable, Unknown
from pyinfrakit.conformance.trial import Trial
from pyinfrakit.errors import PyInfrakitError

Tags = Mapping[str, str]


def _tags(trial: Trial) -> str:
    for spec in (trial.plan.first, trial.plan.second):
        tags = trial.look(spec).tags
        if tags != spec.tags:
            raise Broken(f"given {_shown(spec.tags)}; described {_shown(tags)}")
    return f"all {len(tags)} are"


def _shown(tags: Tags) -> str:
    return ",".join(f"{key}={text}" for key, text in sorted(tags.items())) or "none"


def _properties(trial: Trial) -> str:
    id = trial.member(trial.plan.first).id
    trial.look(trial.plan.first)
    wanted = value(trial.plan.properties)
    problems: list[PyInfrakitError] = []
    for tags in (None, trial.plan.mark):
        try:
            found = {each.ID: each for each in trial.session.describe(tags, properties=True)}
        except PyInfrakitError as error:
            problems.append(error)
            continue
        if id in found and (shown := value(found[id].Properties)) is not None:
            return "as they were given" if shown == wanted else "the plugin's own, not those that were given"
    if problems:
        raise problems[0]
    if not wanted:
        raise NotApplicable("the spec had none: give some by --properties")
    raise Broken(f"{id} is described without")


def _all(trial: Trial) -> str:
    ids = trial.seen
    for tags, said in ((None, "null"), ({}, "{}")):
        missing = ids - {each.ID for each in trial.session.describe(tags)}
        if missing:
            raise Broken(f"Tags {said} gives all but {listed([id for id in missing if id])}")
    if not ids:
        raise Unknown("none of those that were made was described in any way")
    return "Tags null and {} both give them"


def _ours(trial: Trial) -> Mapping[str, Tags]:
    """Give the tags of those that were made, as they are described, whatever they were given."""
    return {id: each.tags for id, each in trial.described(trial.seen).items() if id in trial.seen}


def _telling(trial: Trial) -> tuple[Tags, Tags]:
    """Give a tag of the first instance that the second has not, and one that both have."""
    first, second = trial.look(trial.plan.first).tags, trial.look(trial.plan.second).tags
    one = {key: text for key, text in first.items() if second.get(key) != text}
    both = {key: text for key, text in first.items() if second.get(key) == text}
    if not one or not both:
        raise Unknown("the instances are not described with tags that tell them apart")
    return dict([min(one.items())]), dict([min(both.items())])


def _wrong(trial: Trial, tags: Tags) -> str | None:
    """Say what is wrong with the instances that are described for *tags*."""
    wanted = {id for id, own in _ours(trial).items() if own.items() >= tags.items()}
    found = {each.ID or "": each.tags for each in trial.session.describe(tags)}
    if missing := wanted - found.keys():
        return f"{_shown(tags)} does not give {listed(list(missing))}"
    if other := [id for id, own in found.items() if not own.items() >= tags.items()]:
        return f"{_shown(tags)} gives {listed(other[:3])} too, which lack{'s' if len(other) == 1 else ''} it"
    return None


def _by_tag(trial: Trial) -> str:
    one, _ = _telling(trial)
    for tags in (one, {"conformance.none": trial.plan.group}):
        if wrong := _wrong(trial, tags):
            raise Broken(wrong)
    return f"{_shown(one)} gives those alone that have it"


def _by_all_tags(trial: Trial) -> str:
    one, both = _telling(trial)
    try:
        alone = _wrong(trial, one)
    except PyInfrakitError as error:
        alone = str(error)
    if alone:
        raise Unknown(f"one tag alone is not minded: {alone}")
    if wrong := _wrong(trial, {**both, **one}):
        raise Broken(wrong)
    return f"{_shown({**both, **one})} gives those alone that have all"


def shrinks(trial: Trial) -> Fact:
    """Say who goes when a group shrinks: InfraKit destroys the smallest IDs first."""
    steps = [[member.id] for member in trial.members.values()]
    steps += [trial.equal] if trial.equal else []
    name = "first to go on a shrink"
    if len({id for step in steps for id in step}) < 3 or len(steps) < 3:
        return Fact(name, "not known: too few were made")
    if all(max(earlier) < min(later) for earlier, later in pairwise(steps)):
        return Fact(name, "the oldest: later IDs are larger")
    if all(min(earlier) > max(later) for earlier, later in pairwise(steps)):
        return Fact(name, "the newest: later IDs are smaller")
    return Fact(name, "any: IDs don't sort by age")


DESCRIBING = (
    Check("tags", "tags are described as they were given, all and no others", _tags),
    Check("properties", "properties are described where they are asked for", _properties, (0, 5, 0)),
    Check("describe-all", "DescribeInstances without tags gives all instances", _all),
    Check("describe-by-tag", "DescribeInstances with a tag gives those that have it", _by_tag),
    Check(
        "describe-by-all-tags", "DescribeInstances with several tags gives those that have all of them", _by_all_tags
    ),
)
