"""The command `flavor`: a built-in flavor as a plugin, for controllers of every InfraKit generation."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, log_option


@click.command()
@click.argument("kind", metavar="vanilla|combo", type=click.Choice(["vanilla", "combo"]))
@click.option("--name", help="The plugin's name, which is also its socket's file name.  [default: the flavor's]")
@directory_option
@log_option(default=4)
def flavor(kind: str, name: str | None, directory: Path, log: int) -> None:
    """Serve a built-in flavor on a socket. Our own controller has both built in, and needs no such plugin."""
    # Imported here: these modules load slowly, and --help does not need them.
    from pyinfrakit import logs
    from pyinfrakit.daemon.flavor import run_builtin_flavor

    logs.configure(log)
    run_builtin_flavor(name or kind, kind, directory)
