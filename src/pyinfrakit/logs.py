"""Log levels as the C demo numbers them, on the standard library's logging."""

import logging
import sys

from pyinfrakit.stderr import Handler, Text

NOTICE = 25
"""Between info and warning: an operator should know, but nothing is wrong."""

LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, NOTICE, logging.INFO, logging.DEBUG)
"""The levels for ``--log 0`` to ``--log 5``."""


def configure(verbosity: int) -> None:
    """Log to stderr all messages of level *verbosity*, 0 to 5, and more important ones. Nothing waits for its reader."""
    logging.addLevelName(NOTICE, "NOTICE")
    form = "%(asctime)s %(levelname)-8s %(message)s"
    handler = Handler()
    logging.basicConfig(handlers=[handler], level=LEVELS[verbosity], format=form, force=True)
    sys.stderr = Text(handler.output)


def flush(timeout: float) -> None:
    """Wait until stderr has all messages, but no more than *timeout* seconds."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.output.flush(timeout)


def escape(text: str) -> str:
    """Return *text* in one line that is safe to print: line ends and control sequences are escaped.

    Text from machines, clients and damaged files must not forge a line or move a cursor.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
