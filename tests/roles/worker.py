"""A worker process: `worker.py SDK NAME SLOTS`. Serves every task of `tasks.py` until SIGTERM."""

import sys

import tasks


def main() -> None:
    sdk, name, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = tasks.connect(sdk)
    declared = tasks.declare(client)
    worker = client.worker(name, slots=slots, workflows=list(vars(declared).values()))
    worker.start()


if __name__ == "__main__":  # hatchet_sdk's worker starts processes of its own
    main()
