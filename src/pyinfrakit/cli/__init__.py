"""The command line: one module for each family of commands, and the start and the end that they share."""

import logging
import os
import sys
import threading
from typing import NoReturn

import click
from click.core import ParameterSource

from pyinfrakit.errors import CannotStart, PyInfrakitError
from pyinfrakit.logs import escape
from pyinfrakit.stderr import open_standard_files

EXIT_TIMEOUT = 1.0
"""Seconds that a process may take from its last message to its end."""

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def run() -> NoReturn:
    """Run `infrakit`."""
    from pyinfrakit.cli.root import infrakit

    main(infrakit)


def run_group() -> NoReturn:
    """Run `infrakit-group`: the group controller."""
    from pyinfrakit.cli.controller import controller

    main(controller)


def run_instance() -> NoReturn:
    """Run `infrakit-instance`: without a command it is the plugin's daemon, with one it is a client of plugins."""
    from pyinfrakit.cli.serve import instance

    main(instance)


def main(program: click.Command) -> NoReturn:
    """Run *program* and exit, with the code that a command returns, or 0.

    Any error becomes one line on stderr and an exit code: 1, or 2 for wrong use.
    """
    open_standard_files()
    message: str | None = None
    code = FAILED
    try:
        code = program(prog_name=program.name, standalone_mode=False) or 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program.name
        message = f"{error.format_message().rstrip('.')}{_explain_source(error)}; see `{command} --help`"
        code = WRONG_USE
    except CannotStart as error:
        message, code = str(error), WRONG_USE
    except click.ClickException as error:
        message = error.format_message()
    except PyInfrakitError as error:
        message = str(error)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except UnicodeEncodeError:
        message, code = "an argument is not UTF-8", WRONG_USE
    except BrokenPipeError:
        # The reader has left, as `| head` does. Python flushes stdout once more at exit: that must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        message = error.strerror or str(error)
    if message is not None:
        click.echo(f"{program.name}: {escape(' '.join(message.split()))}", err=True)
    # At exit, Python waits for a provider's threads and child processes, and calls what it registered: any may hang.
    limit = threading.Timer(EXIT_TIMEOUT, os._exit, (code,))
    limit.daemon = True
    limit.start()
    logging.shutdown()
    if sys.stdout is not None:
        sys.stdout.flush()
    sys.exit(code)


def _explain_source(error: click.UsageError) -> str:
    """Return the environment variable that a wrong value is from, or an empty string."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return ""
    name = error.param.name or ""
    if error.ctx.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
        return ""
    return f" (from {error.param.envvar or f'{error.ctx.auto_envvar_prefix}_{name.upper()}'})"
