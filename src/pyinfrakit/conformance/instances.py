"""Checks of how instances are provisioned, described, labeled and destroyed. Each builds on the instances of earlier ones."""

from collections.abc import Mapping
from itertools import pairwise

from msgspec import UNSET

from pyinfrakit.conformance.report import CannotTell, DoesNotHold, NotApplicable
from pyinfrakit.conformance.session import Reply, decode_value
from pyinfrakit.conformance.trial import TIER, Check, Trial, WantedInstance, expect_error
from pyinfrakit.errors import PyInfrakitError

Tags = Mapping[str, str]

LABELS = {TIER: "db", "conformance.added": "yes"}
"""One tag to replace and one to add."""


def _check_provision(trial: Trial) -> str:
    return f"{_provision(trial, trial.intent.first)} and {_provision(trial, trial.intent.second)}"


def _provision(trial: Trial, wanted: WantedInstance) -> str:
    """Provision an instance, look for it in the very next describe, and return its ID."""
    (id,) = trial.provision(wanted)
    if isinstance(id, PyInfrakitError):
        raise id
    if not id:
        raise DoesNotHold("Provision returned an empty ID")
    if id in (trial.existing or ()):
        raise DoesNotHold(f"Provision returned {id}, which existed before; the run leaves it alone")
    trial.members[wanted.name] = id
    try:
        trial.at_once[id] = id in trial.describe([id])
        trial.await_described([id])
    except CannotTell as reason:
        trial.at_once[id] = str(reason)
    return id


def _check_at_once(trial: Trial) -> str:
    for wanted in (trial.intent.first, trial.intent.second):
        id = trial.find_id(wanted)
        if isinstance(reason := trial.at_once[id], str):
            raise CannotTell(reason)
        if not trial.at_once[id]:
            later = "later ones did" if id in trial.sightings else f"nor did others within {trial.grace:g} s"
            raise DoesNotHold(f"the next reply did not include {id}; {later}")
    return "the next reply included each"


def _check_logical_id(trial: Trial) -> str:
    trial.find_id(trial.intent.first)  # if that failed, this would fail for the same reason
    id = _provision(trial, trial.intent.logical)
    logical_id = trial.describe_member(trial.intent.logical).LogicalID
    if logical_id is UNSET and trial.version < (0, 3, 0):
        raise NotApplicable("the plugin returns none, as versions before 0.3.0 may")
    if logical_id != trial.intent.logical.logical_id:
        raise DoesNotHold(f"{id} should have {trial.intent.logical.logical_id}, and has {logical_id or 'none'}")
    return f"{id} has {logical_id}"


def _check_tags(trial: Trial) -> str:
    for wanted in (trial.intent.first, trial.intent.second):
        tags = trial.describe_member(wanted).tags
        if tags != wanted.tags:
            raise DoesNotHold(f"the spec has {_join_tags(wanted.tags)}; the description has {_join_tags(tags)}")
    return f"all {len(tags)} match"


def _join_tags(tags: Tags) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(tags.items())) or "none"


def _check_properties(trial: Trial) -> str:
    id = trial.find_id(trial.intent.first)
    trial.describe_member(trial.intent.first)
    wanted = decode_value(trial.intent.properties)
    problems: list[PyInfrakitError] = []
    for tags in (None, trial.intent.mark):  # one is enough: other checks report a query that fails
        try:
            views = {view.ID: view for view in trial.session.describe(tags, properties=True)}
        except PyInfrakitError as error:
            problems.append(error)
            continue
        if id in views and (properties := decode_value(views[id].Properties)) is not None:
            return "the same as in the spec" if properties == wanted else "the plugin's own, not those of the spec"
    if problems:
        raise problems[0]
    if not wanted:
        raise NotApplicable("the spec has none; use --properties to set some")
    raise DoesNotHold(f"the description of {id} has none")


def _check_all(trial: Trial) -> str:
    for tags, text in ((None, "null"), ({}, "{}")):
        missing = trial.sightings - {view.ID for view in trial.session.describe(tags)}
        if missing:
            raise DoesNotHold(f"Tags {text} does not return {', '.join(sorted(missing))}")
    if not trial.sightings:
        raise CannotTell("no query returns any of the new instances")
    return "Tags null and {} both return them"


def _pick_tags(trial: Trial) -> tuple[Tags, Tags]:
    """Return a tag of the first instance that the second lacks, and one that both have.

    These are tags that the plugin describes. The spec's tags may be lost, which fails another check.
    """
    first, second = trial.describe_member(trial.intent.first).tags, trial.describe_member(trial.intent.second).tags
    one = [(key, value) for key, value in first.items() if second.get(key) != value]
    both = [(key, value) for key, value in first.items() if second.get(key) == value]
    if not one or not both:
        raise CannotTell("the descriptions have no tags that distinguish the instances")
    return dict([min(one)]), dict([min(both)])


def _check_query(trial: Trial, tags: Tags) -> None:
    """Raise `DoesNotHold` unless a query returns exactly the instances that have its tags."""
    own = {id: view.tags for id, view in trial.describe(trial.sightings).items() if id in trial.sightings}
    wanted = {id for id, each in own.items() if each.items() >= tags.items()}
    views = {view.ID or "": view.tags for view in trial.session.describe(tags)}
    if missing := wanted - views.keys():
        raise DoesNotHold(f"{_join_tags(tags)} does not return {', '.join(sorted(missing))}")
    if others := [id for id, each in views.items() if not each.items() >= tags.items()]:
        raise DoesNotHold(f"{_join_tags(tags)} also returns instances without it: {', '.join(sorted(others[:3]))}")


def _check_by_tag(trial: Trial) -> str:
    one, _ = _pick_tags(trial)
    for tags in (one, {"conformance.none": trial.intent.group}):  # no instance has the latter
        _check_query(trial, tags)
    return f"{_join_tags(one)} returned those"


def _check_by_all_tags(trial: Trial) -> str:
    one, both = _pick_tags(trial)
    # A plugin that ignores tags fails the check of one tag, not this one.
    try:
        _check_query(trial, one)
    except (DoesNotHold, PyInfrakitError) as error:
        raise CannotTell(f"a query with one tag fails: {error}") from None
    _check_query(trial, {**both, **one})
    return f"{_join_tags({**both, **one})} returned those"


def _check_label(trial: Trial) -> str:
    id = trial.find_id(trial.intent.second)
    trial.session.call("Instance.Label", {"Instance": id, "Labels": LABELS}, Reply)
    tags = trial.describe_member(trial.intent.second).tags
    for key, value in LABELS.items():
        if tags.get(key) != value:
            raise DoesNotHold(f"{id} should have {key}={value} after Label, and has {tags.get(key)!r}")
    return f"{id} has both"


def _check_label_keeps(trial: Trial) -> str:
    # The tags to keep are those that the plugin described before: if they are wrong, that is not Label's fault.
    id = trial.find_id(trial.intent.first)
    kept = trial.describe_member(trial.intent.first).tags
    try:
        trial.session.call("Instance.Label", {"Instance": id, "Labels": LABELS}, Reply)
    except PyInfrakitError as error:
        raise CannotTell(f"Label: {error}") from None
    tags = trial.describe_member(trial.intent.first).tags
    lost = [key for key in kept if key not in LABELS and tags.get(key) != kept[key]]
    if lost:
        raise DoesNotHold(f"{id} lost or changed {', '.join(lost)}")
    return f"{id} has its {len(kept) - 1} other tags"


def _check_label_unknown(trial: Trial) -> str:
    return expect_error(trial, "Instance.Label", {"Instance": f"{trial.intent.group}-none", "Labels": LABELS})


def _check_distinct_ids(trial: Trial) -> str:
    trial.find_id(trial.intent.first)  # if that failed, this would fail for the same reason
    replies = trial.provision(trial.intent.equal, trial.intent.count)
    ids = [each for each in replies if isinstance(each, str) and each]
    trial.equal_ids = list(dict.fromkeys(ids))
    known = [*(trial.existing or ()), *trial.members.values()]
    duplicates = {id for id in ids if ids.count(id) > 1 or id in known}
    if duplicates:
        raise DoesNotHold(f"Provision returned {', '.join(sorted(duplicates))} more than once")
    for each in replies:
        if isinstance(each, PyInfrakitError):
            raise each
    if len(ids) < len(replies):
        raise DoesNotHold("Provision returned an empty ID")
    return f"{len(ids)} IDs"


def _check_all_described(trial: Trial) -> str:
    ids = [id for id in trial.equal_ids if id not in (trial.existing or ())]
    if not ids:
        raise CannotTell("none was created")
    if not trial.sightings:
        raise CannotTell("it does not include those that were provisioned one by one either")
    missing = trial.await_described(ids)
    if missing:
        raise DoesNotHold(f"{', '.join(sorted(missing))} did not appear within {trial.grace:g} s")
    return f"all {len(ids)} are there"


def _check_stable_ids(trial: Trial) -> str:
    ids = trial.sightings & {*trial.members.values(), *trial.equal_ids}
    if not ids:
        raise CannotTell("no new instance was described")
    missing = ids - trial.describe(ids).keys()
    if missing:
        raise DoesNotHold(f"{', '.join(sorted(missing))} disappeared")
    return f"all {len(ids)} are still there"


def _check_destroy(trial: Trial) -> str:
    id = trial.find_id(trial.intent.second)
    trial.destroy(id)
    return id


def _check_destroyed(trial: Trial) -> str:
    id = trial.find_id(trial.intent.second)
    if id not in trial.sightings:
        raise CannotTell(f"{id} was not described before")
    if id not in trial.destroyed_ids:
        raise CannotTell("Destroy failed")
    if trial.await_gone([id]):
        raise DoesNotHold(f"{id} is still there {trial.grace:g} s after Destroy")
    return f"{id} is gone"


def _check_destroy_unknown(trial: Trial) -> str:
    return expect_error(trial, "Instance.Destroy", {"Instance": f"{trial.intent.group}-none"})


def find_shrink_order(trial: Trial) -> str:
    """Return the members that a shrink removes first. InfraKit destroys the smallest IDs, compared as strings."""
    steps = [[id] for id in trial.members.values()] + ([trial.equal_ids] if trial.equal_ids else [])
    if len({id for step in steps for id in step}) < 3 or len(steps) < 3:
        return "unknown: too few instances were created"
    if all(max(earlier) < min(later) for earlier, later in pairwise(steps)):
        return "the oldest: later IDs are larger"
    if all(min(earlier) > max(later) for earlier, later in pairwise(steps)):
        return "the newest: later IDs are smaller"
    return "any: IDs do not sort by age"


CHECKS = (
    Check("provision", "Provision returns an ID, a string that is not empty", _check_provision),
    Check("described-at-once", "the next DescribeInstances includes a new instance", _check_at_once),
    Check("logical-id", "DescribeInstances returns the logical ID of the spec", _check_logical_id),
    Check("tags", "DescribeInstances returns exactly the tags of the spec", _check_tags),
    Check("properties", "DescribeInstances returns properties on request", _check_properties, (0, 5, 0)),
    Check("describe-all", "DescribeInstances without tags returns all instances", _check_all),
    Check("describe-by-tag", "a query by one tag returns exactly the instances with it", _check_by_tag),
    Check("describe-by-all-tags", "a query by two tags returns exactly the instances with both", _check_by_all_tags),
    Check("label", "Label adds and replaces tags, and DescribeInstances returns them", _check_label, (0, 3, 0)),
    Check("label-keeps", "Label keeps the tags that it does not name", _check_label_keeps, (0, 3, 0)),
    Check("label-unknown", "Label of an unknown ID returns an error", _check_label_unknown, (0, 3, 0)),
    Check("distinct-ids", "equal provisions at once return different IDs", _check_distinct_ids),
    Check("all-described", "instances that were provisioned at once are all described", _check_all_described),
    Check("stable-ids", "instances stay described, with the same IDs", _check_stable_ids),
    Check("destroy", "Destroy succeeds", _check_destroy),
    Check("destroyed", "DescribeInstances no longer includes a destroyed instance", _check_destroyed),
    Check("destroy-unknown", "Destroy of an unknown ID returns an error", _check_destroy_unknown),
)
"""In an order that counts: instances come first, labels change after the queries by tag, and the destroys come last."""
