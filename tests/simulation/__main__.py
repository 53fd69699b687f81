"""`python -m tests.simulation --seeds 1000`: many simulations; or one again, with `SIMULATION_SEED=n` or `--seed n`.

The last line says how many steps were taken and how often each kind of fault and of work happened; a kind that never did fails the run.
"""

import argparse
import logging
import os
import sys
import traceback
from collections import Counter

from tests.simulation.chaos import FAULTS, WORK
from tests.simulation.world import BUSY_SECONDS, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=os.environ.get("SIMULATION_SEED"), help="only this one")
    parser.add_argument(
        "--seconds",
        type=float,
        default=os.environ.get("SIMULATION_SECONDS", BUSY_SECONDS),
        help="how long faults happen, in virtual time",
    )
    parser.add_argument("--log", action="store_true", help="print every step")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = (
        [int(options.seed)]
        if options.seed is not None
        else range(options.first, options.first + options.seeds)
    )
    hits: Counter[str] = Counter()
    bombs: Counter[str] = Counter()
    steps = runs = 0
    failed: list[int] = []
    for seed in seeds:
        try:
            outcome = simulate(seed, print if options.log else None, float(options.seconds))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc(limit=-4)
            print(f"SIMULATION_SEED={seed} make simulate", flush=True)
            failed.append(seed)
            if not options.keep_going:
                break
        else:
            hits += outcome.hits
            bombs += outcome.bombs
            steps += outcome.steps
            runs += outcome.runs
            if options.seed is not None:
                print(f"seed {seed}: trace {outcome.trace}")
    kinds = (*FAULTS, *WORK)
    missing = [] if options.seed is not None else [kind for kind in kinds if not hits[kind]]
    told = ", ".join(f"{kind} {hits[kind]}" for kind in kinds if hits[kind])
    crashed = ", ".join(f"{name} {bombs[name]}" for name in sorted(bombs))
    print(f"crashes of handlers: {crashed}")
    print(f"{len(seeds)} seeds, {len(failed)} failed, {runs} runs, {steps} steps; {told}")
    if missing:
        print(f"never happened: {', '.join(missing)}", file=sys.stderr)
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
