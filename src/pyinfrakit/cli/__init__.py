"""The command `infrakit-instance`: without a verb it is the plugin, with one it is a client of plugins."""

import logging
import os
import sys
import threading
from typing import NoReturn

import click
from click.core import ParameterSource

from pyinfrakit.cli.plugin import plugin
from pyinfrakit.errors import CannotStart, PyInfrakitError

NAME = "infrakit-instance"
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line. Whatever goes wrong is one line on stderr and an exit code: 1, or 2 for wrong use."""
    try:
        plugin(prog_name=NAME, standalone_mode=False)
        code = 0
    except click.UsageError as error:
        code = _told(f"{error.format_message().rstrip('.')}{_origin(error)}; see `{_command(error)} --help`", WRONG_USE)
    except click.ClickException as error:
        code = _told(error.format_message(), FAILED)
    except CannotStart as error:
        code = _told(str(error), WRONG_USE)
    except PyInfrakitError as error:
        code = _told(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except UnicodeEncodeError:
        code = _told("an argument is not UTF-8", WRONG_USE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        code = _told(error.strerror or str(error), FAILED)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process, also where a thread of a provider's hangs: Python would wait for it."""
    logging.shutdown()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(code)
    sys.exit(code)


def _command(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else NAME


def _origin(error: click.UsageError) -> str:
    """Say where a wrong value came from, if not from the command line."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return ""
    name = error.param.name or ""
    if error.ctx.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
        return ""
    return f" (from {error.param.envvar or f'{error.ctx.auto_envvar_prefix}_{name.upper()}'})"


def _told(message: str, code: int) -> int:
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    return code
