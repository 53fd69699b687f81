"""A worker process: `flow_worker.py SDK TOPICS SLOTS [NAME [LABELS]]`. Serves the flows of those topics (`graphs+children`, say) until
SIGTERM. Its tasks' notes carry its name; LABELS is a JSON object.
"""

import json
import os
import sys

from flows.base import WORKER, declared


def main() -> None:
    sdk, topics, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    name = sys.argv[4] if len(sys.argv) > 4 else "flows"
    labels = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
    os.environ[WORKER] = name
    flows = declared(sdk, topics)
    worker = flows.client.worker(name, slots=slots, labels=labels, workflows=list(flows.by_name.values()))
    worker.start()


if __name__ == "__main__":  # hatchet_sdk's worker starts processes of its own
    main()
