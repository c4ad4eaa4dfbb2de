"""Own a plugin's name in a folder of sockets: the lock, the socket, and the PID file that InfraKit's tools look for.

The socket is the permission to use the plugin, so it has mode 0600 from its first instant: it is made in a private
sub-folder, and renamed into place. The lock, held for as long as the plugin runs, keeps two that start at once apart.
"""

import os
import socket
import stat
from pathlib import Path

from pyinfrakit.errors import CannotStart, InUse
from pyinfrakit.locks import Lock
from pyinfrakit.paths import MAX_SOCKET_PATH, check_name

_PRIVATE = ".own"


class Listener:
    """The name of a plugin in *directory*, and from `listen` on its socket."""

    def __init__(self, directory: Path, name: str) -> None:
        """Take the name. Raise `InUse` where it is taken, `CannotStart` where the path can't be used."""
        self.path = directory / check_name(name)
        self._pid = directory / f"{name}.pid"
        private = directory / _PRIVATE
        self._made = private / f"new-{name}"
        self._socket: socket.socket | None = None
        self._removed = False
        excess = len(os.fsencode(self._made)) - MAX_SOCKET_PATH
        if excess > 0:
            raise CannotStart(f"socket {self.path}: the path is {excess} bytes too long for a unix socket")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.mkdir(mode=0o700, exist_ok=True)
            _check_private(private)
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
        """See that nothing live is at the path. A socket that nobody listens on is one that a crash left."""
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
                pass  # too busy to answer, or not for us: somebody has it
        raise InUse(
            f"plugin name {self.path.name} in {self.path.parent} is in use by another program: its socket is live"
        )

    def listen(self) -> socket.socket:
        """Make the socket appear, and listen on it. Raise `CannotStart`."""
        try:
            self._socket = self._bound()
            self._pid.unlink(missing_ok=True)
            self._pid.touch(0o644)
            self._pid.write_text(str(os.getpid()))
        except OSError as error:
            raise CannotStart(f"socket {self.path}: {error.strerror or error}") from None
        return self._socket

    def _bound(self) -> socket.socket:
        self._made.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        usual = os.umask(0o177)
        try:
            made.setblocking(False)
            made.bind(str(self._made))
            self._made.chmod(0o600)
            made.listen()
            os.rename(self._made, self.path)
        except OSError:
            made.close()
            raise
        finally:
            os.umask(usual)
        return made

    def remove(self) -> None:
        """Take the socket out of the folder, so that nobody finds the plugin any more; connections live on."""
        if self._socket is not None and not self._removed:
            self._removed = True
            self.path.unlink(missing_ok=True)
            self._pid.unlink(missing_ok=True)


def _check_private(folder: Path) -> None:
    """Make sure that nobody else can reach into *folder*; raise `CannotStart`."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise CannotStart(f"folder {folder}: expected a folder of this user's, with mode 0700; remove it")
