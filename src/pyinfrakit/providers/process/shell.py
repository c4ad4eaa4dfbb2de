"""The shell that runs an instance's process. It outlives the daemon, so that the exit status is never lost.

It runs `Init`, then the command, and writes the result into the file ``life``, on which it holds a lock.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Mapping

from msgspec import Struct

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.process import launcher, proc
from pyinfrakit.providers.process.cgroup import make_group
from pyinfrakit.providers.process.folder import STDERR, STDOUT, InstanceFolder, describe_exit
from pyinfrakit.providers.process.options import Account, Properties
from pyinfrakit.providers.process.ports import name_variables
from pyinfrakit.schema.secrets import Redactor, find_words

_GROUP = 7
"""The descriptor by which the launcher enters the control group."""

PATH = "/usr/local/bin:/usr/bin:/bin"

# Arguments: $1 is the directory, $2 is "init" if there is an Init, then follow the command and its arguments.
# Descriptors: 3 is the file `life`, 4 is Init, 5 is this script. As an argument, it would fill the output of `ps`.
# - Init and the command do not inherit 3: a background process would hold the lock when the shell is gone.
# - Only subshells set variables. The instance's environment may have variables of the same names, and an
#   assignment here would change them for the command.
# - The trap keeps the shell alive to write the status if its whole group gets a signal, as in a shutdown.
# - The inner shell records its PID, then becomes the command: `main` is on file before the command runs.
_SCRIPT = r"""
note() (read -r line </proc/$$/stat && echo "$1 $line" >&3)
fail() { echo "failed $*" >&3; exit 1; }
locate() (
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
set -- "$(locate "$1")" "$@"
[ -n "$1" ] || fail command
[ -x "$1" ] || fail executable
/bin/sh -c '(read -r line </proc/$$/stat && echo "main $line" >&3) || exit 126; shift; exec 3>&- "$0" "$@"' "$@"
echo "exit $?" >&3
"""

FAILURES = {
    "directory": "directory {0.properties.directory!r}: {0.account.name} can't go there",
    "command": "command {0.properties.command!r}: there is no such file; PATH is {0.variables[PATH]}",
    "executable": "command {0.properties.command!r}: {0.account.name} may not execute it",
}
"""Messages about a `Launch`, by the word that the script writes after ``failed``."""


class Launch(Struct, frozen=True):
    """The process to start, and its account."""

    account: Account
    id: str
    mark: str
    properties: Properties
    init: str
    ports: Mapping[str, int]

    @property
    def variables(self) -> dict[str, str]:
        """Its environment: variables that all programs expect, its own, and those that identify it."""
        usual = {"PATH": PATH, "HOME": self.account.home, "USER": self.account.name, "LANG": "C.UTF-8"}
        identity = {proc.INSTANCE_VARIABLE: self.id, proc.MARK_VARIABLE: self.mark}
        return usual | self.properties.environment | name_variables(self.ports) | identity


def start(folder: InstanceFolder, lock: int, launch: Launch) -> int:
    """Start the shell in a control group, if there can be one. It inherits *lock*. Return its PID."""
    os.ftruncate(lock, 0)
    boot, boot_time = proc.read_boot()
    os.write(lock, f"boot {boot} {boot_time}\n".encode())
    account = launch.account
    files: dict[int, int] = {}
    try:
        for number, name in ((1, STDOUT), (2, STDERR)):
            files[number] = _move_up(folder.open(name))
            # Some programs open /dev/stdout anew, which takes a permission on the file.
            os.fchown(files[number], account.uid, account.gid)
        files[3] = _move_up(os.dup(lock))
        if launch.init:
            files[4] = _move_up(_open_script(launch.init, account))
        files[5] = _move_up(_open_script(_SCRIPT, account))
        files[launcher.ENVIRONMENT] = _move_up(_open_environment(launch.variables))
        if group := make_group(launch.mark, launch.id):
            folder.note_group(group)
            files[_GROUP] = _move_up(group.open())
        return _spawn(files, launch)
    finally:
        for fd in files.values():
            os.close(fd)


def _spawn(files: Mapping[int, int], launch: Launch) -> int:
    account, properties = launch.account, launch.properties
    arguments = (properties.directory, "init" if launch.init else "", properties.command, *properties.arguments)
    user = ("", "", "") if account.groups is None else (account.uid, account.gid, ",".join(map(str, account.groups)))
    group = _GROUP if _GROUP in files else ""
    program = (sys.executable, "-I", "-S", launcher.__file__, *map(str, (*user, group)))
    try:
        return os.posix_spawn(
            sys.executable,
            (*program, "/bin/sh", "/proc/self/fd/5", *arguments),
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in files.items()),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise TryAgain(f"the process can't be started: {error.strerror}") from None


def _move_up(fd: int) -> int:
    """Return a descriptor of 10 or above in place of *fd*.

    The child's descriptors are copied one by one onto the numbers up to 7. A source with such a number
    would be overwritten, or, copied onto itself, still be closed at the exec.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(fd)


def _open_script(script: str, account: Account) -> int:
    """Return a descriptor of a script in no folder, which only this user can read and execute."""
    try:
        # 0x10 is MFD_EXEC: some hosts require it to execute the file, and Linux before 6.3 rejects it.
        writer = os.memfd_create("script", os.MFD_CLOEXEC | 0x10)
    except OSError:
        writer = os.memfd_create("script", os.MFD_CLOEXEC)
    with open(writer, "wb") as file:
        file.write(script.encode())
        file.flush()
        os.fchmod(writer, 0o500)
        os.fchown(writer, account.uid, account.gid)
        # The kernel does not execute a file that is open for writing.
        return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)


def _open_environment(variables: Mapping[str, str]) -> int:
    """Return a descriptor from which the launcher reads variables. As arguments, everybody on the machine could."""
    fd = os.memfd_create("environment", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in variables.items()))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def describe_failure(folder: InstanceFolder, failure: str, launch: Launch) -> str:
    """Return the reason why the command did not begin, in one line that shows no word of `Init`."""
    kind, _, status = failure.partition(" ")
    if kind == "init":
        redactor = Redactor(find_words(launch.init))
        output = " | ".join(redactor.redact(line) for line in folder.read_last_lines())
        return f"Init {describe_exit(int(status))}" + (f": {output}" if output else "")
    if kind == "start":
        return f"the process can't be started: {os.strerror(int(status))}"
    return FAILURES[kind].format(launch) if kind in FAILURES else "its command can't run"
