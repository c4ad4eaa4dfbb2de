"""The plugin's daemon: `infrakit-instance` without a command."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyinfrakit.cli.arguments import INFRAKIT_FORM, directory_option, log_option, pop_option
from pyinfrakit.cli.lazy import LazyGroup

FAMILIES = {
    "instances": ("describe", "provision", "validate", "destroy", "label"),
    "operations": ("set-aside", "restore", "confirm", "orphans", "adopt", "machines", "info"),
    "provider": ("provider", "new"),
    "events": ("events",),
    "conformance": ("conformance",),
    "state": ("fsck", "export"),
    "version": ("version",),
}
"""The commands in each module of `pyinfrakit.cli`."""

_WITH_NAME = {command for family in ("instances", "operations", "conformance") for command in FAMILIES[family]}
"""The commands whose first argument is a plugin's name."""


class _Program(LazyGroup):
    """The commands, also in InfraKit's own form, in which the plugin's name is an option: ``--name rack1 describe``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb, command, rest = super().resolve_command(ctx, args)
        if verb not in _WITH_NAME:
            return verb, command, rest
        name, rest = pop_option(rest, "--name")
        if name is None and ctx.get_parameter_source("name") is ParameterSource.COMMANDLINE:
            name = str(ctx.params["name"])
        if name is not None:
            ctx.meta[INFRAKIT_FORM] = True
            rest = [name, *rest]
        if ctx.get_parameter_source("directory") is ParameterSource.COMMANDLINE:
            rest = ["--dir", str(ctx.params["directory"]), *rest]
        return verb, command, rest


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
    cls=_Program,
    families=FAMILIES,
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
@log_option(default=4)
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
@count_option(
    "--broken-after",
    help="Consecutive observations before an instance counts as broken.  [default: 2, or 1 if the provider is certain]",
)
@count_option("--healed-after", default=3, help="Consecutive observations before an instance counts as healed.")
@count_option(
    "--missing-after",
    help="Consecutive observations before an instance counts as gone.  [default: 3, or 1 if the provider is certain]",
)
@seconds_option("--non-functional-age", help="Seconds before a non-functional instance is destroyed.  [default: never]")
@click.option(
    "--paced-updates/--no-paced-updates",
    default=True,
    help="Let a rolling update take down a member only while no other member is being provisioned.",
)
@click.pass_context
def instance(
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
    from pyinfrakit.instance.plan import Thresholds
    from pyinfrakit.instance.plugin import Plugin
    from pyinfrakit.instance.slots import CallLimits

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
