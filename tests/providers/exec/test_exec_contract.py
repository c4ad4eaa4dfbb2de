"""The examples of executables keep the contract of all providers."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pyinfrakit.provider import Provider
from pyinfrakit.providers.exec import Exec, Options
from pyinfrakit.testing import ProviderContract
from support.executables import BUILT, Examples


class Example(ProviderContract):
    """An example whose machines are files in the test's folder."""

    language = ""
    interval = 0.2

    @pytest.fixture(autouse=True)
    def set_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: Examples) -> None:
        self.executable = examples.get(self.language)
        monkeypatch.setenv("MACHINES", str(tmp_path / "machines"))

    def provider(self, folder: Path) -> Exec:
        return Exec("contract", folder, Options(command=str(self.executable), environment="MACHINES"))


class TestShell(Example):
    language = "sh"

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None]:
        return _stuck(provider.folder / "machines" / provider.mark / id)


class TestNode(Example):
    language = "node"


@BUILT
class TestGo(Example):
    language = "go"


@contextmanager
def _stuck(file: Path) -> Iterator[None]:
    """Replace a machine's file by a folder, which its executable can't remove."""
    away = file.with_name(f".{file.name}.away")
    file.rename(away)
    file.mkdir()
    (file / "in").touch()
    yield
    shutil.rmtree(file)
    away.rename(file)
