"""A provider that does what the file ``mode`` beside the state file names, once, and then behaves."""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from pyinfrakit.provider import Machine, Provider, Record, Spec, TryAgain


class CloudError(TryAgain):
    def __init__(self, status: int) -> None:
        Exception.__init__(self, status)
        self.after = Truth()  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return]


class Truth:
    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array with more than one element is ambiguous")


class Apart(BaseException):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit("no traceback")

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise KeyboardInterrupt


class Text(str):
    def __eq__(self, other: object) -> bool:
        raise SystemExit("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Litter:
    def __del__(self) -> None:
        raise SystemExit("no end")


def leave(*_: object) -> None:
    sys.exit("no credentials")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Wild(Provider):
    def start(self) -> None:
        self.machines = {record.id for record in self.known}
        self.done = 0

    def provision(self, id: str, spec: Spec) -> Any:
        self.machines.add(id)

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        self.machines -= {instance.id for instance in instances}

    def list_machines(self) -> list[Machine]:
        return [Machine(id) for id in self.machines]

    def take_mode(self) -> str:
        mode = self.folder / "mode"
        if not mode.exists():
            return "behave"
        name = mode.read_text()
        mode.unlink()
        return name


class Async(Wild):
    async def observe(self) -> Any:
        return await getattr(self, self.take_mode())() or self.list_machines()

    async def behave(self) -> None:
        """Do nothing else."""

    async def exit_in_a_gathered_task(self) -> None:
        async def ask_region() -> None:
            leave()

        await asyncio.gather(ask_region(), asyncio.sleep(0.01))

    async def exit_in_a_background_task(self) -> None:
        async def refresh() -> None:
            await asyncio.sleep(0)
            leave()

        self.task = asyncio.create_task(refresh())

    async def exit_in_a_task_group(self) -> None:
        async def ask_region() -> None:
            leave()

        async with asyncio.TaskGroup() as group:
            group.create_task(ask_region())

    async def exit_in_a_callback(self) -> None:
        asyncio.get_running_loop().call_soon(leave)

    async def exit_in_a_timer(self) -> None:
        asyncio.get_running_loop().call_later(0.02, leave)

    async def interrupt_in_a_callback(self) -> None:
        asyncio.get_running_loop().call_soon(interrupt)

    async def exit_in_a_reader(self) -> None:
        reader, self.writer = os.pipe()
        loop = asyncio.get_running_loop()

        def read() -> None:
            loop.remove_reader(reader)
            leave()

        loop.add_reader(reader, read)
        os.write(self.writer, b"x")

    async def exit_in_a_done_callback(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(0))
        self.task.add_done_callback(leave)

    async def exit_in_an_exception_handler(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(leave)
        loop.call_soon(lambda: 1 / 0)

    async def stop_the_loop(self) -> None:
        asyncio.get_running_loop().stop()

    async def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def cancel_all_tasks(self) -> None:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)

    async def cancel_all_tasks_later(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: [task.cancel() for task in asyncio.all_tasks()])

    async def raise_a_cancellation(self) -> None:
        raise asyncio.CancelledError

    async def close_its_generator(self) -> None:
        raise GeneratorExit

    async def raise_a_foreign_exception(self) -> None:
        raise Apart


class Plain(Wild):
    def observe(self) -> Any:
        return getattr(self, self.take_mode())() or self.list_machines()

    def behave(self) -> None:
        """Do nothing else."""

    def raise_an_error_without_a_text(self) -> None:
        raise CloudError(503)

    def return_an_object_without_a_truth(self) -> list[Machine]:
        return [Machine(id, functional=Truth()) for id in self.machines]  # type: ignore[arg-type]

    def return_texts_of_its_own(self) -> list[Machine]:
        return [Machine(Text(id), Text("handle"), reason=Text("fine")) for id in self.machines]

    def return_other_objects(self) -> list[Any]:
        return [Truth()]

    def break_off(self) -> Any:
        yield Machine("one")
        next(iter(()))

    def raise_a_foreign_exception(self) -> None:
        raise Apart

    def close_its_generator(self) -> None:
        raise GeneratorExit

    def raise_a_cancellation(self) -> None:
        raise asyncio.CancelledError

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def run_out_of_memory(self) -> None:
        raise MemoryError

    def recurse(self) -> None:
        self.recurse()

    def exit_in_a_thread(self) -> None:
        threading.Thread(target=leave).start()

    def interrupt_in_a_thread(self) -> None:
        threading.Thread(target=interrupt).start()

    def leave_litter(self) -> None:
        Litter()


class Greedy(Wild):
    """It takes the tags that it has used out of the specs and records that it gets, and reuses what it returned."""

    def start(self) -> None:
        super().start()
        for record in self.known:
            record.spec.tags.clear()  # type: ignore[attr-defined]

    def provision(self, id: str, spec: Spec) -> Machine:
        self.machines.add(id)
        spec.tags.pop("infrakit.group")  # type: ignore[attr-defined]
        return Machine(id)

    def label(self, instance: Record, tags: Any) -> None:
        instance.spec.tags.clear()  # type: ignore[attr-defined]
        tags.clear()

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        for instance in instances:
            instance.spec.tags.clear()  # type: ignore[attr-defined]
        raise TryAgain("not yet")

    def observe(self) -> Any:
        return self.list_machines()


class Rude(Wild):
    """It cleans up too much at a stop."""

    def observe(self) -> Any:
        return self.list_machines()

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(leave)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        loop.stop()
        await asyncio.sleep(0)
        leave()
