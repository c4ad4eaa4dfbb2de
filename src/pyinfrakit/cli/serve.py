"""The plugin's daemon: `infrakit-instance` without a command."""

import importlib
import math
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyinfrakit import __version__
from pyinfrakit.cli.arguments import directory_option

FAMILIES = {
    "instances": ("describe", "provision", "validate", "destroy", "label"),
    "operations": ("set-aside", "restore", "confirm", "orphans", "adopt", "machines", "info"),
    "provider": ("provider", "new"),
    "conformance": ("conformance",),
    "state": ("fsck", "export"),
}
"""The commands in each module of `pyinfrakit.cli`."""

MODULES = {command: module for module, commands in FAMILIES.items() for command in commands}


class _LazyGroup(click.Group):
    """A group of commands that are imported when they run: to import all takes longer than most of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*MODULES, *self.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"pyinfrakit.cli.{MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


class _Pair(click.ParamType[tuple[str, str]]):
    name = "KEY=VALUE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, equals, rest = value.partition("=")
        if not equals:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        return key, rest


class _Seconds(click.FloatRange):
    """A range of seconds. Unlike its base class, it does not contain nan."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"expected a number of seconds, got {value}", param, ctx)
        return seconds


seconds_option = partial(click.option, type=_Seconds(min=0.01))
count_option = partial(click.option, type=click.IntRange(1))


def _check_conflicts(context: click.Context) -> None:
    """Raise `click.UsageError` for a provider or options beside a file that has them, and for a duplicate option."""
    names = ("config", "provider", "option")
    used = [name for name in names if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)]
    if "config" in used and len(used) > 1:
        message = f"--config has the provider and its options: leave out --{used[1]}, or put it there"
        raise click.UsageError(message, context)
    keys = [key for key, _ in context.params["option"]]
    for key in keys:
        if keys.count(key) > 1:
            raise click.UsageError(f"duplicate --option {key}=…: use it once", context)


@click.group(
    "infrakit-instance",
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "INFRAKIT_INSTANCE",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
    epilog="Every flag has an environment variable, such as INFRAKIT_INSTANCE_SYNC_INTERVAL for --sync-interval.",
)
@click.option("--name", default="instance-py", help="The plugin's name, which is also its socket's file name.")
@click.option(
    "--log",
    type=click.IntRange(0, 5),
    default=4,
    help="The level: 0 critical, 1 error, 2 warning, 3 notice, 4 info, 5 debug.",
)
@click.option(
    "--state",
    metavar="PATH|URL",
    help="The state file, or the URL of another store.  [default: state/NAME.json in InfraKit's home]",
)
@directory_option
@click.option(
    "--provider",
    default="file",
    help="The provider, which makes the machines: file, simulator, process, exec, redfish, another installed one, "
    "module:Class, or path/to/file.py:Class.",
)
@click.option(
    "--option", type=_Pair(), multiple=True, help="A provider option. Repeatable. A secret is env:NAME or file:PATH."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A file with providers and options (TOML, YAML, JSON), instead of --provider and --option.",
)
@click.option("--mark", help="The plugin's mark on its machines, for recovery.  [default: the stored one, or random]")
@seconds_option("--sync-interval", default=10.0, help="Seconds between observations of the provider.")
@seconds_option("--observe-timeout", default=60.0, help="Maximum seconds for an observation.")
@click.option(
    "--provision-wait",
    type=_Seconds(0, 14),
    default=10.0,
    help="Seconds that a call waits for the provider. InfraKit's clients time out after 15.",
)
@seconds_option(
    "--provision-deadline", default=1800.0, help="Seconds before a machine that exists, but never worked, is set aside."
)
@seconds_option(
    "--call-timeout",
    default=1800.0,
    help="Seconds before a provider call is logged as late and, if it is async, cancelled.",
)
@click.option(
    "--calls-at-once",
    type=click.IntRange(1, 1000),
    default=50,
    help="Maximum number of concurrent provisions, and of concurrent destroys.",
)
@count_option("--broken-after", default=2, help="Consecutive observations before an instance counts as broken.")
@count_option("--healed-after", default=3, help="Consecutive observations before an instance counts as healed.")
@count_option("--missing-after", default=3, help="Consecutive observations before an instance counts as gone.")
@seconds_option("--non-functional-age", help="Seconds before a non-functional instance is destroyed.  [default: never]")
@click.option(
    "--paced-updates/--no-paced-updates",
    default=True,
    help="Let a rolling update take down a member only while no other member is being provisioned.",
)
@click.pass_context
def plugin(
    context: click.Context,
    /,
    name: str,
    log: int,
    state: str | None,
    directory: Path,
    provider: str,
    option: tuple[tuple[str, str], ...],
    config: Path | None,
    mark: str | None,
    sync_interval: float,
    observe_timeout: float,
    provision_wait: float,
    call_timeout: float,
    calls_at_once: int,
    paced_updates: bool,
    **thresholds: Any,
) -> None:
    """InfraKit instance plugin. Without a command, run the plugin; the commands talk to a running one."""
    if context.invoked_subcommand is not None:
        return
    # Imported here: these modules load slowly, and the commands do not need them.
    from pyinfrakit import logs
    from pyinfrakit.config import choose_from_file, choose_from_flags
    from pyinfrakit.daemon.build import run_daemon
    from pyinfrakit.instance.calls import CallLimits
    from pyinfrakit.instance.plan import Thresholds
    from pyinfrakit.instance.plugin import Plugin

    logs.configure(log)
    _check_conflicts(context)
    make_plugin = partial(
        Plugin,
        wait=provision_wait,
        paced=paced_updates,
        interval=sync_interval,
        observe_timeout=observe_timeout,
        thresholds=Thresholds(**thresholds),
        call_limits=CallLimits(calls_at_once, call_timeout),
    )
    choices = choose_from_flags(provider, option) if config is None else choose_from_file(config)
    providers = {sub_type: choice.make for sub_type, choice in choices.items()}
    run_daemon(name, providers, directory, state, mark, make_plugin)


@plugin.command()
@click.pass_context
def version(context: click.Context) -> None:
    """Print the version."""
    click.echo(f"{context.find_root().info_name} {__version__}")
