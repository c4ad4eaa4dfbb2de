"""The ceiling: a server whose replies are constant. `python -m benchmarks.constant SOCKET`, then POST to ``/BYTES``."""

import sys
from functools import cache

from benchmarks.stack import serve


def answer(path: str, body: bytes) -> bytes:
    """Give as many bytes as the path says."""
    return _constant(path)


@cache
def _constant(path: str) -> bytes:
    return b"[" + b" " * (int(path[1:]) - 2) + b"]"


if __name__ == "__main__":
    serve(sys.argv[1], answer)
