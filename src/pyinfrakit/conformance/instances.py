"""Checks of how instances are made, labelled and destroyed. They go in this order: each looks at what those before it made."""

from msgspec import UNSET

from pyinfrakit.conformance.answers import Answer
from pyinfrakit.conformance.checks import Check, listed, refused
from pyinfrakit.conformance.plan import TIER, Spec
from pyinfrakit.conformance.report import Broken, NotApplicable, Unknown
from pyinfrakit.conformance.trial import Member, Trial
from pyinfrakit.errors import PyInfrakitError

LABELS = {TIER: "db", "conformance.added": "yes"}
"""One tag to be replaced, one to be added."""


def _provision(trial: Trial) -> str:
    return f"gave {_made(trial, trial.plan.first)} and {_made(trial, trial.plan.second)}"


def _made(trial: Trial, spec: Spec) -> str:
    """Have one made, and look for it in the very next describe."""
    (id,) = trial.provision(spec)
    if isinstance(id, PyInfrakitError):
        raise id
    if not id:
        raise Broken("an empty ID")
    if id in (trial.before or ()):
        raise Broken(f"gave {id}, which was there before; it is left alone")
    member = trial.members[spec.name] = Member(id, spec)
    try:
        member.at_once = id in trial.described([id])
        trial.settle([id])
    except Unknown as unknown:
        member.at_once = str(unknown)
    return id


def _at_once(trial: Trial) -> str:
    for spec in (trial.plan.first, trial.plan.second):
        member = trial.member(spec)
        if isinstance(member.at_once, str):
            raise Unknown(member.at_once)
        if not member.at_once:
            later = "later it was" if member.id in trial.seen else f"nor was it in the {trial.grace:g} s after that"
            raise Broken(f"{member.id} was not in the next answer of DescribeInstances; {later}")
    return "in the next answer of DescribeInstances"


def _logical(trial: Trial) -> str:
    trial.member(trial.plan.first)
    id = _made(trial, trial.plan.logical)
    found = trial.look(trial.plan.logical).LogicalID
    if found is UNSET and trial.version < (0, 3, 0):
        raise NotApplicable("the plugin describes none, as versions before 0.3.0 may")
    wanted = trial.plan.logical.logical_id
    if found != wanted:
        raise Broken(f"{id} was given {wanted}, and is described with {found or 'none'}")
    return f"{id} is described with {wanted}"


def _label(trial: Trial) -> str:
    member = trial.member(trial.plan.second)
    trial.session.ask("Instance.Label", {"Instance": member.id, "Labels": LABELS}, Answer)
    tags = trial.look(trial.plan.second).tags
    for key, value in LABELS.items():
        if tags.get(key) != value:
            raise Broken(f"{member.id} was labelled {key}={value}, and is described with {tags.get(key)!r} for it")
    return f"{member.id} is described with both"


def _label_keeps(trial: Trial) -> str:
    """Compare with the tags as they were described before: where those were wrong, that is not the label's doing."""
    member = trial.member(trial.plan.first)
    kept = trial.look(trial.plan.first).tags
    params: dict[str, object] = {"Instance": member.id, "Labels": LABELS}
    try:
        trial.session.ask("Instance.Label", params, Answer)
    except PyInfrakitError as error:
        raise Unknown(f"Label: {error}") from None
    tags = trial.look(trial.plan.first).tags
    lost = [key for key in kept if key not in LABELS and tags.get(key) != kept[key]]
    if lost:
        raise Broken(f"{member.id} lost or changed {', '.join(lost)}")
    return f"{member.id} has its {len(kept) - 1} other tags"


def _label_unknown(trial: Trial) -> str:
    return refused(trial, "Instance.Label", {"Instance": f"{trial.plan.group}-none", "Labels": LABELS})


def _distinct(trial: Trial) -> str:
    trial.member(trial.plan.first)
    given = trial.provision(trial.plan.equal, trial.plan.count)
    ids = [each for each in given if isinstance(each, str) and each]
    trial.equal = list(dict.fromkeys(ids))
    known = [*(trial.before or ()), *(member.id for member in trial.members.values())]
    twice = {id for id in ids if ids.count(id) > 1 or id in known}
    if twice:
        raise Broken(f"{listed(list(twice))} was given more than once")
    for each in given:
        if isinstance(each, PyInfrakitError):
            raise each
    if len(ids) < len(given):
        raise Broken("an empty ID")
    return f"{len(ids)} IDs"


def _equal_described(trial: Trial) -> str:
    ids = [id for id in trial.equal if id not in (trial.before or ())]
    if not ids:
        raise Unknown("none was made at once")
    if not trial.seen:
        raise Unknown("those that were made one after the other are not described either")
    missing = trial.settle(ids)
    if missing:
        raise Broken(f"not so {listed(list(missing))}")
    return f"{len(ids)} are"


def _stable(trial: Trial) -> str:
    ids = trial.seen & {*(member.id for member in trial.members.values()), *trial.equal}
    if not ids:
        raise Unknown("none was described")
    missing = ids - trial.described(ids).keys()
    if missing:
        raise Broken(f"not so {listed(list(missing))}")
    return f"{len(ids)} still are"


def _destroy(trial: Trial) -> str:
    id = trial.member(trial.plan.second).id
    trial.destroy(id)
    return f"{id} was"


def _destroyed(trial: Trial) -> str:
    id = trial.member(trial.plan.second).id
    if id not in trial.seen:
        raise Unknown(f"{id} was not described before")
    if not trial.has_destroyed(id):
        raise Unknown("Destroy was not answered well")
    if trial.linger([id]):
        raise Broken(f"{id} is, {trial.grace:g} s after Destroy was answered")
    return f"{id} is not"


def _destroy_unknown(trial: Trial) -> str:
    return refused(trial, "Instance.Destroy", {"Instance": f"{trial.plan.group}-none"})


MAKING = (
    Check("provision", "Provision gives an ID, a string that is not empty", _provision),
    Check("described-at-once", "what was provisioned is described from then on", _at_once),
    Check("logical-id", "a logical ID is kept and described", _logical),
)

LABELLING = (
    Check("label", "Label adds and replaces tags, and they are described", _label, (0, 3, 0)),
    Check("label-keeps", "Label keeps the tags that it does not name", _label_keeps, (0, 3, 0)),
    Check("label-unknown", "Label of an ID that there is not is an error", _label_unknown, (0, 3, 0)),
)

AT_ONCE = (
    Check("distinct-ids", "equal provisions at once get different IDs", _distinct),
    Check("all-described", "those that were provisioned at once are all described", _equal_described),
    Check("stable-ids", "what was described once is described on, by the same ID", _stable),
)

DESTROYING = (
    Check("destroy", "Destroy is answered", _destroy),
    Check("destroyed", "what was destroyed is not described any more", _destroyed),
    Check("destroy-unknown", "Destroy of an ID that there is not is an error", _destroy_unknown),
)
