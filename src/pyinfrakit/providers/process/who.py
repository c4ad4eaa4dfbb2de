"""Whom processes run as: never root."""

import os
import pwd
import shutil

from msgspec import Struct

from pyinfrakit.errors import CannotStart


class Account(Struct, frozen=True):
    """A user of the machine. *switch* is the command that runs another one as this user; empty where we are that user."""

    name: str
    uid: int
    gid: int
    home: str
    switch: tuple[str, ...] = ()


def account(name: str | None) -> Account:
    """Give the user *name*, None for our own; raise `CannotStart` where processes can't, or must not, run as that."""
    if os.geteuid() != 0:
        own = _own()
        if name not in (None, own.name):
            raise CannotStart(f"option user: only root runs processes as another user, and this is {own.name}")
        return own
    if name is None:
        raise CannotStart("option user: expected the user that processes run as, as the plugin runs as root")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise CannotStart(f"option user: there is no user {name!r}") from None
    if entry.pw_uid == 0:
        raise CannotStart(f"option user: expected another than {name!r}: nothing is run as root")
    return Account(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, _switch(entry))


def _own() -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, os.getegid(), "/")
    return Account(entry.pw_name, uid, os.getegid(), entry.pw_dir)


def _switch(entry: pwd.struct_passwd) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if setpriv is None:
        raise CannotStart("option user: no setpriv, of util-linux, by which processes are run as another user")
    return (setpriv, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", "--")
