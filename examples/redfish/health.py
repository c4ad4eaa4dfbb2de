"""Set the health of a system of an emulated BMC: `Critical`, or `OK` to heal it.

python health.py Critical http://127.0.0.1:15001/node-1
"""

import json
import sys
import urllib.request


def main() -> None:
    health, system = sys.argv[1:]
    address, _, node = system.rpartition("/")
    status = {"Status": {"State": "Enabled", "Health": health, "HealthRollup": health}}
    urllib.request.urlopen(f"{address}/-/system/{node}", json.dumps(status).encode(), timeout=10).close()


if __name__ == "__main__":
    main()
