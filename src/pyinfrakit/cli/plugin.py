"""The plugin itself: `infrakit-instance` without a verb."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyinfrakit.cli.arguments import directory_option
from pyinfrakit.cli.verbs import Verbs


class _Pair(click.ParamType[tuple[str, str]]):
    name = "KEY=VALUE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, equals, rest = value.partition("=")
        if not equals:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        return key, rest


class _Seconds(click.FloatRange):
    """A range of seconds in which nan, which is in any range, is not."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"expected a number of seconds, got {value}", param, ctx)
        return seconds


def _check_conflicts(context: click.Context) -> None:
    """Refuse a provider, or options of one, beside a file that has them, and an option that is given twice."""
    given = ("config", "provider", "option")
    there = [name for name in given if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)]
    if "config" in there and len(there) > 1:
        raise click.UsageError(
            f"--config has the provider and its options: leave out --{there[1]}, or put it there", context
        )
    keys = [key for key, _ in context.params["option"]]
    if len(keys) > len(set(keys)):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise click.UsageError(f"--option {twice}=… is given twice: give it once", context)


_SECONDS = _Seconds(min=0.01)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "INFRAKIT_INSTANCE",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
    epilog="Every flag can come from the environment: --sync-interval from INFRAKIT_INSTANCE_SYNC_INTERVAL, and so on.",
)
@click.option("--name", default="instance-py", help="The plugin's name: its socket's file name.")
@click.option(
    "--log",
    type=click.IntRange(0, 5),
    default=4,
    help="What to log: 0 critical, 1 error, 2 warning, 3 notice, 4 info, 5 debug.",
)
@click.option(
    "--state",
    help="The state: a file's path, or the URL of another store.  [default: state/NAME.json in InfraKit's home]",
)
@directory_option
@click.option(
    "--provider",
    default="file",
    help="What makes the machines: file, simulator, exec, another that is installed, module:Class, or path/to/file.py:Class.",
)
@click.option(
    "--option",
    type=_Pair(),
    multiple=True,
    help="An option of the provider; may be repeated. A secret is env:NAME or file:PATH.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A TOML file with a provider and options, instead of the two flags.",
)
@click.option(
    "--mark", help="The plugin's identity on its machines, to recover it.  [default: the state file's, or random]"
)
@click.option("--sync-interval", type=_SECONDS, default=10.0, help="Seconds between observations of the provider.")
@click.option("--observe-timeout", type=_SECONDS, default=60.0, help="Seconds that an observation may take.")
@click.option(
    "--provision-wait",
    type=_Seconds(0, 14),
    default=10.0,
    help="Seconds a call waits for the provider; InfraKit's clients give up after 15.",
)
@click.option(
    "--provision-deadline",
    type=_SECONDS,
    default=1800.0,
    help="Seconds after which a machine that exists but never worked is set aside.",
)
@click.option(
    "--call-timeout",
    type=_SECONDS,
    default=1800.0,
    help="Seconds that a call to the provider may take before it is given up, if it can be, and told.",
)
@click.option(
    "--calls-at-once",
    type=click.IntRange(1, 1000),
    default=50,
    help="How many provisions, and how many destroys, the provider is asked for at once.",
)
@click.option(
    "--broken-after", type=click.IntRange(1), default=2, help="Observations in a row until broken is believed."
)
@click.option(
    "--healed-after", type=click.IntRange(1), default=3, help="Observations in a row until healed is believed."
)
@click.option(
    "--missing-after", type=click.IntRange(1), default=3, help="Observations in a row until gone is believed."
)
@click.option(
    "--non-functional-age",
    type=_SECONDS,
    help="Seconds after which a non-functional instance is destroyed.  [default: never]",
)
@click.option(
    "--paced-updates/--no-paced-updates",
    default=True,
    help="Let a rolling update take down a member only while no other one is being provisioned.",
)
@click.pass_context
def plugin(
    context: click.Context,
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
    provision_deadline: float,
    call_timeout: float,
    calls_at_once: int,
    broken_after: int,
    healed_after: int,
    missing_after: int,
    non_functional_age: float | None,
    paced_updates: bool,
) -> None:
    """InfraKit instance plugin. Without a command it runs the plugin; the commands talk to one that runs."""
    if context.invoked_subcommand is not None:
        return
    # Imported here: they take a while, and the client commands have no need of them.
    from pyinfrakit import logs
    from pyinfrakit.config import choose_from_file, choose_from_flags
    from pyinfrakit.daemon.build import run_daemon
    from pyinfrakit.instance.calls import CallLimits
    from pyinfrakit.instance.plan import Thresholds
    from pyinfrakit.instance.plugin import Plugin

    logs.configure(log)
    thresholds = Thresholds(
        broken_after=broken_after,
        healed_after=healed_after,
        missing_after=missing_after,
        provision_deadline=provision_deadline,
        non_functional_age=non_functional_age,
    )
    make_plugin = partial(
        Plugin,
        wait=provision_wait,
        paced=paced_updates,
        interval=sync_interval,
        observe_timeout=observe_timeout,
        thresholds=thresholds,
        call_limits=CallLimits(calls_at_once, call_timeout),
    )
    _check_conflicts(context)
    choices = choose_from_flags(provider, option) if config is None else choose_from_file(config)
    providers = {sub_type: choice.make for sub_type, choice in choices.items()}
    run_daemon(name, providers, directory, state, mark, make_plugin)
