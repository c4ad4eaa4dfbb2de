"""Own a plugin's name in a folder of sockets: the lock, the socket, and the PID file that InfraKit's tools look for.

The socket is the permission to use the plugin, so it has mode 0600 from its first instant: it is made in a
private sub-folder, and renamed into place. The plugin holds the lock as long as it runs, so that of two that
start at once, one is refused.
"""

import logging
import os
import socket
import stat
from pathlib import Path

from pyinfrakit.errors import CannotStart, InUse
from pyinfrakit.locks import Lock
from pyinfrakit.paths import MAX_SOCKET_PATH, check_name, make_private

log = logging.getLogger(__name__)

_PRIVATE = ".own"


class Listener:
    """The name of a plugin in *directory*, and its socket after `listen`."""

    def __init__(self, directory: Path, name: str) -> None:
        """Take the name. Raise `InUse` if it is taken, or `CannotStart` if the path can't be used."""
        self.path = directory / check_name(name)
        self._pid = directory / f"{name}.pid"
        private = directory / _PRIVATE
        self._unfinished = private / f"new-{name}"
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        excess = len(os.fsencode(self._unfinished)) - MAX_SOCKET_PATH
        if excess > 0:
            raise CannotStart(f"socket {self.path}: the path is {excess} bytes too long for a unix socket")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(private)
            self._lock = Lock(private / f"lock-{name}", f"plugin name {name} in {directory}", name)
        except OSError as error:
            raise CannotStart(f"plugin folder {directory}: {error.strerror}") from None
        try:
            self._clear()
        except CannotStart:
            self._lock.release()
            raise

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up the name, and the socket."""
        self.remove()
        if self._socket is not None:
            self._socket.close()
        self._lock.release()

    def _clear(self) -> None:
        """Make sure that nothing live is at the path. A socket without a listener is left over from a crash."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise CannotStart(f"socket {self.path}: {error.strerror}") from None
        if not stat.S_ISSOCK(mode):
            raise CannotStart(f"socket {self.path}: something else is there; remove it, or choose another name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                return
            except OSError:
                pass  # too busy to answer, or not ours: it has an owner
        raise InUse(
            f"plugin name {self.path.name} in {self.path.parent} is in use by another program: its socket is live"
        )

    def listen(self) -> socket.socket:
        """Make the socket appear, and return it, listening. Raise `CannotStart`."""
        try:
            self._socket = self._bind()
        except OSError as error:
            raise CannotStart(f"socket {error.filename or self.path}: {error.strerror or error}") from None
        try:
            self._pid.unlink(missing_ok=True)
            self._pid.touch(0o644)
            self._pid.write_text(str(os.getpid()))
        except OSError as error:
            raise CannotStart(f"PID file {self._pid}: {error.strerror or error}") from None
        return self._socket

    def _bind(self) -> socket.socket:
        self._unfinished.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            listening.setblocking(False)
            listening.bind(str(self._unfinished))
            self._unfinished.chmod(0o600)
            listening.listen()
            self._identity = _identify(self._unfinished)
            os.rename(self._unfinished, self.path)
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(umask)
        return listening

    def remove(self) -> None:
        """Remove the socket, so that nobody finds the plugin any more. Connections stay open.

        A socket or PID file that another program has put there is its own, and stays.
        """
        mine, self._identity = self._identity, None
        try:
            if mine is not None and mine == _identify(self.path):
                self.path.unlink(missing_ok=True)
            if mine is not None and self._pid.is_file() and self._pid.read_text() == str(os.getpid()):
                self._pid.unlink(missing_ok=True)
        except OSError as error:
            log.warning("socket %s can't be removed: %s", self.path, error.strerror)


def _identify(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at *path* from all others, or None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
