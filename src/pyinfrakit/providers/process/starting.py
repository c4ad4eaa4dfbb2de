"""Start a process: a shell of its own sees it through, so that the daemon may end meanwhile, and the exit status is kept.

The shell runs `Init`, then the command, and writes into the file ``life`` what comes of it. It holds the lock on that file;
neither `Init` nor the command inherits it, nor anything else of the daemon's.
"""

import contextlib
import errno
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from pyinfrakit.errors import GiveUp, TryAgain
from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.life import ending
from pyinfrakit.providers.process.place import ERRORS, OUTPUT, Place
from pyinfrakit.providers.process.who import Account

PATH = "/usr/local/bin:/usr/bin:/bin"

INSTANCE_VARIABLE, MARK_VARIABLE = "INFRAKIT_INSTANCE", "PYINFRAKIT_MARK"

# $1 is the directory, $2 says whether there is an Init, $3 is the command, the rest its arguments. Descriptors: 3 is the
# file `life`, 4 is Init, 5 is this script: as an argument it would be most of what `ps` shows. Variables are set in subshells
# alone, as the instance's environment may have some of the same name. What is sent to all of the group, as at a shutdown, does
# not end the shell before it has written how the command ended.
_SCRIPT = r"""
note() (read -r line </proc/$$/stat && echo "$1 $line" >&3)
fail() { echo "failed $*" >&3; exit 1; }
place() (
    case $1 in */*) [ ! -f "$1" ] || printf %s "$1"; exit; esac
    set -f; IFS=:
    for folder in $PATH; do
        if [ -f "$folder/$1" ] && [ -x "$folder/$1" ]; then printf %s "$folder/$1"; exit; fi
    done
)
exec 5<&-
trap : HUP INT QUIT TERM USR1 USR2
note parent || exit 1
umask 022
ulimit -S -n 1024 2>/dev/null
cd "$1" || fail directory
unset OLDPWD
[ -z "$2" ] || /proc/self/fd/4 3>&- || fail "init $?"
exec 4<&-
shift 2
set -- "$(place "$1")" "$@"
[ -n "$1" ] || fail command
[ -x "$1" ] || fail executable
/bin/sh -c '(read -r line </proc/$$/stat && echo "main $line" >&3) || exit 126; shift; exec 3>&- "$0" "$@"' "$@"
echo "exit $?" >&3
"""

FAILURES = {
    "directory": "directory {directory!r}: {user} can't go there",
    "command": "command {command!r}: there is no such file; PATH is {path}",
    "executable": "command {command!r}: {user} may not execute it",
}

_SHORTEST_HIDDEN = 6


class Work(Struct, frozen=True):
    """What is to be run, and as whom. *variables* are all of its environment."""

    account: Account
    variables: Mapping[str, str]
    directory: str
    command: Sequence[str]
    init: str


def variables(account: Account, own: Mapping[str, str], id: str, mark: str) -> dict[str, str]:
    """Give an instance's environment: a few that all programs expect, its *own*, and those by which it is known."""
    usual = {"PATH": PATH, "HOME": account.home, "USER": account.name, "LANG": "C.UTF-8"}
    return {**usual, **own, INSTANCE_VARIABLE: id, MARK_VARIABLE: mark}


def start(place: Place, lock: int, work: Work) -> int:
    """Start the shell, which inherits *lock*; give its process ID."""
    os.ftruncate(lock, 0)
    boot, began = proc.boot()
    os.write(lock, f"boot {boot} {began}\n".encode())
    with contextlib.ExitStack() as open_files:
        files = {
            number: open_files.enter_context(_output(place, name, work)) for number, name in ((1, OUTPUT), (2, ERRORS))
        }
        files[3] = open_files.enter_context(_high(lock))
        if work.init:
            files[4] = open_files.enter_context(_executable(work.init, work.account))
        files[5] = open_files.enter_context(_executable(_SCRIPT, work.account))
        return _spawned(files, work)


def _spawned(files: Mapping[int, int], work: Work) -> int:
    arguments = (work.directory, "init" if work.init else "", *work.command)
    shell = (*work.account.switch, "/bin/sh", "/proc/self/fd/5", *arguments)
    try:
        return os.posix_spawn(
            shell[0],
            shell,
            work.variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in files.items()),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        problem = f"it can't be started: {error.strerror}"
        raise (GiveUp(problem) if error.errno == errno.E2BIG else TryAgain(problem)) from None


@contextlib.contextmanager
def _high(fd: int) -> Iterator[int]:
    """Give a copy of a descriptor with a number that no copy in the process to be started has."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    try:
        yield copy
    finally:
        os.close(copy)


@contextlib.contextmanager
def _output(place: Place, name: str, work: Work) -> Iterator[int]:
    """Open what the process writes to. It belongs to its user, as some programs open ``/dev/stdout`` anew."""
    fd = place.opened(name)
    try:
        os.fchown(fd, work.account.uid, work.account.gid)
        with _high(fd) as copy:
            yield copy
    finally:
        os.close(fd)


@contextlib.contextmanager
def _executable(script: str, account: Account) -> Iterator[int]:
    """Have a script as a file that is in no folder, and that this user alone may read and execute."""
    writing = _memory()
    try:
        with open(writing, "wb", closefd=False) as file:
            file.write(script.encode())
        os.fchmod(writing, 0o500)
        os.fchown(writing, account.uid, account.gid)
        fd = os.open(
            f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC
        )  # what is open to be written can't be executed
    finally:
        os.close(writing)
    try:
        with _high(fd) as copy:
            yield copy
    finally:
        os.close(fd)


def _memory() -> int:
    executable = (
        0x10  # MFD_EXEC: it may be executed also where that is not the default; Linux before 6.3 does not know it
    )
    try:
        return os.memfd_create("script", os.MFD_CLOEXEC | executable)
    except OSError:
        return os.memfd_create("script", os.MFD_CLOEXEC)


def failure(place: Place, why: str, work: Work) -> str:
    """Say why the command did not begin, in a line that has nothing of `Init` in it."""
    kind, _, status = why.partition(" ")
    if kind != "init":
        return FAILURES.get(kind, why).format(
            user=work.account.name, directory=work.directory, command=work.command[0], path=work.variables["PATH"]
        )
    said = " | ".join(hidden(line, work.init) for line in place.said())
    return f"Init {ending(int(status))}" + (f": {said}" if said else "")


def hidden(line: str, init: str) -> str:
    """Give a line of output without the words of `Init`, which may be secrets, and are shown where it says what it does."""
    words = {word for word in re.split(r"""[\s'"=;:,|&(){}$<>]+""", init) if len(word) >= _SHORTEST_HIDDEN}
    for word in sorted(words, key=len, reverse=True):
        line = line.replace(word, "***")
    return line
