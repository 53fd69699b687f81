"""Two checkouts side by side, in turns: `python -m benchmarks.versus CHECKOUT [--rounds N] [--quick]`.

What a change costs is told only by neighbours: on a shared machine the same code differs by a third between two minutes. So both servers
run at once, each with a worker and a client of its own, and the load is put on them in turns; each round gives a ratio, and the median
counts. CHECKOUT is another working copy of this repository, with its `.venv` made; the ratios are this one's to that one's.

Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from benchmarks.stack import median, spread

HERE = Path(__file__).parent.parent
DRIVER = """
import json, sys, time
from benchmarks.stack import Bench, percentile
with Bench(is_quick=False, deadline=time.monotonic() + 3600) as bench:
    stack = bench.stack()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        do = json.loads(line)
        meter, wal = stack.cpu_meter(), stack.postgres.wal_bytes()
        if do["what"] == "fanout":
            found = {"tasks_per_second": stack.fanout(do["count"])}
            found |= {f"{name}_us": 1e6 * s / do["count"] for name, s in meter.seconds().items()}
            found["wal_bytes"] = (stack.postgres.wal_bytes() - wal) / do["count"]
        else:
            run = stack.client.call(do="singles", rate=do["rate"], seconds=do["seconds"], timeout=120)
            found = {f"{kind}_p{p}_ms": percentile(run[f"{kind}_ms"], p / 100) for kind in ("start", "result") for p in (50, 99)}
        print(json.dumps(found), flush=True)
"""


class Side:
    """One checkout: its server, worker and client, driven over pipes."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(
            [str(checkout / ".venv/bin/python"), "-c", DRIVER],
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def do(self, **what: Any) -> dict[str, float]:
        """One load, and what came of it."""
        commands: IO[str] | None = self._process.stdin
        assert commands is not None
        commands.write(json.dumps(what) + "\n")
        commands.flush()
        return self._read()

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> dict[str, float]:
        answers: IO[str] | None = self._process.stdout
        assert answers is not None
        for line in answers:
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise RuntimeError(f"the driver ended with {self._process.wait()}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.versus", description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="small loads: shows that it works, gives no figures"
    )
    arguments = parser.parse_args()
    loads: tuple[Mapping[str, Any], ...] = (
        {"what": "fanout", "count": 2_000 if arguments.quick else 20_000},
        {"what": "singles", "rate": 100, "seconds": 3 if arguments.quick else 8},
    )
    sides = [Side(HERE), Side(arguments.checkout.resolve())]
    ratios: dict[str, list[float]] = {}
    figures: dict[str, tuple[list[float], list[float]]] = {}
    try:
        for side in sides:
            side.do(**loads[0])
        for number in range(arguments.rounds):
            for load in loads:
                order = (0, 1) if number % 2 else (1, 0)
                found = {index: sides[index].do(**load) for index in order}
                for key, value in found[0].items():
                    ratios.setdefault(key, []).append(value / found[1][key])
                    ours, theirs = figures.setdefault(key, ([], []))
                    ours.append(value)
                    theirs.append(found[1][key])
    finally:
        for side in sides:
            side.close()
    for key, values in ratios.items():
        ours, theirs = figures[key]
        print(f"{key:24} {spread(ours, 2)} against {spread(theirs, 2)}: ratio {spread(values, 3)}")
    print(json.dumps({key: round(median(values), 3) for key, values in ratios.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
