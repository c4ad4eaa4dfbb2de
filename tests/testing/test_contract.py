"""The contract of all providers: pyinfrakit's own keep it, and a faulty one fails the tests of its fault."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit.provider import InvalidSpec, Machine, Provider, Spec
from pyinfrakit.providers.file import File
from pyinfrakit.providers.simulator import SimulatedMachine, Simulator
from pyinfrakit.testing import ProviderContract
from support.harness import PROGRAMS


class TestFile(ProviderContract):
    """The file provider keeps the contract: its machines are its records."""

    def provider(self, folder: Path) -> File:
        return File("contract", folder)


class TestSimulator(ProviderContract):
    """The simulator keeps the contract: its machines are in its world."""

    def provider(self, folder: Path) -> Simulator:
        return Simulator("contract", folder)

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        return {"delay": 0.02}

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None]:
        assert isinstance(provider, Simulator)
        return _stuck(provider, id)

    def stranger(self, provider: Provider) -> str:
        assert isinstance(provider, Simulator)
        with provider.world.change() as scene:
            scene.machines["bought-in-2019"] = SimulatedMachine()
        return "bought-in-2019"


class ForTests(File):
    """A provider that accepts no properties but those of a test network, so that its example is invalid."""

    example = {"network": "production"}

    async def validate(self, properties: Raw | None) -> None:
        if properties is None or json.loads(bytes(properties)) != {"network": "test"}:
            raise InvalidSpec("Properties.network", "expected test")

    async def provision(self, id: str, spec: Spec) -> Machine:
        await self.validate(spec.properties)
        return await super().provision(id, spec)


class TestProperties(ProviderContract):
    """The contract uses the properties of the test class in place of the provider's example."""

    def provider(self, folder: Path) -> ForTests:
        return ForTests("contract", folder)

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        return {"network": "test"}


@contextmanager
def _stuck(provider: Simulator, id: str) -> Iterator[None]:
    with provider.world.change() as scene:
        scene.machines[id].stuck = True
    yield
    with provider.world.change() as scene:
        scene.machines[id].stuck = False


AGAIN = "test_provisioning_an_id_again_gives_the_machine_it_has"
APART = "test_ids_are_kept_apart"
GONE = "test_destroying_what_is_gone_is_fine"
BATCH = "test_a_batch_is_destroyed"
STUCK = "test_a_batch_with_one_that_is_stuck_is_destroyed_but_for_that"
MARKS = "test_other_plugins_machines_are_not_shown"
RESTART = "test_machines_outlive_a_restart"
MANY = "test_many_provisions_at_once"
CUT_OFF = "test_a_provision_that_is_cut_off_is_made_whole_by_the_next"
TAGS = "test_tags_are_put_on_machines_that_are_there"
ADOPTED = "test_a_machine_that_existed_before_is_adopted"
PROPERTIES = "test_properties_are_checked"
CRASH = "test_a_crash_in_the_middle_of_a_provision_makes_no_second_machine"
CRASH_LATER = "test_a_crash_in_the_middle_of_a_destroy_leaves_nothing"
PASSING = "test_errors_that_pass_lose_nothing"

FAILS = {
    "Right": set(),
    "MakesASecond": {AGAIN, RESTART, MANY, CUT_OFF, CRASH},  # all tests that provision an ID again
    "OneForAll": {APART, MANY},
    "MissesTheGone": {GONE, BATCH},
    "DestroysTheFirst": {BATCH, STUCK, RESTART, MANY},  # all tests that destroy several machines
    "IsSilentOnStuck": {STUCK},
    "ShowsAll": {MARKS},
    "Forgets": {RESTART, MARKS, CRASH, PASSING},  # all tests that restart
    "HasTenHands": {MANY},
    "Revives": {CRASH_LATER, PASSING},
    "LeavesHalf": {CUT_OFF},
    "LabelsTheGone": {TAGS},
    "HangsOnTheGone": {TAGS},
    "AdoptsAnything": {ADOPTED},
    "RenamesTheAdopted": {ADOPTED},
    "TakesAnything": {PROPERTIES},
}
"""The tests that each provider in wrong_providers.py fails. The first one names the fault."""


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    """Return the tests that each wrong provider fails."""
    file = PROGRAMS / "wrong_providers.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "--tb=no",
        "--color=no",
        "-p",
        "no:cacheprovider",
        str(file),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 1, done.stdout
    found: dict[str, set[str]] = {name: set() for name in FAILS}
    for provider, test in re.findall(r"^FAILED .*::Test(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found[provider].add(test)
    assert any(found.values()), done.stdout
    return found


@pytest.mark.xdist_group("wrong providers")
@pytest.mark.parametrize("provider", FAILS)
def test_a_fault_fails_the_tests_that_are_about_it(failed: dict[str, set[str]], provider: str) -> None:
    """A wrong provider fails exactly the tests that its fault breaks, and makes none of them hang."""
    assert FAILS[provider] == failed[provider]


def test_an_import_without_pytest_says_how_to_install_it() -> None:
    """An import of the contract without pytest fails with one line that says how to install it."""
    program = "import sys; sys.modules['pytest'] = None; import pyinfrakit.testing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: pyinfrakit.testing needs pytest: pip install 'pytest>=9'" == done.stderr.splitlines()[-1]


def test_a_contract_without_a_provider_names_the_method() -> None:
    """A subclass without `provider` fails with a message that names the method."""
    with pytest.raises(NotImplementedError, match="write the method `provider`"):
        ProviderContract().provider(Path())
