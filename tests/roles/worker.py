"""A worker process: `worker.py SDK NAME SLOTS`. Serves every task of `tasks.py` until SIGTERM."""

import json
import os
import sys

import tasks


def main() -> None:
    sdk, name, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = tasks.connect(sdk)
    declared = tasks.declare(client)
    labels = json.loads(os.environ.get("ROLE_LABELS", "{}"))
    worker = client.worker(name, slots=slots, labels=labels, workflows=list(vars(declared).values()))
    worker.start()


if __name__ == "__main__":  # hatchet_sdk's worker starts processes of its own
    main()
