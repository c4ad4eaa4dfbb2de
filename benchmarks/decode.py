"""How long msgspec takes to decode a file, in a process of its own. `python -m benchmarks.decode FILE` prints seconds."""

import sys
import time
from pathlib import Path

import msgspec


def main() -> None:
    """Read the file, and time the decoding."""
    data = Path(sys.argv[1]).read_bytes()
    began = time.perf_counter()
    content = msgspec.json.decode(data)
    seconds = time.perf_counter() - began
    print(seconds, len(content))


if __name__ == "__main__":
    main()
