"""Log levels as the C demo numbers them, on the standard library's logging; and log lines that nobody can forge.

Each record becomes one line, also with a traceback: control characters are escaped, each value is cut, and the secrets
of the provider call under way are hidden. The filters do this in the thread that logs, whatever handler writes it.
"""

import logging
import sys
import threading
import time
import traceback
from typing import Any

from pyinfrakit.schema.redactor import MAX_TEXT, cut, redact_current
from pyinfrakit.stderr import Handler, Text

NOTICE = 25
"""Between info and warning: an operator should know, but nothing is wrong."""

LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, NOTICE, logging.INFO, logging.DEBUG)
"""The levels for ``--log 0`` to ``--log 5``."""

MAX_VALUE = 1000
"""Longest value in a line, in characters."""

MAX_MESSAGE = 4000
"""Longest message, in characters, without the traceback."""

QUOTA = 300
"""Lines of a kind that a `Quota` lets through in a minute."""

log = logging.getLogger(__name__)


def configure(verbosity: int) -> None:
    """Log to stderr all messages of level *verbosity*, 0 to 5, and more important ones. Nothing waits for its reader."""
    logging.addLevelName(NOTICE, "NOTICE")
    form = "%(asctime)s %(levelname)-8s %(message)s"
    handler = Handler()
    handler.addFilter(OneLine())
    logging.basicConfig(handlers=[handler], level=LEVELS[verbosity], format=form, force=True)
    sys.stderr = Text(handler.output)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread


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


class OneLine(logging.Filter):
    """Turns each record into one line that is safe to print, without the secrets of the provider call under way."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_foreign = not record.name.startswith("pyinfrakit.")
        text = escape(cut(redact_current(_render(record), is_foreign=is_foreign), MAX_MESSAGE))
        if record.exc_info:
            shown = redact_current(_format_traceback(record.exc_info[1]), is_foreign=True)
            text = f"{text} | {escape(shown)}"
        record.msg, record.args = text, None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


class Quota(logging.Filter):
    """Lets `QUOTA` lines of a kind through in a minute, and the next one says how many were left out.

    It is for loggers whose lines a client or a machine can cause at will. Debug lines are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[int, str], tuple[float, int]] = {}
        """By level and template, the end of the minute and the number of lines in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        now, kind = time.monotonic(), (record.levelno, str(record.msg))
        end, count = self._counts.get(kind, (0.0, 0))
        if now >= end:
            end, left_out, count = now + 60, count - QUOTA, 0
            if left_out > 0:
                record.msg = f"{record.msg} ({left_out} lines like this one were left out before)"
        elif count == QUOTA - 1:
            record.msg = f"{record.msg} (the last line like this one for a minute)"
        self._counts[kind] = end, count + 1
        return count < QUOTA


def _render(record: logging.LogRecord) -> str:
    """Return a record's message with its values, each without secrets and cut."""
    arguments: Any = record.args
    try:
        if isinstance(arguments, tuple):
            arguments = tuple(map(_shorten, arguments))
        elif arguments:
            arguments = {key: _shorten(value) for key, value in arguments.items()}
        return cut(str(record.msg) % arguments if arguments else str(record.msg), MAX_TEXT)
    except Exception as error:  # noqa: BLE001 - a provider's values may raise anything, and logging would print that
        return f"a wrong log message in {record.name}, line {record.lineno}: {type(error).__name__}"


def _shorten(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    return cut(redact_current(cut(str(value), MAX_TEXT)), MAX_VALUE)


def _format_traceback(error: BaseException | None) -> str:
    """Return a traceback in one line. Of a long one, the begin and the end are left."""
    lines = (line.strip() for part in traceback.format_exception(error) for line in part.splitlines())
    text = " | ".join(line for line in lines if line.strip("~^"))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_VALUE]}…{text[MAX_VALUE - MAX_TEXT :]}"


def _log_thread(args: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread. Python would print it as it is."""
    name = args.thread.name if args.thread else "unknown"
    log.error("thread %s ended", name, exc_info=args.exc_value)
