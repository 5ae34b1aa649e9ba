"""Files of every kind, damaged by a seed: bytes flipped, cut, grown. None may end in anything but px or one sentence.

python tests/mutations.py 10000 [FIRST]     # so many mutants, from the seed FIRST; prints what went wrong
"""

import contextlib
import logging
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from test_kinds import KINDS, SUFFIXES

from hirez_mosaic.errors import HirezMosaicError
from hirez_mosaic.sources import open_whole

HANG = 30.0  # seconds of processor time
MOST_PX = 50_000_000
FILES = [kind for kind in KINDS if kind not in ("bioformats2raw", "ome-zarr of four channels")]


def mutated(data: bytes, seed: int) -> bytes:
    """The data with some of its bytes changed, most of them in its beginning; cut, or grown; the same for the same
    seed.
    """
    rng = random.Random(seed)
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 16))):
        end = len(made) if rng.random() < 0.5 else min(len(made), 256)
        made[rng.randrange(end)] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    how = rng.random()
    if how < 0.15:
        return bytes(made[: rng.randrange(1, len(made))])
    if how < 0.25:
        at = rng.randrange(len(made))
        return bytes(made[:at] + rng.randbytes(rng.randrange(1, 64)) + made[at:])
    return bytes(made)


def originals(folder: Path) -> dict[str, bytes]:
    """The whole files, by kind."""
    found = {}
    for number, kind in enumerate(FILES):
        path = folder / f"{number}{SUFFIXES.get(kind, '')}"
        KINDS[kind][0](path)
        found[kind] = path.read_bytes()
    return found


def trouble(whole: dict[str, bytes], seed: int, folder: Path) -> str:
    """What is wrong with how the mutant of this seed is read; empty where px or a sentence came out."""
    kind = FILES[seed % len(FILES)]
    path = folder / f"mutant{SUFFIXES.get(kind, '')}"
    path.write_bytes(mutated(whole[kind], seed))
    start = time.process_time()
    try:
        image = open_whole(path, most_px=MOST_PX)
    except HirezMosaicError as error:
        said = str(error)
        return "" if said.count("\n") == 0 and str(path) in said else f"{kind}, seed {seed}: says {said!r}"
    except Exception as error:
        return f"{kind}, seed {seed}: {type(error).__name__}: {error}"
    took = time.process_time() - start
    if took > HANG:
        return f"{kind}, seed {seed}: {took:.0f} s"
    if image.bands != 3 or image.format != "uchar":
        return f"{kind}, seed {seed}: {image}"
    return f"{kind}, seed {seed}: black" if not image.numpy().any() else ""


def troubles(seeds: range, folder: Path) -> list[str]:
    """All that is wrong with the mutants of some seeds."""
    whole = originals(folder)
    return [found for seed in seeds if (found := trouble(whole, seed, folder))]


def main() -> None:
    """Try as many as are asked for."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    logging.disable()
    with tempfile.TemporaryDirectory() as scratch:
        whole = originals(Path(scratch))
        for seed in range(first, first + count):
            with contextlib.suppress(BrokenPipeError):
                if found := trouble(whole, seed, Path(scratch)):
                    print(found, flush=True)
    print(f"{count} mutants, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
