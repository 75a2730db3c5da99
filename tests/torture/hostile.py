"""Feeds one reader with damaged and hostile files, each in a child with little memory and time.

`python tests/torture/hostile.py READER SECONDS SEED` prints what it has done, or the first input
that ended in a signal, in an error that is not ours, or with too much memory; its file is kept.
"""

import mmap
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator

from torture.hostile_files import READERS, Reader, Target

from jaxvision.errors import InputError

CASE_SECONDS = 20
MEMORY = 2**29  # of one case, beyond that of the process and ten times the input
ADDRESS_SPACE = 2**31  # what a case may ask for, used or not
CHUNK = 500  # cases of one child


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with one to four things wrong."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = len(data)
        place = rng.randrange(size + 1)
        if rng.random() < 0.5:  # headers and directories lie at the ends
            place = rng.choice((min(place, rng.randrange(256)), max(0, size - rng.randrange(256))))
        length = rng.choice((1, 1, 2, 4, 8, rng.randrange(64)))
        kind = rng.randrange(7)
        if kind == 0 and place < size:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            value = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            data[place : place + length] = bytes([value]) * length
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
        elif kind == 5:
            source = rng.randrange(size + 1)
            data[place : place + length] = data[source : source + length]
        elif rng.random() < 0.2:
            del data[place:]
    return bytes(data)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def check(reader: Reader, folder: pathlib.Path, name: str, content: bytes) -> bool:
    """Reads one input; returns whether it was refused, and raises what must not be."""
    path, seconds = folder / name, time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + CASE_SECONDS, hard))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path.write_bytes(content)
    refused = False
    try:
        reader.read(folder, path)
    except InputError as error:
        refused = True
        if any(isinstance(cause, MemoryError) for cause in causes(error)):
            raise MemoryError(f"more than {ADDRESS_SPACE} bytes asked for") from error
        if len(str(error)) > 5000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if used > MEMORY + 10 * len(content):
        raise MemoryError(f"{used} bytes used")
    return refused


def run_child(reader: Reader, folder: pathlib.Path, cases: Iterator, shared: mmap.mmap) -> None:
    """Reads input after input, and says in the shared memory where it is."""
    targets = reader.write(folder)
    whole = {target.name: (folder / target.name).read_bytes() for target in targets}
    for target in targets:  # what is not damaged is read
        assert not check(reader, folder, target.name, target.wrap(target.content)), target.name
        (folder / target.name).write_bytes(whole[target.name])
    page = resource.getpagesize()
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * page
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    for count, case in enumerate(cases, start=1):
        name, content = case(targets)
        shared[16:] = name.encode().ljust(len(shared) - 16)
        refused = check(reader, folder, name, content)
        (folder / name).write_bytes(whole[name])
        shared[:16] = struct.pack("<QQ", count, struct.unpack("<Q", shared[8:16])[0] + refused)


def fork(reader: Reader, cases: Iterator, what: str) -> tuple[int, int]:
    """Returns how many inputs a child has read, and how many it refused."""
    shared = mmap.mmap(-1, 128)
    root = pathlib.Path(tempfile.mkdtemp(prefix="jaxvision-hostile-"))
    folder = root / "files"
    folder.mkdir()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_child(reader, folder, cases, shared)
            code = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as the parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count, refused = struct.unpack("<QQ", shared[:16])
    name = shared[16:].decode().strip()
    if status != 0:
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else "the error above"
        sys.exit(f"{what}, case {count}: {ended}; see {folder}/{name}")
    shutil.rmtree(root)
    return count, refused


def crafted_cases(reader: Reader) -> Iterator:
    for name, content in reader.crafted():
        yield lambda targets, name=name, content=content: (name, content)


def mutated_cases(seed: str, seconds: float) -> Iterator:
    deadline = time.monotonic() + seconds
    for number in range(CHUNK):
        if time.monotonic() > deadline:
            return
        rng = random.Random(f"{seed} {number}")

        def case(targets: list[Target], rng: random.Random = rng) -> tuple[str, bytes]:
            target = rng.choice(targets)
            return target.name, target.wrap(mutate(target.content, rng))

        yield case


def main(name: str, seconds: str, seed: str) -> None:
    reader = READERS[name]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    crafted, refused = fork(reader, crafted_cases(reader), f"{name}, crafted")
    print(f"{name}: {crafted} crafted files, {refused} of them refused")
    deadline = time.monotonic() + float(seconds)
    total = total_refused = chunk = 0
    while time.monotonic() < deadline:
        label = f"{seed} {name} {chunk}"
        cases = mutated_cases(label, deadline - time.monotonic())
        count, refused = fork(reader, cases, f"{name}, chunk {chunk} of seed {seed}")
        total, total_refused, chunk = total + count, total_refused + refused, chunk + 1
    print(f"{name}: {total} damaged files, {total_refused} of them refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
