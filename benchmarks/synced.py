"""The floor: constant replies, each after one durable append. `python -m benchmarks.synced SOCKET FILE`, then POST to ``/BYTES``.

No server on this HTTP stack that syncs before it replies can be quicker, with one connection.
"""

import os
import sys

from benchmarks import constant
from benchmarks.disk import ENTRY
from benchmarks.stack import serve


def main() -> None:
    """Append to the file for each request, and sync it."""
    file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def answer(path: str, body: bytes) -> bytes:
        os.write(file, ENTRY)
        os.fdatasync(file)
        return constant.answer(path, body)

    serve(sys.argv[1], answer)


if __name__ == "__main__":
    main()
