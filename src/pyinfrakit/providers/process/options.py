"""The options of the provider, the properties of a spec, and the account that processes run as."""

import os
import pwd
import re
from typing import Annotated

from msgspec import Meta, Struct

from pyinfrakit.errors import CannotStart, InvalidSpec
from pyinfrakit.providers.process.ports import name_variables
from pyinfrakit.providers.process.proc import INSTANCE_VARIABLE, MARK_VARIABLE

NOBODY = "nobody"
"""The account of the processes of a plugin that runs as root, unless an operator chooses another."""


class Properties(Struct, forbid_unknown_fields=True):
    """The command of an instance."""

    command: Annotated[str, Meta(min_length=1, description="program to run: a path, or a name to look up in PATH")]
    arguments: Annotated[list[str], Meta(description="its arguments")] = []
    environment: Annotated[dict[str, str], Meta(description="variables in addition to PATH, HOME, USER and LANG")] = {}
    directory: Annotated[str, Meta(pattern="^/", description="its working directory")] = "/"
    ports: Annotated[list[str], Meta(max_length=100, description="names of TCP ports to give it: in PORT_NAME")] = []

    def __post_init__(self) -> None:
        """Raise `InvalidSpec` if the kernel or a shell can't pass a value on to the process."""
        for number, name in enumerate(self.ports):
            field = f"Properties.ports[{number}]"
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                raise InvalidSpec(field, f'expected lower-case letters, digits, _, such as "http", got {name!r}')
            if name in self.ports[:number]:
                raise InvalidSpec(field, f"duplicate name {name!r}")
        reserved = {INSTANCE_VARIABLE, MARK_VARIABLE, *name_variables(dict.fromkeys(self.ports))}
        for name in self.environment:
            field = f"Properties.environment.{name}"
            # Shells drop variables with other names.
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
                raise InvalidSpec(field, "expected the name of a variable: letters, digits, _")
            if name in reserved:
                raise InvalidSpec(field, "is set by the provider")
        fields = {f"environment.{name}": [value] for name, value in self.environment.items()}
        fields |= {"command": [self.command], "arguments": self.arguments, "directory": [self.directory]}
        for name, texts in fields.items():
            if any("\0" in text for text in texts):
                raise InvalidSpec(f"Properties.{name}", "expected no NUL character")


class Options(Struct, forbid_unknown_fields=True):
    """The account of the processes, and their limits."""

    user: Annotated[
        str | None,
        Meta(description="account of the processes, not root; default: the plugin's own, or nobody if that is root"),
    ] = None
    grace: Annotated[float, Meta(ge=0, le=3600, description="seconds from SIGTERM to SIGKILL")] = 10
    init_timeout: Annotated[float, Meta(gt=0, le=86400, description="seconds before a spec's Init times out")] = 600
    log_size: Annotated[int, Meta(ge=4096, description="bytes before stdout or stderr is cut")] = 10 * 1024 * 1024
    folder: Annotated[str | None, Meta(description="instance folders; default: NAME.processes beside the state")] = None
    ports: Annotated[str, Meta(description="the first and last of the ports that instances may get")] = "20000-29999"


def parse_ports(text: str) -> range:
    """Return the port numbers from the first to the last in the option `ports`. Raise `CannotStart`."""
    found = re.fullmatch("([0-9]{1,5})-([0-9]{1,5})", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise CannotStart(f"option ports: expected FIRST-LAST, each from 1 to 65535, such as 20000-29999, got {text!r}")
    return range(first, last + 1)


class Account(Struct, frozen=True):
    """A user of the machine. *groups* are all of its groups; None if it is the plugin's own."""

    name: str
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] | None = None


def find_account(name: str | None) -> Account:
    """Return the account called *name*, or for None the plugin's own, or `NOBODY` if that is root.

    Raise `CannotStart` if there is no such account, it is root's, or this process can't switch to it.
    """
    if os.geteuid() != 0:
        own = _find_own()
        if name not in (None, own.name):
            raise CannotStart(f"option user: only root runs processes as another user, and this is {own.name}")
        return own
    if name is None:
        name = NOBODY
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise CannotStart(f"option user: there is no user {name!r}") from None
    if entry.pw_uid == 0:
        raise CannotStart(f"option user: expected a user other than {name!r}: no process runs as root")
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return Account(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, groups)


def _find_own() -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # containers often run with a user ID that has no account
        return Account(str(uid), uid, os.getegid(), "/")
    return Account(entry.pw_name, uid, os.getegid(), entry.pw_dir)
