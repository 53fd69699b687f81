"""Whether simulations notice a mistake that has been planted in the engine."""

import logging

from tests.simulation.world import simulate

TRIES = 24
SECONDS = 20.0


def is_caught() -> bool:
    """Whether one of some seeds fails."""
    logging.disable(logging.CRITICAL)
    try:
        return any(_fails(seed) for seed in range(TRIES))
    finally:
        logging.disable(logging.NOTSET)


def _fails(seed: int) -> bool:
    try:
        simulate(seed, busy_seconds=SECONDS)
    except Exception:
        return True
    return False
