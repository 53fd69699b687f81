"""`python -m benchmarks.harness [--quick] [--group GROUP] [--only NAME ...] [--name NAME] [--no-record]`: the figures that are kept.

Server, workers and clients are processes of their own; Postgres is the embedded one with fsync and synchronous_commit on. Prints a table, and as
its last line one JSON object. Writes `benchmarks/results/<date>-<name>.json` and a readable `.md` beside it. Ends within ten minutes: a
measure that no longer fits reports null. The exit code is 1 when a measure failed; a missed bar is shown, not an error.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.measures import GROUPS, MEASURES
from benchmarks.stack import Bench

BUDGET_SECONDS = 585
RESULTS = Path(__file__).parent / "results"


class Row(NamedTuple):
    """One line of the table: what a key means and what it must reach."""

    key: str
    what: str
    unit: str
    at_least: float | None = None
    below: float | None = None
    group: str = "core"
    """Whose run reports null when it was not measured."""

    def verdict(self, value: Any) -> str:
        if value is None:
            return "not measured"
        if self.at_least is not None:
            return f"{'ok' if value >= self.at_least else 'MISSED'} (at least {self.at_least:g})"
        if self.below is not None:
            return f"{'ok' if value < self.below else 'MISSED'} (below {self.below:g})"
        return "recorded"


ROWS = (
    Row("fanout_tasks_per_second", "fan-out of 20,000 no-op tasks", "tasks/s", at_least=5_000),
    Row("start_p50_ms", "100 singles/s: call to body, p50", "ms", below=5),
    Row("start_p99_ms", "100 singles/s: call to body, p99", "ms", below=20),
    Row("result_p50_ms", "100 singles/s: call to result, p50", "ms", below=8),
    Row("compat_fanout_ratio_to_stub", "hatchet-sdk, 3,000 tasks: engine to stub", "", at_least=0.6),
    Row("spawn_tasks_per_second", "a parent's 5,000 children", "tasks/s"),
    Row("singles_500_start_p99_ms", "500 singles/s: call to body, p99", "ms"),
    Row("graph_cpu_ratio", "CPU of a run of 10 tasks to one of 1", "", below=12),
    Row("keyed_tasks_per_second", "100,000 queued over 10,000 concurrency keys", "tasks/s", group="flow"),
    Row("keyed_ratio", "the same to 100,000 plain ones", "", at_least=0.5, group="flow"),
    Row("fair_ratio", "50 groups of 10 behind one of 10,000, to alone: one place a group", "", group="flow"),
    Row("fair_wide_ratio", "the same, more places a group than slots", "", group="flow"),
    Row("dispatch_ratio", "dispatch cost a task: 500,000 queued to 1,000", "", below=1.2, group="flow"),
    Row(
        "thousand_workers_ratio",
        "fan-out by label: beside 1,000 workers to alone",
        "",
        at_least=0.5,
        group="flow",
    ),
    Row("scheduled_late_p50_ms", "1,000 scheduled runs over 10 s: queued late, p50", "ms", group="triggers"),
    Row("scheduled_late_p99_ms", "the same, p99", "ms", below=100, group="triggers"),
    Row("scheduled_late_max_ms", "the same, the latest", "ms", below=100, group="triggers"),
    Row("far_crons_rss_growth_mb", "engine memory for 1,000,000 crons of next year", "MB", group="triggers"),
    Row("far_crons_idle_cpu_percent", "idle engine with them", "% of a core", below=2, group="triggers"),
    Row("far_crons_restart_s", "start to ready with them", "s", below=5, group="triggers"),
    Row(
        "listing_p95_ms", "lists among 2,000,000 runs: p95 of the slowest kind", "ms", below=50, group="reads"
    ),
    Row(
        "metadata_index_wal_bytes",
        "WAL of the index on metadata, a task with three entries",
        "bytes",
        group="reads",
    ),
    Row("slow_commit_ratio", "fan-out with 5 ms a commit to plain", "", at_least=0.7),
    Row("sql_statements_per_task", "SQL statements a task under fan-out", "", below=0.05),
    Row("wal_bytes_per_task", "WAL a task under fan-out", "bytes"),
    Row("cpu_s_per_1000", "CPU seconds per 1,000 tasks of the fan-out", "s"),
    Row("queued_200k_rss_growth_mb", "engine memory for 200,000 queued tasks", "MB", below=100),
    Row("queued_1m_rss_growth_mb", "engine memory for 1,000,000 queued tasks", "MB", below=400),
    Row("idle_cpu_percent", "idle engine with 10 workers", "% of a core", below=2),
    Row("idle_sql_statements", "idle engine: statements but the lease", "in 60 s", below=1),
    Row("push_p99_ms", "100 events/s, each to 10 workflows: push, p99", "ms", below=100, group="triggers"),
    Row("push_to_body_p99_ms", "the same: push to body, p99", "ms", group="triggers"),
    Row(
        "one_of_100k_waiting_p99_ms",
        "event to one of 100,000 waiting runs: push to body, p99",
        "ms",
        below=20,
        group="triggers",
    ),
    Row("tenant_b_start_p99_ms", "tenant B beside A's fan-out: call to body, p99", "ms", below=40),
)


def main() -> int:
    arguments = parse()
    # An ordered end closes every server and worker; a plain SIGTERM would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = arguments.only or list(GROUPS[arguments.group])
    facts = machine.facts()
    print(" | ".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    figures: dict[str, Any] = {}
    failures: list[str] = []
    begun = time.monotonic()
    steal: dict[str, dict[str, float]] = {}
    total_before = machine.CpuTimes.now()
    with Bench(is_quick=arguments.quick, deadline=begun + BUDGET_SECONDS) as bench:
        for name in names:
            print(f"{name} ({time.monotonic() - begun:.0f} s in)", flush=True)
            before = machine.CpuTimes.now()
            try:
                figures |= MEASURES[name](bench)
            except Exception:
                failures.append(name)
                traceback.print_exc()
            steal[name] = machine.CpuTimes.now().since(before)
        facts |= bench.facts
        notes = list(bench.notes)
    facts |= machine.CpuTimes.now().since(total_before)
    facts["seconds"] = round(time.monotonic() - begun)
    expected = None if arguments.only else arguments.group
    wanted = {row.key: figures.get(row.key) for row in ROWS if row.key in figures or row.group == expected}
    text = render(wanted, facts, steal, notes, failures, quick=arguments.quick)
    print(text)
    if not arguments.no_record:
        record(arguments.name, {"figures": wanted, "machine": facts, "steal": steal, "notes": notes}, text)
    print(json.dumps(wanted))
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.harness", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="small counts, one run: shows that it works, gives no figures"
    )
    parser.add_argument(
        "--only", action="append", choices=list(MEASURES), help="this measure; may be given again"
    )
    parser.add_argument(
        "--group", choices=list(GROUPS), default="core", help="the measures of this group (default: core)"
    )
    parser.add_argument("--name", default="", help="name of the recorded result")
    parser.add_argument("--no-record", action="store_true", help="write nothing to benchmarks/results")
    arguments = parser.parse_args()
    if not arguments.name:
        arguments.name = "-".join(
            ["quick"] * arguments.quick
            + (arguments.only or ["bench"] + [arguments.group] * (arguments.group != "core"))
        )
    return arguments


def render(
    figures: dict[str, Any],
    facts: dict[str, Any],
    steal: dict[str, dict[str, float]],
    notes: list[str],
    failures: list[str],
    *,
    quick: bool,
) -> str:
    lines = ["", "| measure | figure | bar |", "|---|---|---|"]
    for row in ROWS:
        if row.key not in figures:
            continue
        value = figures[row.key]
        shown = json.dumps(value) if isinstance(value, dict) else "-" if value is None else f"{value:g}"
        lines.append(f"| {row.what} (`{row.key}`) | {shown} {row.unit} | {row.verdict(value)} |")
    if quick:
        lines += ["", "A quick run: small counts, once. These are no figures to quote."]
    lines += ["", *(f"- {note}" for note in notes), ""]
    lines += [f"- failed: {name}" for name in failures]
    lines += [
        f"- {name}: {share['steal_percent']}% stolen, {share['idle_percent']}% idle"
        for name, share in steal.items()
    ]
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines)


def record(name: str, result: dict[str, Any], text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{name}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    stem.with_suffix(".md").write_text(f"# {stem.name}\n\n`python -m benchmarks.harness`\n{text}\n")
    print(f"\nrecorded in {stem}.json and .md")


if __name__ == "__main__":
    sys.exit(main())
