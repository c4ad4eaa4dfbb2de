"""The disk's own rate: append as many bytes as a change has, and fdatasync, one after the other."""

import os
import time
from pathlib import Path

ENTRY = b"." * 299 + b"\n"


def rate(folder: Path, seconds: float) -> float:
    """Give how many durable appends a second a file in *folder* takes."""
    path = folder / "appended"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return _appends(file, seconds)
    finally:
        os.close(file)
        path.unlink()


def _appends(file: int, seconds: float) -> float:
    began = time.perf_counter()
    count = 0
    while (spent := time.perf_counter() - began) < seconds:
        os.write(file, ENTRY)
        os.fdatasync(file)
        count += 1
    return count / spent
