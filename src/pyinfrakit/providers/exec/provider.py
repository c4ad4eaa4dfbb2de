"""The provider: it runs an executable for each of its methods."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from msgspec import Raw
from msgspec.structs import asdict

from pyinfrakit.errors import GiveUp, TryAgain
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.providers.exec import protocol
from pyinfrakit.providers.exec.options import Options as ExecOptions
from pyinfrakit.providers.exec.protocol import Request, UnknownVerb, encode_instance, encode_spec
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.providers.exec.runner import Runner, clean
from pyinfrakit.record import Record, Spec

T = TypeVar("T")


class Exec(Provider):
    """Machines that executables in any language create, destroy and report. docs/exec.md describes the protocol.

    The methods are plain. Each waits in a thread for its executable, whose time is limited.
    """

    Options = ExecOptions
    example = {"size": "small"}
    batch = 20
    options: ExecOptions

    def __init__(self, name: str, folder: Path, options: ExecOptions | None = None) -> None:
        super().__init__(name, folder, options)
        self._requests = Requests(folder / f"{name}.exec")
        self._runner = Runner(name, folder, self._requests)
        self._executables: Mapping[str, Path] = {}

    def start(self) -> None:
        self._executables = self.options.find_executables()
        self._runner.start(self.mark, self.options.read_environment(), self.options.output_limit)
        self._requests.open()

    def stop(self) -> None:
        self._runner.stop()
        self._requests.close()

    def validate(self, properties: Raw | None) -> None:
        super().validate(properties)
        with suppress(UnknownVerb):
            request = Request("validate", members={"properties": properties})
            # 9 seconds, because a client waits, and the plugin's limit is 10.
            self._run(request, protocol.EmptyResult, min(9.0, self.options.timeout))

    def provision(self, id: str, spec: Spec) -> Machine:
        request = Request("provision", [id], {"id": id, "spec": encode_spec(spec)})
        result = self._run(request, protocol.MachineResult)
        return Machine(id, result.handle, properties=result.properties)

    def destroy(self, instances: Sequence[Record], reason: str) -> Mapping[str, TryAgain]:
        busy = self._requests.find_busy()
        errors = {each.id: busy[each.id] for each in instances if each.id in busy}
        idle = [each for each in instances if each.id not in busy]
        if idle:
            ids = [each.id for each in idle]
            members = {"instances": [encode_instance(each) for each in idle], "reason": reason}
            result = self._run(Request("destroy", ids, members), protocol.DestroyResult)
            for id, failure in result.find_failures(ids).items():
                problem = clean(failure.problem, self._runner.redactor) or "failed without a reason"
                errors[id] = TryAgain(problem, failure.after)
        return errors

    def observe(self) -> Iterable[Machine]:
        # In this order: an executable that ends during the observation counts as busy, because its machine may not
        # be in the result. If the record were dropped as missing, the machine would belong to nobody.
        busy = self._requests.find_busy()
        result = self._run(Request("observe"), protocol.ObserveResult, self.options.observe_timeout)
        reasons = [clean(each.reason, self._runner.redactor) for each in result.machines]
        machines = [
            Machine(**{**asdict(each), "reason": reason}) for each, reason in zip(result.machines, reasons, strict=True)
        ]
        unseen = busy.keys() - {machine.id for machine in machines}
        reason = "an executable of an earlier daemon works on it"
        return [*machines, *(Machine(id, functional=False, reason=reason) for id in unseen)]

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        with suppress(UnknownVerb):
            members = {"id": instance.id, "instance": encode_instance(instance), "tags": tags}
            self._run(Request("label", [instance.id], members), protocol.EmptyResult)

    def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        request = Request("adopt", [id], {"id": id, "handle": handle, "spec": encode_spec(spec)})
        try:
            result = self._run(request, protocol.MachineResult)
        except UnknownVerb:
            raise GiveUp(f"{handle}: no executable can adopt machines") from None
        return Machine(id, result.handle or handle, properties=result.properties)

    def _run(self, request: Request, shape: type[T], timeout: float | None = None) -> T:
        """Return a request's result. Raise `UnknownVerb` if no executable supports it, or the error of `check_idle`."""
        self._requests.check_idle(request.ids)
        executable = self._executables.get(request.verb)
        if executable is None:
            raise UnknownVerb
        return self._runner.run(executable, request, shape, timeout or self.options.timeout)
