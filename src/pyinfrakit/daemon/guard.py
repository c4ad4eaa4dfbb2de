"""Keep the event loop running, whatever the code of a provider does in it.

A provider's calls are guarded by `instance.calls`. Here is the guard against what it leaves in the event loop: tasks and
callbacks that raise SystemExit or KeyboardInterrupt, which end an event loop; that stop the loop; or that
cancel all tasks there are. A daemon goes on after each of them, and says so in the log.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar

from pyinfrakit.foreign import copy_trace
from pyinfrakit.instance.calls import IN_PROVIDER

log = logging.getLogger(__name__)

T = TypeVar("T")


def run_guarded(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of *work*, or raise its error. Nothing else ends the event loop before."""
    loop.set_task_factory(_make_task)
    sys.unraisablehook = _log_unraisable
    task = loop.create_task(work)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit) as error:  # signals are handled: this is not Ctrl-C
            log.critical("a provider has a bug: a task or callback of it raised", exc_info=copy_trace(error))
        else:
            if not task.done():
                log.critical("a provider has a bug: it stopped the event loop, which goes on")
    return task.result()


class _Task(asyncio.Task[T]):
    """A task that a provider can't cancel, unless it is the provider's own."""

    def __init__(self, work: Any, context: Context | None = None, **settings: Any) -> None:
        self._context = copy_context() if context is None else context
        super().__init__(work, context=self._context, **settings)

    def cancel(self, msg: Any | None = None) -> bool:
        if IN_PROVIDER.get() and not self._context.get(IN_PROVIDER, False):
            log.error("a provider has a bug: it tried to cancel the task %s, which is not its own", self.get_name())
            return False
        return super().cancel(msg)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **settings: Any
) -> asyncio.Task[T]:
    return _Task(work, loop=loop, **settings)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Log an exception that has no caller, such as one in `__del__`."""
    if unraisable.exc_value is not None:
        log.error("an error without a caller", exc_info=copy_trace(unraisable.exc_value))
