"""`infrakit-group`: its flags, and how wrong ones are refused."""

import sys
from pathlib import Path

import pytest

from support.harness import command

CONTROLLER = (sys.executable, "-c", "from pyinfrakit.cli import run_group; run_group()")


def test_help_shows_every_flag(home: Path) -> None:
    """Help exits with 0, and shows the flags, their defaults and their environment variables."""
    done = command(home, "--help", program=CONTROLLER)
    assert ("", 0) == (done.stderr, done.returncode)
    for flag in ("--name", "--log", "--state", "--dir", "--poll-interval"):
        assert f"\n  {flag} " in done.stdout
    assert "INFRAKIT_GROUP_POLL_INTERVAL" in done.stdout


@pytest.mark.parametrize("value", ["0", "-1", "soon", "", "nan"])
def test_a_wrong_poll_interval_is_refused(home: Path, value: str) -> None:
    """A poll interval is a number of seconds, or a duration as Go writes it; the message names its source."""
    done = command(home, "--poll-interval", value, program=CONTROLLER)
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("infrakit-group: Invalid value for '--poll-interval': ")
    done = command(home, program=CONTROLLER, INFRAKIT_GROUP_POLL_INTERVAL="soon")
    assert 'got "soon" (from INFRAKIT_GROUP_POLL_INTERVAL); see `infrakit-group --help`\n' in done.stderr
