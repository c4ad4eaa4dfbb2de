"""The program that starts an instance's shell: `python -I -S launcher.py UID GID GROUPS CGROUP PROGRAM ARGUMENT...`.

It starts as the daemon's user with an empty environment. Before anything of a spec has an effect, it becomes the
instance's user. The spec's environment is on descriptor 6 as ``NAME=VALUE``, each with a NUL at its end. It is set when
the program begins, so that no code of root's ever runs with it: neither this program's nor the dynamic linker's.
Descriptor 3 is the instance's file ``life``.

GROUPS is a comma-separated list of numbers; UID is empty if the user is to stay the same. CGROUP is the descriptor of
``cgroup.procs`` of the control group to enter; empty if there is none.
"""

# Imports take most of the time of a start: these are part of the interpreter.
import _signal  # type: ignore[import-not-found]
import os
import sys

LIFE, ENVIRONMENT = 3, 6
ENODEV = 19


def read_environment() -> dict[bytes, bytes]:
    with open(ENVIRONMENT, "rb") as file:
        variables = (each.partition(b"=") for each in file.read().split(b"\0") if each)
        return {name: value for name, _, value in variables}


def enter(group: int) -> None:
    """Put this process into a control group. One that is gone, such as an empty one that was removed, is done without."""
    try:
        os.write(group, b"0")
    except OSError as error:
        if error.errno != ENODEV:
            raise
    os.close(group)


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Become another user for good. Raise PermissionError if there is a way back."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError("still root")


def main(uid: str, gid: str, groups: str, cgroup: str, program: str, *arguments: str) -> None:
    environment = read_environment()
    if cgroup:
        enter(int(cgroup))
    if uid:
        become(int(uid), int(gid), [int(each) for each in groups.split(",") if each])
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
        _signal.signal(number, _signal.SIG_DFL)
    os.execve(program, (program, *arguments), environment)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        os.write(LIFE, f"failed start {error.errno or 1}\n".encode())
        sys.exit(1)
