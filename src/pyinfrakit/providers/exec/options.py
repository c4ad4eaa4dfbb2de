"""The options of the provider: executables, their limits and their environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.providers.exec.protocol import OPTIONAL_VERBS, REQUIRED_VERBS

Own = Annotated[str | None, Meta(description="the executable for this verb; default: command's")]
Seconds = Annotated[float, Meta(gt=0)]


class Options(Struct, forbid_unknown_fields=True):
    """Paths of executables, their limits and their environment."""

    command: Annotated[
        str | None, Meta(description="path of the executable for all verbs", examples=["/usr/local/bin/rack"])
    ] = None
    provision: Own = None
    destroy: Own = None
    observe: Own = None
    validate: Own = None
    label: Own = None
    adopt: Own = None
    timeout: Annotated[Seconds, Meta(description="seconds before a provision, destroy, label or adopt times out")] = 600
    observe_timeout: Annotated[Seconds, Meta(description="seconds before an observe times out")] = 60
    output_limit: Annotated[int, Meta(ge=1, description="most bytes of stdout, and of stderr")] = 64 * 1024 * 1024
    environment: Annotated[
        str,
        Meta(description="comma-separated names of variables for the executables", examples=["RACK_URL,RACK_TOKEN"]),
    ] = ""

    def find_executables(self) -> Mapping[str, Path]:
        """Return the executable of each verb that has one. Raise `CannotStart` if one is missing or unfit."""
        executables = {}
        for verb in (*REQUIRED_VERBS, *OPTIONAL_VERBS):
            if path := getattr(self, verb) or self.command:
                executables[verb] = _check_executable(verb, Path(path).expanduser().absolute())
            elif verb in REQUIRED_VERBS:
                raise CannotStart(f"provider exec: {verb}: expected the path of an executable, here or as command")
        return executables

    def read_environment(self) -> Mapping[str, str]:
        """Return the variables that `environment` names, with their values. Raise `CannotStart` if one is not set."""
        names = [name.strip() for name in self.environment.split(",") if name.strip()]
        for name in names:
            if name not in os.environ:
                raise CannotStart(f"provider exec: environment: variable {name!r} is not set")
        return {name: os.environ[name] for name in names}


def _check_executable(verb: str, path: Path) -> Path:
    """Return *path*. Raise `CannotStart` if it can't be run, or if this is root and another user can change it."""
    try:
        if not path.exists():
            problem = "does not exist"
        elif not path.is_file():
            problem = "is not a regular file"
        elif not os.access(path, os.X_OK):
            problem = "is not executable"
        else:
            paths.check_trusted(path)
            return path
    except (OSError, ValueError) as error:
        problem = f"can't be checked: {getattr(error, 'strerror', None) or error}"
    raise CannotStart(f"provider exec: {verb}: {path} {problem}")
