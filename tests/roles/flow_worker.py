"""A worker process: `flow_worker.py SDK TOPIC SLOTS`. Serves the flows of `flows/<topic>.py` until SIGTERM."""

import sys

from flows.base import declared


def main() -> None:
    sdk, topic, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    flows = declared(sdk, topic)
    worker = flows.client.worker(f"flows-{topic}", slots=slots, workflows=list(flows.by_name.values()))
    worker.start()


if __name__ == "__main__":  # hatchet_sdk's worker starts processes of its own
    main()
