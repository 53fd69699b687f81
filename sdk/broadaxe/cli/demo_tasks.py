"""The tasks of `broadaxe demo`, and the worker that runs them: `python -m broadaxe.cli.demo_tasks NAME`.

A parent lists the files of a folder and spawns one child a file; a child reads its file and counts words; the parent merges the
counts as they come. Children are keyed by path, so that a parent that is run again, because its worker was killed,
finds the children that it spawned before.
"""

import asyncio
import json
import logging
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from broadaxe import Broadaxe, Context

LARGEST_FILE = 2_000_000
"""Bytes; larger ones are data rather than text."""
SNIFFED = 8_192
"""Bytes looked at to tell binary files: they have a NUL there."""
LEFT_OUT = frozenset({"node_modules", "__pycache__"})
WORD = re.compile(r"[^\W\d_]{2,}")
PROGRESS_EVERY_S = 0.1
SLOTS = 16
"""Counting is work for the processor: more threads than this would only wait for each other."""

broadaxe = Broadaxe()


class Folder(BaseModel):
    """What the parent is given."""

    path: str
    top: int = 10


class File(BaseModel):
    """What a child is given."""

    path: str


class FileCount(BaseModel):
    """What a child found: `words` is None for a file that is not text, is too large, or cannot be read."""

    words: dict[str, int] | None


class FolderCount(BaseModel):
    """What the parent merged."""

    files: int
    skipped: int
    words: int
    top: list[tuple[str, int]]


@broadaxe.task(name="demo-count-file", input_validator=File, execution_timeout="5m", retries=2)
def count_file(input: File, ctx: Context) -> FileCount:  # noqa: A002 - the name that the documentation uses
    """Count the words of one file."""
    try:
        raw = Path(input.path).read_bytes() if Path(input.path).stat().st_size <= LARGEST_FILE else None
    except OSError as error:  # removed since it was listed, or not ours to read
        ctx.log(f"{input.path} is skipped: {error.strerror}")
        return FileCount(words=None)
    if raw is None or b"\0" in raw[:SNIFFED]:
        return FileCount(words=None)
    return FileCount(words=dict(Counter(WORD.findall(raw.decode("utf-8", "replace").lower()))))


@broadaxe.task(name="demo-count-folder", input_validator=Folder, execution_timeout="1h", retries=2)
async def count_folder(input: Folder, ctx: Context) -> FolderCount:  # noqa: A002
    """Spawn a child a file, and merge what they count."""
    paths = await asyncio.to_thread(lambda: sorted(list_files(Path(input.path))))
    items = [count_file.create_bulk_run_item(input=File(path=path), key=path) for path in paths]
    await ctx.aio_put_stream(json.dumps({"done": 0, "total": len(paths)}))
    refs = await count_file.aio_run_many_no_wait(items)
    words: Counter[str] = Counter()
    done = skipped = 0
    told_at = 0.0
    loop = asyncio.get_running_loop()
    for result in asyncio.as_completed([ref.aio_result() for ref in refs]):
        counted = await result
        done += 1
        if counted.words is None:
            skipped += 1
        else:
            words.update(counted.words)
        if loop.time() - told_at > PROGRESS_EVERY_S or done == len(refs):
            told_at = loop.time()
            await ctx.aio_put_stream(json.dumps({"done": done, "total": len(refs)}))
    return FolderCount(files=done, skipped=skipped, words=words.total(), top=words.most_common(input.top))


def list_files(folder: Path) -> Iterator[str]:
    """Regular files below `folder`, without hidden folders, dependencies and caches, not following links."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in LEFT_OUT]
        for name in files:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield str(path)


def _stop_with_parent() -> None:
    """Stop when standard input ends: whoever started this worker has gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run a worker until SIGTERM, SIGINT or the end of standard input."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    name = sys.argv[1] if len(sys.argv) > 1 else "demo-worker"
    broadaxe.worker(name, slots=SLOTS, workflows=[count_folder, count_file]).start()


if __name__ == "__main__":
    main()
