"""The provider itself: what executables there are, and which is asked for what."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta, Raw, Struct

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart, GiveUp, TryAgain
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.providers.exec import wire
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.providers.exec.runner import Bounds, Runner
from pyinfrakit.providers.exec.wire import Request
from pyinfrakit.record import Record, Spec

T = TypeVar("T")

NEEDED = ("provision", "destroy", "observe")

AT_WORK = "an executable of an earlier daemon is at work on it"

VALIDATE = 9.0
"""Seconds that `validate` may take: the plugin waits for 10."""

Own = Annotated[str | None, Meta(description="the executable for this verb; else command's")]
Seconds = Annotated[float, Meta(gt=0)]


class Executables(Struct, forbid_unknown_fields=True):
    """Paths of executables, and what they are given."""

    command: Annotated[
        str | None, Meta(description="path of the executable for all verbs", examples=["/usr/local/bin/rack"])
    ] = None
    provision: Own = None
    destroy: Own = None
    observe: Own = None
    validate: Own = None
    label: Own = None
    adopt: Own = None
    timeout: Annotated[Seconds, Meta(description="seconds that a provision, destroy, label or adoption may take")] = 600
    observe_timeout: Annotated[Seconds, Meta(description="seconds that an observation may take")] = 60
    output_limit: Annotated[int, Meta(ge=1, description="bytes that an executable may write")] = 64 * 1024 * 1024
    environment: Annotated[
        str,
        Meta(
            description="names of variables that executables get, separated by commas", examples=["RACK_URL,RACK_TOKEN"]
        ),
    ] = ""


class Exec(Provider):
    """Has machines made, destroyed and told of by executables in any language. docs/exec.md has the protocol.

    Its methods are plain: each waits in a thread for its executable, which ends when it takes too long.
    """

    Options = Executables
    example = {"size": "small"}
    batch = 20
    options: Executables

    def __init__(self, name: str, folder: Path, options: Executables | None = None) -> None:
        super().__init__(name, folder, options)
        self._requests = Requests(folder / f"{name}.exec")
        self._runner = Runner(name, folder, self._requests)
        self._executables: Mapping[str, Path] = {}

    def start(self) -> None:
        options = self.options
        paths = {verb: getattr(options, verb) or options.command for verb in (*NEEDED, *wire.OPTIONAL)}
        for verb in NEEDED:
            if not paths[verb]:
                raise CannotStart(f"provider exec: {verb}: expected the path of an executable, here or as command")
        self._executables = {verb: _executable(verb, path) for verb, path in paths.items() if path}
        self._runner.start(self.mark, _passed(options.environment))
        self._requests.open()

    def stop(self) -> None:
        self._runner.stop()
        self._requests.close()

    def validate(self, properties: Raw | None) -> None:
        super().validate(properties)
        self._asked(wire.validate(properties), wire.Nothing, min(VALIDATE, self.options.timeout))

    def provision(self, id: str, spec: Spec) -> Machine:
        self._requests.refuse_beside(id)
        made = self._asked(wire.provision(id, spec), wire.Made)
        assert made is not None
        return made.machine(id)

    def destroy(self, instances: Sequence[Record], reason: str) -> Mapping[str, TryAgain]:
        errors = self._at_work(instances)
        left = [instance for instance in instances if instance.id not in errors]
        if left:
            result = self._asked(wire.destroy(left, reason), wire.Destroyed)
            assert result is not None
            failed = result.errors([instance.id for instance in left])
            errors.update({id: TryAgain(self._runner.shown(str(error)), error.after) for id, error in failed.items()})
        return errors

    def observe(self) -> Iterable[Machine]:
        """Tell of what is being made, too: were its record dropped as missing, its machine would be nobody's."""
        beside = self._requests.at_work()
        result = self._asked(wire.observe(), wire.Observed, self.options.observe_timeout)
        assert result is not None
        machines = [seen.machine(self._runner.shown(seen.reason)) for seen in result.machines]
        seen_ids = {machine.id for machine in machines} if beside else set()
        return [*machines, *(Machine(id, functional=False, reason=AT_WORK) for id in beside if id not in seen_ids)]

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        self._requests.refuse_beside(instance.id)
        self._asked(wire.label(instance, tags), wire.Nothing)

    def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        self._requests.refuse_beside(id)
        made = self._asked(wire.adopt(id, handle, spec), wire.Made)
        if made is None:
            raise GiveUp(f"{handle}: there is no executable that can adopt machines")
        return Machine(id, made.handle or handle, properties=made.properties)

    def _at_work(self, instances: Sequence[Record]) -> dict[str, TryAgain]:
        errors = {}
        for instance in instances:
            try:
                self._requests.refuse_beside(instance.id)
            except TryAgain as error:
                errors[instance.id] = error
        return errors

    def _asked(self, request: Request, shape: type[T], timeout: float | None = None) -> T | None:
        """Have an executable asked; None where there is none that knows the verb."""
        executable = self._executables.get(request.verb)
        if executable is None:
            return None
        try:
            return self._runner.run(
                executable, request, shape, Bounds(timeout or self.options.timeout, self.options.output_limit)
            )
        except wire.Unknown:
            return None


def _executable(verb: str, given: str) -> Path:
    """Give the path of an executable, once it is found that it can be run, and that nobody else can change it."""
    path = Path(given).expanduser().absolute()
    try:
        if not path.is_file() or not os.access(path, os.X_OK):
            problem = (
                "is not executable"
                if path.is_file()
                else "is not a regular file"
                if path.exists()
                else "does not exist"
            )
            raise CannotStart(f"provider exec: {verb}: {path} {problem}")
        paths.check_trusted(path)
    except (OSError, ValueError) as error:
        raise CannotStart(f"provider exec: {verb}: {path}: {getattr(error, 'strerror', None) or error}") from None
    return path


def _passed(names: str) -> Mapping[str, str]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in os.environ:
            raise CannotStart(f"provider exec: environment: variable {name!r} is not set")
    return {name: os.environ[name] for name in wanted}
