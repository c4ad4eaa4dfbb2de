"""The files of a daemon, while it runs, in the hands of others: nothing acknowledged is lost, and no stop is silent."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.store.file import document
from support.harness import Daemon, command, eventually

Run = Callable[..., Daemon]


def lock_of(state: Path) -> Path:
    return state.with_name(f"{state.name}.lock")


def rescued(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.rescued-*"))


def at_rest(daemon: Daemon) -> bool:
    """Return whether the state file holds everything, with no journal beside it."""
    return b'"provisioning"' not in daemon.state.read_bytes() and not [*daemon.state.parent.glob("*.journal-*")]


def remove_state(state: Path) -> None:
    state.unlink()


def replace_state_by_an_older_one(state: Path) -> None:
    older = state.with_name("older")
    older.write_bytes(b"".join(document.dump_stamped(document.Content(mark="m"), "0123456789abcdef", 1)))
    older.rename(state)


def write_an_older_one_into_state(state: Path) -> None:
    state.write_bytes(b"".join(document.dump_stamped(document.Content(mark="m"), "0123456789abcdef", 1)))


def rename_state(state: Path) -> None:
    state.rename(state.with_name("elsewhere"))


def put_a_folder_in_place_of_state(state: Path) -> None:
    state.unlink()
    state.mkdir()


def put_a_fifo_in_place_of_state(state: Path) -> None:
    state.unlink()
    os.mkfifo(state)


def replace_folder(state: Path) -> None:
    state.parent.rename(state.parent.with_name("away"))
    state.parent.mkdir()


def remove_folder(state: Path) -> None:
    shutil.rmtree(state.parent)


def rename_folder(state: Path) -> None:
    state.parent.rename(state.parent.with_name("away"))


DISPLACEMENTS = [
    remove_state,
    replace_state_by_an_older_one,
    write_an_older_one_into_state,
    rename_state,
    put_a_folder_in_place_of_state,
    put_a_fifo_in_place_of_state,
    replace_folder,
    remove_folder,
    rename_folder,
]


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("displace", DISPLACEMENTS)
def test_a_stop_writes_beside_what_it_can_not_write_in_place(
    tmp_path: Path, run: Run, displace: Callable[[Path], None], is_busy: bool
) -> None:
    """If the state file or its folder was taken away, changes fail, and a stop fails and leaves all in a private file."""
    state = tmp_path / "files" / "s.json"
    state.parent.mkdir()
    daemon = run("--state", str(state), *FAST)
    daemon.state = state
    ids = [daemon.provision(n=str(n)) for n in range(3)]
    eventually(lambda: at_rest(daemon), "the file has everything")
    if is_busy:
        ids.append(daemon.provision())
    displace(state)
    with pytest.raises(RemoteError, match=r"(removed|replaced).*; nothing was changed"):
        daemon.provision()
    assert sorted(ids) == sorted(daemon.described())
    assert 1 == daemon.stop()
    (path,) = re.findall(r"its content is in (\S+):", daemon.log)
    assert sorted(ids) == sorted(each["ID"] for each in json.loads(Path(path).read_bytes())["Instances"])
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
    assert 1 == daemon.log.count("until then no change is accepted")
    if Path(path).parent != state.parent:
        Path(path).unlink()  # in the folder for temporary files
        return
    refusal = command(daemon.home, "--name", "rack1", "--state", str(state)).stderr
    assert "a stop could not write it, and left its content in" in refusal or "not a regular file" in refusal
    if state.is_dir():
        state.rmdir()
    Path(path).rename(state)
    daemon.start()
    assert sorted(ids) == sorted(daemon.described())
    assert 0 == daemon.stop()


def put_back(state: Path) -> None:
    state.parent.with_name("away").rename(state.parent)


def test_a_folder_that_is_put_back_is_used_again(tmp_path: Path, run: Run) -> None:
    """A daemon whose folder was renamed and renamed back accepts changes again, and stops with status 0."""
    state = tmp_path / "files" / "s.json"
    state.parent.mkdir()
    daemon = run("--state", str(state), *FAST)
    before = daemon.provision()
    rename_folder(state)
    with pytest.raises(RemoteError, match="put it back"):
        daemon.provision()
    put_back(state)
    after = daemon.provision()
    assert 0 == daemon.stop()
    daemon.start()
    assert sorted([before, after]) == sorted(daemon.described())


def test_harmless_changes_are_accepted(tmp_path: Path, run: Run) -> None:
    """Hard links of the state file and the lock, new times and new modes change nothing, and links stay as they are."""
    daemon = run(*FAST)
    ids = [daemon.provision()]
    eventually(lambda: at_rest(daemon), "the file has everything")
    os.link(daemon.state, tmp_path / "backup")
    os.link(lock_of(daemon.state), tmp_path / "lock")
    os.utime(daemon.state)
    daemon.state.chmod(0o640)
    before = (tmp_path / "backup").read_bytes()
    ids.append(daemon.provision())
    assert before == (tmp_path / "backup").read_bytes()
    assert 0 == daemon.stop()
    daemon.start()
    assert sorted(ids) == sorted(daemon.described())


def remove_lock(lock: Path) -> None:
    lock.unlink()


def copy_lock(lock: Path) -> None:
    """Replace the lock by a copy of itself."""
    copy = lock.with_name("copy")
    shutil.copy2(lock, copy)
    copy.rename(lock)


@pytest.mark.parametrize("displace", [remove_lock, copy_lock])
def test_a_daemon_without_its_lock_acknowledges_nothing(run: Run, displace: Callable[[Path], None]) -> None:
    """Once its lock was removed or replaced, a daemon fails all changes, and leaves the files to the next daemon."""
    daemon = run(*FAST)
    ids = [daemon.provision()]
    displace(lock_of(daemon.state))
    other = run("--state", str(daemon.state), *FAST, name="rack2")
    for _ in range(3):
        with pytest.raises(RemoteError, match=r"rack1\.json\.lock was removed or replaced"):
            daemon.provision()
        ids.append(other.provision())
    assert sorted(ids) == sorted(other.described())
    assert 1 == daemon.stop()
    assert lock_of(daemon.state).exists(), "the lock of the other daemon stays"
    ids.append(other.provision())
    other.kill()
    for path in rescued(daemon.state.parent):
        path.unlink()
    other.start()
    assert sorted(ids) == sorted(other.described())


def test_a_lock_alone_that_is_gone_leaves_everything_in_place(daemon: Daemon) -> None:
    """If only the lock is gone, a stop fails, but leaves nothing beside the state file, which has everything."""
    id = daemon.provision()
    lock_of(daemon.state).unlink()
    assert 1 == daemon.stop()
    assert [] == rescued(daemon.state.parent)
    daemon.start()
    assert [id] == daemon.described()


def test_a_journal_that_is_gone_fails_one_change(daemon: Daemon) -> None:
    """If the journal of a running daemon is removed, the next change may fail; nothing acknowledged before is lost."""
    ids = [daemon.provision()]
    for path in daemon.state.parent.glob("*.journal-*"):
        path.unlink()
    for _ in range(3):
        with suppress(RemoteError):
            ids.append(daemon.provision())
    assert 3 <= len(ids)
    daemon.kill()
    daemon.start()
    assert sorted(ids) == sorted(daemon.described())


def test_a_state_file_that_is_gone_after_a_kill_is_damage(daemon: Daemon, home: Path) -> None:
    """A start without the state file of a daemon that was killed is refused until somebody removes the lock's file."""
    daemon.provision()
    daemon.kill()
    for path in daemon.state.parent.glob("rack1.json*"):
        if path != lock_of(daemon.state):
            path.unlink()
    for _ in range(2):
        done = command(home, "--name", "rack1")
        assert (2, True) == (done.returncode, "missing, although the last daemon was killed with it" in done.stderr)
    command(home, "fsck", str(daemon.state), "--repair")
    assert "remove rack1.json.lock to begin without instances" in command(home, "--name", "rack1").stderr
    lock_of(daemon.state).unlink()
    daemon.start()
    assert [] == daemon.described()


FORK = """
import os, sys, time
from pathlib import Path
from pyinfrakit.locks import Lock

lock = Lock(Path(sys.argv[1]), "state", "plugin x")
if sys.argv[2] == "inherit":
    os.set_inheritable(lock._fd, True)
    import subprocess
    child = subprocess.Popen(["sleep", "60"], close_fds=False).pid
elif not (child := os.fork()):
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["inherit", "fork"])
def test_an_inherited_lock_names_the_process_that_holds_it(tmp_path: Path, how: str) -> None:
    """A child that lives on with its parent's lock is named; one that was forked without a new program holds none."""
    state = tmp_path / "s.json"
    process = subprocess.Popen(
        [sys.executable, "-c", FORK, str(lock_of(state)), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = command(tmp_path, "fsck", str(state), "--repair")
        if how == "inherit":
            assert f"is in use by process {child} (sleep): it inherited the lock of plugin x" in done.stderr
        else:
            assert "is in use" not in done.stderr
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_two_names_of_one_folder_are_one_state(daemon: Daemon, run: Run, home: Path) -> None:
    """A daemon finds the lock of another one through a link to the folder, and through a bind mount of it."""
    folder = home / "elsewhere"
    folder.mkdir()
    (home / "link").symlink_to(daemon.state.parent)
    paths = [home / "link" / "rack1.json", daemon.state.parent / ".." / "state" / "rack1.json"]
    mounted = subprocess.run(["mount", "--bind", daemon.state.parent, folder], capture_output=True, check=False)
    if mounted.returncode == 0:
        paths.append(folder / "rack1.json")
    try:
        for path in paths:
            done = command(home, "--name", "rack2", "--state", str(path))
            assert f"is in use by plugin rack1 (process {daemon.pid})" in done.stderr
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


def test_a_daemon_does_not_use_a_linked_state_file_twice(daemon: Daemon, run: Run, home: Path) -> None:
    """Two daemons on two names of one state file never change each other's file."""
    id = daemon.provision()
    eventually(lambda: at_rest(daemon), "the file has everything")
    link = home / "link.json"
    os.link(daemon.state, link)
    other = run("--state", str(link), *FAST, name="rack2")
    mine, theirs = daemon.provision(), other.provision()
    for each, ids in ((daemon, [id, mine]), (other, [id, theirs])):
        each.kill()
        each.start()
        assert sorted(ids) == sorted(each.described())
