"""The command `infrakit-instance`: without a verb it is the plugin, with one it is a client of plugins."""

import os
import sys

import click
from click.core import ParameterSource

from pyinfrakit import __version__
from pyinfrakit.cli.confirm import confirm
from pyinfrakit.cli.describe import describe
from pyinfrakit.cli.destroy import destroy
from pyinfrakit.cli.info import info
from pyinfrakit.cli.label import label
from pyinfrakit.cli.plugin import plugin
from pyinfrakit.cli.provision import provision
from pyinfrakit.cli.restore import restore
from pyinfrakit.cli.set_aside import set_aside
from pyinfrakit.cli.validate import validate
from pyinfrakit.errors import CannotStart, PyInfrakitError

NAME = "infrakit-instance"
FAILED, WRONG_USE = 1, 2


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"{NAME} {__version__}")


for verb in (version, describe, provision, validate, destroy, label, set_aside, restore, confirm, info):
    plugin.add_command(verb)


def main() -> None:
    """Run the command line. Whatever goes wrong is one line on stderr and an exit code: 1, or 2 for wrong use."""
    try:
        plugin(prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        _fail(f"{error.format_message().rstrip('.')}{_origin(error)}; see `{_command(error)} --help`", WRONG_USE)
    except click.ClickException as error:
        _fail(error.format_message(), FAILED)
    except CannotStart as error:
        _fail(str(error), WRONG_USE)
    except PyInfrakitError as error:
        _fail(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


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


def _fail(message: str, code: int) -> None:
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    sys.exit(code)
