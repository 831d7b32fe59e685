"""Damage streams at random, and see that reading and writing them ends soon in a value or a clear error.

    python tests/benchmarks/fuzz_streams.py --count 200000 --seed 0

Each stream gets 2 s of processor time and 1 GB of memory. What breaks is printed with its number: the same seed makes
the same streams (``--only NUMBER`` does one of them, with its traceback).
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER / "support"), str(FOLDER.parent)]

import streams  # noqa: E402 (found by the line above)

SHARED = Path(os.environ.get("WSPLF_SHARED_DATA", FOLDER.parents[1] / "shared" / "data"))
LIMIT_S = 2.0
LIMIT_BYTES = 1 << 30
SMALL_BYTES = 10_000
BIG_SHARE = 0.005
CHUNK = 500


class TooLongError(BaseException):
    """The time of a stream is over; not an Exception, so that nothing on the way takes it for its own."""


def _over(signum: int, frame: FrameType | None) -> None:
    raise TooLongError


def sources() -> tuple[list[bytes], list[bytes]]:
    """Sound streams: small ones (shared and made here), and a few big ones."""
    random = Random(0)
    made = [streams.small_project_file(random) for _ in range(60)] + [streams.any_stream(random) for _ in range(60)]
    shared = [path.read_bytes() for path in sorted(SHARED.rglob("data.qpdata"))]
    return made + [one for one in shared if len(one) <= SMALL_BYTES], [one for one in shared if len(one) > SMALL_BYTES]


def stream(number: int, seed: int, small: list[bytes], big: list[bytes]) -> bytes:
    """The damaged stream of a number."""
    random = Random(f"{seed}-{number}")
    base = random.choice(big if big and random.random() < BIG_SHARE else small)
    return streams.damaged(base, random.choice(small), random)


def one(number: int, seed: int, small: list[bytes], big: list[bytes]) -> tuple[str, float]:
    """What became of a stream, and its seconds."""
    raw = stream(number, seed, small, big)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    start = time.process_time()
    try:
        result = streams.exercise(raw)
    except TooLongError:
        result = "too long"
    except Exception as error:  # noqa: BLE001 (whatever comes is what we look for)
        place = traceback.extract_tb(error.__traceback__)[-1]
        result = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return result, time.process_time() - start


def _limit_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def work(chunk: tuple[int, int, int]) -> list[tuple[int, str, float]]:
    """The streams of a range of numbers."""
    first, last, seed = chunk
    return [(number, *one(number, seed, *_SOURCES)) for number in range(first, last)]


_SOURCES: Any = ((), ())


def start() -> None:
    """Prepare a worker."""
    global _SOURCES  # noqa: PLW0603 (one per process, read only)
    _SOURCES = sources()
    signal.signal(signal.SIGPROF, _over)
    _limit_memory()


def main() -> int:
    """Print the counts; 1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    if options.only is not None:
        print(streams.exercise(stream(options.only, options.seed, *sources())))
        return 0
    counts: Counter[str] = Counter()
    slowest, broken = (0.0, -1), []
    chunks = [(at, min(at + CHUNK, options.count), options.seed) for at in range(0, options.count, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(options.workers, start) as pool:
        for done, results in enumerate(pool.imap_unordered(work, chunks), 1):
            for number, result, seconds in results:
                sound = result in {"same", "refused"}
                counts[result if sound else "broken"] += 1
                slowest = max(slowest, (seconds, number))
                if not sound:
                    broken.append((number, result))
                    print(f"{number}: {result}", flush=True)
            if done % 40 == 0:
                print(f"{min(done * CHUNK, options.count):,} done, slowest {slowest[0]:.2f} s", flush=True)
    print(f"\n{options.count:,} streams, seed {options.seed}: {dict(counts)}")
    print(f"slowest {slowest[0]:.2f} s (number {slowest[1]})")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
