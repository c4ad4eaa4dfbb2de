"""Log levels as the C demo numbers them, on the standard library's logging."""

import asyncio
import logging
import sys

NOTICE = 25
"""Between info and warning: what an operator should know of, though nothing is wrong."""

LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, NOTICE, logging.INFO, logging.DEBUG)
"""The levels for ``--log 0`` to ``--log 5``."""


def set_up(verbosity: int) -> None:
    """Log to stderr what is at least as important as level *verbosity*, 0 to 5."""
    logging.addLevelName(NOTICE, "NOTICE")
    logging.basicConfig(stream=sys.stderr, level=LEVELS[verbosity], format="%(asctime)s %(levelname)-8s %(message)s", force=True)


class Together:
    """Logs what happens to many instances at once in one line: a line for each would cost more than a provision does."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._ids: dict[str, list[str]] = {}

    def info(self, id: str, what: str) -> None:
        if not self._ids:
            asyncio.get_running_loop().call_soon(self._write)
        self._ids.setdefault(what, []).append(id)

    def _write(self) -> None:
        ids, self._ids = self._ids, {}
        for what, those in ids.items():
            self._log.info("%s: %s", ", ".join(those), what)
