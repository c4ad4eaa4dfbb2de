"""Providers that stand in the way of a stop: with signals, threads, child processes, and calls that never end.

Most do so from their first provision on.
"""

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FOREVER = 1000


def change_handlers() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Stubborn(Provider):
    """Machines in memory. *obstruct* runs in each provision."""

    def start(self) -> None:
        self.machines = {record.id for record in self.known}

    async def provision(self, id: str, spec: Spec) -> None:
        self.machines.add(id)
        self.obstruct()

    async def destroy(self, instances: Sequence[Record], reason: str) -> None:
        self.machines -= {record.id for record in instances}

    def observe(self) -> Iterable[Machine]:
        return [Machine(id) for id in self.machines]

    def obstruct(self) -> None:
        pass


class IgnoresSignals(Stubborn):
    def obstruct(self) -> None:
        change_handlers()


class HandlesSignals(Stubborn):
    def obstruct(self) -> None:
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: sys.exit(7))


class TakesSignals(Stubborn):
    def obstruct(self) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, print)


class RemovesHandlers(Stubborn):
    def obstruct(self) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.set_wakeup_fd(-1)


class BlocksSignals(Stubborn):
    def obstruct(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class IgnoresSignalsInC(Stubborn):
    def obstruct(self) -> None:
        for number in SIGNALS:
            ctypes.CDLL(None).signal(int(number), ctypes.c_void_p(1))


class IgnoresSignalsAndBlocks(Stubborn):
    """It blocks the event loop, a little later so that its call is answered."""

    def obstruct(self) -> None:
        change_handlers()
        asyncio.get_running_loop().call_later(0.2, time.sleep, FOREVER)


class BlocksLoop(Stubborn):
    def obstruct(self) -> None:
        asyncio.get_running_loop().call_later(0.2, time.sleep, FOREVER)


class SpinsLoop(Stubborn):
    def obstruct(self) -> None:
        def spin() -> None:
            while True:
                pass

        asyncio.get_running_loop().call_later(0.2, spin)


class StopsLoop(Stubborn):
    def obstruct(self) -> None:
        asyncio.get_running_loop().stop()


class ExitsInCallback(Stubborn):
    def obstruct(self) -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 5)


class HasThreads(Stubborn):
    def obstruct(self) -> None:
        threading.Thread(target=time.sleep, args=(FOREVER,)).start()
        asyncio.get_running_loop().run_in_executor(None, time.sleep, FOREVER)


class HasChildren(Stubborn):
    """Its children hold pipes of the daemon, and its stdout and stderr."""

    def obstruct(self) -> None:
        self.child = subprocess.Popen(["sleep", "30"], stdout=subprocess.PIPE)
        subprocess.Popen(["sleep", "30"])
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start()


class EndsForks(Stubborn):
    """Its provision returns once its child process has ended by SIGTERM."""

    def obstruct(self) -> None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join()
        assert child.exitcode == -signal.SIGTERM


class HangsAtExit(Stubborn):
    def obstruct(self) -> None:
        atexit.register(time.sleep, FOREVER)


class HangsInStop(Stubborn):
    async def stop(self) -> None:
        time.sleep(FOREVER)


class NeverStops(Stubborn):
    async def stop(self) -> None:
        while True:
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                continue


class ClosesStderr(Stubborn):
    def obstruct(self) -> None:
        sys.stderr.close()


class ClosesDescriptor(Stubborn):
    def obstruct(self) -> None:
        if len(self.machines) == 1:
            os.close(2)


class Prints(Stubborn):
    """It prints a mebibyte with each provision."""

    def obstruct(self) -> None:
        for _ in range(32):
            print("x" * (1 << 15), file=sys.stderr)


class HoldsInterpreter(Stubborn):
    """Its stop never lets another thread run Python code."""

    async def stop(self) -> None:
        ctypes.PyDLL(None).sleep(FOREVER)
