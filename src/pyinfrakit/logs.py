"""Log levels as the C demo numbers them, on the standard library's logging."""

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
