"""The time to decode a file with msgspec: `python -m benchmarks.servers.decode FILE` prints seconds."""

# A process of its own, with few imports: a large heap would add garbage collection to the time.

import sys
import time
from pathlib import Path

import msgspec


def main() -> None:
    """Print the seconds to decode the file, without those to read it, and its number of keys."""
    data = Path(sys.argv[1]).read_bytes()
    began = time.perf_counter()
    content = msgspec.json.decode(data)
    seconds = time.perf_counter() - began
    # The content outlives the measurement, so that freeing it does not count.
    print(seconds, len(content))


if __name__ == "__main__":
    main()
