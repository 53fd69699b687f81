"""A worker of an unmodified hatchet-sdk: a workflow with a cron to the second, and a task that schedules another from within.

Arguments: the name of the workflow with the cron; the other two are named after it.
"""

# ruff: noqa: A002 - the documented name

import sys
from datetime import UTC, datetime, timedelta

from hatchet_sdk import Context, EmptyModel, Hatchet


def main(name: str) -> None:
    hatchet = Hatchet()
    timed = hatchet.workflow(name=name, on_crons=["*/2 * * * * *"])

    @timed.task()
    def ticked(input: EmptyModel, ctx: Context) -> dict[str, str]:
        return {"tick": str(ctx.additional_metadata.get("hatchet__cron_scheduled_at"))}

    @hatchet.task(name=f"{name}-later")
    def later(input: EmptyModel, ctx: Context) -> dict[str, str]:
        return {"who": str(ctx.additional_metadata.get("who"))}

    @hatchet.task(name=f"{name}-now")
    def now(input: EmptyModel, ctx: Context) -> dict[str, str]:
        at = datetime.now(UTC) + timedelta(milliseconds=300)
        version = later.schedule(run_at=at, additional_metadata={"who": "now"})
        return {"scheduled": version.scheduled_workflows[0].id}

    hatchet.worker(name, workflows=[timed, later, now]).start()


if __name__ == "__main__":
    main(sys.argv[1])
