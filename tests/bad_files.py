"""Files that something is wrong with: functions that write them into a folder."""

import io
import os
import pathlib
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import PIL.Image

from configs import smoke
from jaxvision import files

Write = Callable[[pathlib.Path], object]


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes | None]:
    """Returns every path below a folder, with the bytes of every file."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def text(name: str, content: str) -> Write:
    return lambda folder: (folder / name).write_text(content)


def config(body: str, base: str = "smoke") -> Write:
    """Writes bad.py, a config file whose line 4 is the body."""
    head = f"from configs import {base}\ndef get_config():\n    config = {base}.get_config()\n"
    return text("bad.py", f"{head}    {body}\n    return config\n")


def image(file_format: str = "PNG", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def bomb() -> bytes:
    """Returns a PNG of some bytes that declares 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        size, checksum = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return size + kind + data + checksum

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))


def tiff(tile: int) -> bytes:
    """Returns a TIFF of 16 x 16 pixels in one deflated square tile."""
    data = zlib.compress(bytes(256))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8}
    entries = [struct.pack("<HHII", tag, 4, 1, x) for tag, x in {**tags, 325: len(data)}.items()]
    head = struct.pack("<4sI", b"II*\0", 8 + len(data)) + data + struct.pack("<H", len(entries))
    return head + b"".join(entries) + bytes(4)


def pets(extra: dict[str, bytes | None] | None = None, *, but: str = "//") -> Write:
    """Writes pets/<split>/<class>/<number>.png, less the paths with `but`, and more files.

    A file of the content None is an empty folder.
    """

    def write(folder):
        folders = ("train/cat", "train/dog", "test/cat", "test/dog")
        names = [f"{name}/{n}.png" for name in folders for n in range(8)]
        files = dict.fromkeys((name for name in names if but not in name), image())
        for name, content in (files | (extra or {})).items():
            path = folder / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if content is None else path.write_bytes(content)

    return write


def train_files(content: bytes, count: int = 16) -> dict[str, bytes | None]:
    """Returns the first of the 16 training files, with another content."""
    return {f"train/{('cat', 'dog')[n // 8]}/{n % 8}.png": content for n in range(count)}


def zipped(name: str = "cat/2.png", *, mode: int = stat.S_IFREG, share: float = 1.0) -> Write:
    """Writes train.zip with one member of that name and mode, and the first share of its bytes."""

    def write(folder):
        pets(but="train/")(folder)
        path = folder / "pets/train.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for member in ("cat/1.png", "dog/1.png", name):
                info = zipfile.ZipInfo(member)
                info.external_attr = ((mode if member == name else stat.S_IFREG) | 0o644) << 16
                archive.writestr(info, image())
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def tarred(
    name: str = "train.tar", mode: Any = "w", *, but: str = "//", share: float = 1.0
) -> Write:
    """Writes shards of two samples, less the members with `but`, and the first share of one."""

    def write(folder):
        for path, kind in ((folder / "test.tar", cast(Any, "w")), (folder / name, mode)):
            with tarfile.open(path, mode=kind) as archive:
                for key, content in (("0.jpg", image()), ("0.cls", b"0"), ("1.jpg", image()),
                                     ("1.cls", b"1")):  # fmt: skip
                    info = tarfile.TarInfo(key)
                    info.size = len(content)
                    if but not in key:
                        archive.addfile(info, io.BytesIO(content))
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def table(train: bytes, test: bytes = b"a.png,0\n") -> Write:
    """Writes two tables and the image that they may name."""

    def write(folder):
        for name, content in (("train.csv", train), ("test.csv", test), ("a.png", image())):
            (folder / name).write_bytes(content)

    return write


def cifar_that_runs_code(folder: pathlib.Path) -> None:
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {folder}/HARM",)

    cifar(pickle.dumps(Harm()))(folder)


def cifar(content: bytes) -> Write:
    """Writes every file of CIFAR-10 with one content."""

    def write(folder):
        for name in ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            (folder / name).write_bytes(content)

    return write


def old_run(**changes) -> Write:
    """Writes run/ as another run leaves it: its config, and a checkpoint (an empty one)."""

    def write(folder):
        options = smoke.get_config()
        options.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        for part in files._CHECKPOINT_PARTS:
            path = folder / "run/checkpoints/10" / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (folder / "run/config.json").write_text(options.to_json_best_effort())

    return write


def run_with_config(content: str) -> Write:
    """Writes run/ with a checkpoint and that config.json."""

    def write(folder):
        old_run()(folder)
        (folder / "run/config.json").write_text(content)

    return write
