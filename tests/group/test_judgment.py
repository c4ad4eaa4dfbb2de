"""A member's health follows from its checks: the tables in `pyinfrakit.group.judgment`, and the templates of checks."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.judgment import Outcome, Streak, Thresholds, judge
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.templates import NoValue, check_template, expand

SUCCESS, FAILURE, UNKNOWN = Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNKNOWN
WORDS = {"s": SUCCESS, "f": FAILURE, "u": UNKNOWN, "g": FAILURE}
"""Outcomes in one letter each; g is a failure within the grace."""

outcomes = st.text("sfug", max_size=40)
thresholds = st.builds(Thresholds, st.integers(1, 4), st.integers(1, 4))


def follow(outcomes: str, limits: Thresholds) -> Streak:
    streak = Streak()
    for each in outcomes:
        streak = streak.after(WORDS[each], f"reason {each}", limits, in_grace=each == "g")
    return streak


@pytest.mark.parametrize(
    ("outcomes", "health"),
    [
        ("", Health.UNKNOWN),
        ("s", Health.UNKNOWN),
        ("ss", Health.HEALTHY),
        ("ff", Health.UNKNOWN),
        ("fff", Health.UNHEALTHY),
        ("ffsff", Health.UNKNOWN),
        ("ssff", Health.HEALTHY),
        ("ssfff", Health.UNHEALTHY),
        ("ssffsff", Health.HEALTHY),
        ("fffs", Health.UNHEALTHY),
        ("fffsfs", Health.UNHEALTHY),
        ("fffss", Health.HEALTHY),
        ("gggggg", Health.UNKNOWN),
        ("sgs", Health.UNKNOWN),
        ("gggss", Health.HEALTHY),
        ("ssgggg", Health.HEALTHY),
        ("uuuuuu", Health.UNKNOWN),
        ("sus", Health.HEALTHY),
        ("fuuff", Health.UNHEALTHY),
        ("ffuuuf", Health.UNKNOWN),
        ("ssuu", Health.HEALTHY),
        ("ssuuu", Health.UNKNOWN),
        ("fffuu", Health.UNHEALTHY),
        ("fffuuu", Health.UNKNOWN),
    ],
)
def test_each_row_of_the_table_of_streaks(outcomes: str, health: Health) -> None:
    """With thresholds of 2 successes and 3 failures, a check judges a member by the table."""
    assert health is follow(outcomes, Thresholds(healthy=2, unhealthy=3)).health


@given(st.text("ugs", max_size=40), thresholds)
def test_no_member_is_unhealthy_without_a_failure_that_counts(outcomes: str, limits: Thresholds) -> None:
    """Unknown outcomes, successes and failures within the grace never make a member unhealthy."""
    assert follow(outcomes, limits).health is not Health.UNHEALTHY


@given(outcomes, thresholds)
def test_a_healthy_member_turns_unhealthy_only_after_consecutive_failures(outcomes: str, limits: Thresholds) -> None:
    """When a member turns unhealthy, its last outcomes are the failures that the threshold asks for, unknown ones aside."""
    before, after = follow(outcomes[:-1], limits), follow(outcomes, limits)
    if before.health is not Health.UNHEALTHY and after.health is Health.UNHEALTHY:
        last = outcomes.replace("u", "").replace("g", "")[-limits.unhealthy :]
        assert "f" * limits.unhealthy == last


@given(outcomes, thresholds)
def test_as_many_failures_as_the_threshold_make_any_member_unhealthy(outcomes: str, limits: Thresholds) -> None:
    """Whatever was before, enough failures make a member unhealthy, and enough successes make it healthy."""
    assert Health.UNHEALTHY is follow(outcomes + "f" * limits.unhealthy, limits).health
    assert Health.HEALTHY is follow(outcomes + "s" * limits.healthy, limits).health
    assert Health.UNKNOWN is follow(outcomes + "u" * limits.unhealthy, limits).health


GOOD = Streak(Health.HEALTHY, 1, 0, "")
BAD = Streak(Health.UNHEALTHY, -3, 0, "TCP a:1: Connection refused")
OPEN = Streak()


@pytest.mark.parametrize(
    ("state", "streaks", "expected"),
    [
        ("", [], (Health.HEALTHY, "")),
        ("ready", [], (Health.HEALTHY, "")),
        ("ready", [GOOD, GOOD], (Health.HEALTHY, "")),
        ("ready", [GOOD, OPEN], (Health.UNKNOWN, "not checked yet")),
        ("ready", [OPEN, BAD], (Health.UNHEALTHY, "TCP a:1: Connection refused")),
        ("provisioning", [], (Health.UNKNOWN, "being provisioned")),
        ("destroying", [], (Health.UNKNOWN, "its plugin calls it destroying")),
        ("non-functional", [], (Health.UNHEALTHY, "disk")),
    ],
)
def test_each_row_of_the_table_of_members(state: str, streaks: list[Streak], expected: tuple[Health, str]) -> None:
    """A member's health follows from its plugin's state for it and from all its checks."""
    reason = "disk" if state == "non-functional" else ""
    assert expected == judge(state, reason, streaks)


def test_a_reason_says_how_far_a_streak_is() -> None:
    """A member that fails its check shows the failure and the count before it turns unhealthy."""
    limits = Thresholds(healthy=2, unhealthy=3)
    assert "reason f (2 of 3 failures so far)" == follow("ssff", limits).reason
    assert "reason f" == follow("ssfff", limits).reason
    assert "1 of 2 successes so far" == follow("s", limits).reason
    assert "reason g (in its grace)" == follow("g", limits).reason
    assert "" == follow("fss", limits).reason


PROPERTIES = b'{"address": "10.0.0.7", "six": "fd00::7", "ports": {"http": 8080}, "on": true, "none": null, "all": [1]}'
MEMBER = Description(
    "i-1", logical_id="db-1", tags={"infrakit.group": "web", "a": "{ID}"}, properties=Raw(PROPERTIES), state="ready"
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("http://{Properties.address}:{Properties.ports.http}/health", "http://10.0.0.7:8080/health"),
        ("http://{Properties.six}:{Properties.ports.http}/", "http://[fd00::7]:8080/"),
        ("http://{Properties.six}/", "http://[fd00::7]/"),
        ("http://[{Properties.six}]:80/", "http://[fd00::7]:80/"),
        ("{Properties.six}:22", "[fd00::7]:22"),
        ("{Properties.six}", "fd00::7"),
        ("{ID} {LogicalID} {Tags.infrakit.group} {Properties.on}", "i-1 db-1 web true"),
        ('{{"id": "{ID}"}}', '{"id": "i-1"}'),
        ("{Tags.a}", "{ID}"),
    ],
)
def test_templates_expand_to_the_values_of_the_member(template: str, text: str) -> None:
    """A template stands for the text with the member's own values."""
    check_template(template)
    assert text == expand(template, MEMBER)


@pytest.mark.parametrize(
    "name", ["Properties.port", "Properties.ports.ftp", "Properties.ports", "Properties.none", "Properties.all",
             "Properties.address.x", "Tags.b"]
)  # fmt: skip
def test_a_template_with_a_name_that_the_member_lacks_does_not_expand(name: str) -> None:
    """The error names the missing value."""
    with pytest.raises(NoValue, match=rf"^the member has no {name}$"):
        expand(f"http://{{{name}}}/", MEMBER)


@pytest.mark.parametrize("properties", [None, Raw(b"[1]"), Raw(b"{")])
def test_properties_of_any_shape_may_lack_a_name(properties: Raw | None) -> None:
    """A member without properties, or with properties of another shape, has no value."""
    with pytest.raises(NoValue, match=r"Properties\.port$"):
        expand("{Properties.port}", Description("i", properties=properties))
    with pytest.raises(NoValue, match=r"LogicalID$"):
        expand("{LogicalID}", Description("i"))


@pytest.mark.parametrize(
    "template",
    ["{id}", "{}", "{Properties}", "{Properties.}", "{Properties.a..b}", "{Tags.}", "{ID.__class__}", "{ID!r}", "{0}"],
)
def test_unknown_names_in_a_template_are_errors(template: str) -> None:
    """The error lists the names that are right."""
    with pytest.raises(ValueError, match=r"^expected ID, LogicalID, Properties\.NAME or Tags\.NAME in braces, got '"):
        check_template(template)


@pytest.mark.parametrize(("template", "position"), [("a{ID", 2), ("a}", 2), ("{{{", 3), ("{ID}}", 5), ("{a{b}", 1)])
def test_an_unpaired_brace_in_a_template_is_an_error(template: str, position: int) -> None:
    """The error says where the brace is."""
    with pytest.raises(ValueError, match=rf"^unpaired [{{}}] at character {position}: write it twice for a brace$"):
        check_template(template)


@given(st.text())
def test_any_text_is_a_template_or_an_error(text: str) -> None:
    """No text raises anything but ValueError; text with its braces doubled expands to itself."""
    assert text == expand(text.replace("{", "{{").replace("}", "}}"), MEMBER)
    with suppress(ValueError):
        check_template(text)
