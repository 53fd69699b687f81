"""`python -m broadaxe_gateway`: a server configured by the environment alone, as containers start it."""

import os
import sys

from broadaxe_gateway.config import load_config
from broadaxe_gateway.server import run
from broadaxe_gateway.settings import ConfigError

if __name__ == "__main__":
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"broadaxe: {problem}", file=sys.stderr)  # noqa: T201 - the command's answer
        sys.exit(1)
    sys.exit(run(config))
