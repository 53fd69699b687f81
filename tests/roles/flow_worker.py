"""A worker process: `flow_worker.py SDK TOPICS SLOTS`. Serves the flows of those topics (`graphs+children`, say) until SIGTERM."""

import sys

from flows.base import declared


def main() -> None:
    sdk, topics, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    flows = declared(sdk, topics)
    worker = flows.client.worker("flows", slots=slots, workflows=list(flows.by_name.values()))
    worker.start()


if __name__ == "__main__":  # hatchet_sdk's worker starts processes of its own
    main()
