"""What an executable says on stderr, line by line, as long as it is not too much."""

from collections.abc import Callable

LONGEST = 65536
"""Bytes of a line that are looked at."""

MOST = 200
"""Lines of one run that are told."""


class Lines:
    """Gives each line to *say* as it comes. *last* is the last one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = b""
        self._count = 0
        self.last = ""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._one(line)
        self._rest = rest[:LONGEST]

    def end(self) -> None:
        """Tell what came last, though it is no whole line."""
        self._one(self._rest)
        self._rest = b""

    def _one(self, data: bytes) -> None:
        line = data[:LONGEST].decode(errors="backslashreplace").strip()
        if not line:
            return
        self.last = line
        self._count += 1
        if self._count <= MOST:
            self._say(line)
        elif self._count == MOST + 1:
            self._say("(what more it says is not shown)")
