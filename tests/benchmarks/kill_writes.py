"""Kill writers at random moments, let two write at once, save as QuPath does meanwhile; see that nothing is lost.

    python tests/benchmarks/kill_writes.py --count 200 --seed 0

Half of the kills come at a random step of the writing (before or after a rename, a sync, a link, in the middle of a
file), half after a random time. After each, every file must be old or new and whole, and undo must give back the bytes
from before; a third of the undos is killed too. Then how long the journal makes the writing of large data.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from unittest import mock

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER / "support"), str(FOLDER.parent)]

import kills  # noqa: E402 (found by the line above)

from wsplf_cli.qupath.atomic import write_files  # noqa: E402
from wsplf_cli.runs.journal import Journal, recording  # noqa: E402


def main() -> int:
    """Print what was found; exit with 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--people", type=int, default=1500, help="annotations of a person per entry")
    parser.add_argument("--large-mb", type=int, default=70, help="size of a large data file")
    parser.add_argument("--dir", type=Path, help="folder to work in; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        return _run(Path(name), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    rng = Random(options.seed)
    template = kills.make_project(folder / "template", entries=5, people=options.people, vertices=200)
    sizes = [path.stat().st_size / 1e6 for path in sorted(template.parent.glob("data/*/data.qpdata"))]
    print(f"project: 5 entries, data of {', '.join(f'{size:.1f}' for size in sizes)} MB and one without")
    began = time.monotonic()
    trial = kills.shutil.copytree(template.parent, folder / "trial") / template.name
    steps = kills.steps_of(lambda: kills.write(trial))
    seconds = time.monotonic() - began
    print(f"one run: {steps} steps, {seconds:.2f} s")
    tally = kills.Tally()
    while tally.kills < options.count:
        timed = None if tally.kills % 2 else seconds / 2
        kills.one_kill(template, folder / "copy", tally, rng=rng, steps=steps, seconds=timed)
    print(json.dumps({key: value for key, value in vars(tally).items() if key != "problems"}))
    lost = list(tally.problems)

    for read_at in kills.ORDERS:
        for save_at in kills.ORDERS[kills.ORDERS.index(read_at) :]:
            copy = folder / f"race {read_at} {save_at}"
            path = kills.shutil.copytree(template.parent, copy) / template.name
            person, polygon, failed = kills.race(path, read_at=read_at, save_at=save_at)
            print(f"QuPath reads {read_at}, saves {save_at}: person {person}, wsplf {polygon}, refused {failed}")
            if not person or failed == polygon:
                lost += [] if person and save_at == "after run" else [f"{read_at}, {save_at}"]
            kills.shutil.rmtree(copy)
    path = kills.shutil.copytree(template.parent, folder / "stress") / template.name
    counts = kills.stress(path, seconds=15, rng=rng)
    print(f"saver and writer for 15 s: {counts}")
    lost += ["stress"] * counts["lost"]
    _time_journal(folder / "large", size=options.large_mb * 1_000_000)
    print(*lost, f"{len(lost)} problems", sep="\n")
    return int(bool(lost))


def _time_journal(folder: Path, *, size: int) -> None:
    """Write a large file with and without a journal, in turn."""
    path = folder / "data" / "1" / "data.qpdata"
    path.parent.mkdir(parents=True)
    contents = [os.urandom(size), os.urandom(size)]
    write_files({path: contents[0]})
    plain, recorded, copied = [], [], []
    for number in range(10):
        begin = time.perf_counter()
        write_files({path: contents[number % 2]}, expected={path: None if not path.exists() else _sha(path)})
        plain.append(time.perf_counter() - begin)
        with recording(Journal(folder, folder / "wsplf" / "runs" / f"r{number}")):
            begin = time.perf_counter()
            write_files({path: contents[1 - number % 2]}, expected={path: _sha(path)})
            recorded.append(time.perf_counter() - begin)
        with recording(Journal(folder, folder / "wsplf" / "runs" / f"c{number}")), no_links():
            begin = time.perf_counter()
            write_files({path: contents[number % 2]}, expected={path: _sha(path)})
            copied.append(time.perf_counter() - begin)
        write_files({path: contents[1 - number % 2]})
    first, linking, copying = (statistics.median(some) for some in (plain, recorded, copied))
    print(
        f"{size / 1e6:.0f} MB: {first:.3f} s without a journal; {linking:.3f} s with ({linking / first:.2f} times); "
        f"{copying:.3f} s where there are no hard links ({copying / first:.2f} times)"
    )


def no_links() -> AbstractContextManager[object]:
    """A file system without hard links."""
    return mock.patch.object(os, "link", mock.Mock(side_effect=OSError("no links here")))


def _sha(path: Path) -> str | None:
    return kills.atomic.read_state(path).sha256


if __name__ == "__main__":
    sys.exit(main())
