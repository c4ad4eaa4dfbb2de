"""A slow executable for the provider exec. Its machines are files in $MACHINES/made.

If two runs work on the same instance at once, the second one adds a line to $MACHINES/overlaps. The properties
`delay` and `destroy_delay` are the seconds that a provision and a destruction take. Neither ends while
$MACHINES/hold exists.
"""

import fcntl
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["MACHINES"])
HOLD, LONGEST = ROOT / "hold", 60
"""Most seconds that a hold lasts."""
MADE, WORK, RUNS, OVERLAPS = ROOT / "made", ROOT / "work", ROOT / "runs", ROOT / "overlaps"


def note(file: Path, text: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{text}\n")


def work(verb: str, id: str) -> None:
    """Note the work on an instance, and lock the instance until this process ends."""
    note(RUNS, f"{verb} {id}")
    fd = os.open(WORK / id, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(OVERLAPS, f"{verb} {id}")


def spend(seconds: float) -> None:
    time.sleep(seconds)
    end = time.monotonic() + LONGEST
    while HOLD.exists() and time.monotonic() < end:
        time.sleep(0.01)


def provision(request: dict[str, Any]) -> dict[str, Any]:
    id, delay = request["id"], request["spec"]["properties"].get("delay", 0)
    work("provision", id)
    spend(delay / 2)
    with suppress(FileExistsError), (MADE / id).open("x") as file:
        json.dump({"mark": request["mark"], "delay": delay}, file)
    spend(delay / 2)
    return {"handle": f"slow-{id}"}


def destroy(request: dict[str, Any]) -> dict[str, Any]:
    ids = request["ids"]
    for id in ids:
        work("destroy", id)
    delay = max(each["properties"].get("destroy_delay", 0) for each in request["instances"])
    spend(delay / 2)
    for id in ids:
        (MADE / id).unlink(missing_ok=True)
    spend(delay / 2)
    return {"destroyed": ids}


def observe(request: dict[str, Any]) -> dict[str, Any]:
    return {"machines": [{"id": path.name, "handle": f"slow-{path.name}"} for path in MADE.iterdir()]}


def main() -> None:
    for folder in (MADE, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    verbs = {"provision": provision, "destroy": destroy, "observe": observe}
    request = json.load(sys.stdin)
    if request["verb"] not in verbs:
        sys.exit(64)
    print(json.dumps(verbs[request["verb"]](request)))


if __name__ == "__main__":
    main()
