"""Readers, whole files for them that are damaged, and files that mean harm."""

import dataclasses
import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import bad_files
import numpy as np
import PIL.Image
from interop import forge

from jaxvision.data.captions.coco import read_coco_captions
from jaxvision.data.captions.results import read_candidates, read_references
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.decode import decode_image
from jaxvision.data.source import Source
from jaxvision.data.sources.array_record import ArrayRecordSource, write_array_record
from jaxvision.data.sources.cifar import CifarSource
from jaxvision.data.sources.file_list import ListSource
from jaxvision.data.sources.folder import FolderSource
from jaxvision.data.sources.real_labels import read_real_labels
from jaxvision.errors import InputError
from jaxvision.files import read_metrics
from jaxvision.interop.formats import read_weights, write_weights
from jaxvision.interop.run_folder import open_run


@dataclasses.dataclass
class Target:
    """A whole file, or a part of one.

    Attributes:
      name: Path below the folder.
      content: Bytes that are damaged.
      wrap: Function from the damaged bytes to those of the file.
    """

    name: str
    content: bytes
    wrap: Callable[[bytes], bytes] = bytes


@dataclasses.dataclass
class Reader:
    """What reads files.

    Attributes:
      read: Function (folder, path of the damaged file) that reads all that there is.
      write: Function (folder) that writes whole files and returns what of them is damaged.
      crafted: Function () -> (name of a file, its bytes) of inputs that mean harm.
    """

    read: Callable[[pathlib.Path, pathlib.Path], object]
    write: Callable[[pathlib.Path], list[Target]]
    crafted: Callable[[], Iterator[tuple[str, bytes]]] = lambda: iter(())


def whole_files(folder: pathlib.Path) -> list[Target]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [Target(str(path.relative_to(folder)), path.read_bytes()) for path in paths]


def read_all(source: Source) -> None:
    for index in range(len(source)):
        source.describe(index)
        try:
            source[index]
        except InputError:  # the pipeline replaces such a record
            pass


# --- weights -----------------------------------------------------------------------------------

TENSORS = {"x": forge.Tensor(), "y": forge.Tensor(1, (1, 3), (3, 1))}


def torch_file(program: bytes, data: bytes = b"") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return forge.write_torch(pathlib.Path(folder) / "w", program, data=data).read_bytes()


def write_pth(folder: pathlib.Path) -> list[Target]:
    forge.write_torch(folder / "w.pth", TENSORS, byteorder="little")
    program = forge.dumps({"model": TENSORS, "step": {3: [1.5, True, None, 2**40]}})
    return [*whole_files(folder), *[Target("w.pth", program, torch_file)] * 2]


def legacy_file(program: object, **options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return forge.write_legacy(pathlib.Path(folder) / "w", program, **options).read_bytes()


def write_legacy(folder: pathlib.Path) -> list[Target]:
    forge.write_legacy(folder / "w.pth", TENSORS)
    forge.write_legacy(folder / "w.ckpt", {"model": TENSORS, "args": forge.Call(eval)})
    module = {"_parameters": TENSORS, "_buffers": {}, "_modules": {}}
    program = b"\x80\x02cm\nC\n)\x81" + forge.dumps(module)[2:-1] + b"b."
    (folder / "w.bin").write_bytes(torch_file(program))
    arrays = {"x": np.arange(4.0), "y": np.ones((2, 3), np.float32), "z": {"a"}}
    (folder / "w.pkl").write_bytes(pickle.dumps(arrays, 4))
    return [*whole_files(folder), Target("w.bin", program, torch_file)]


def crafted_legacy() -> Iterator[tuple[str, bytes]]:
    for program in programs():
        yield "w.pth", legacy_file(program)
        yield "w.pth", legacy_file(TENSORS, version=program)
        yield "w.pkl", b"\x80\x02" + program
    for count in (-1, 2**31, 2**62, 2**63 - 1):
        yield "w.pth", legacy_file(TENSORS, data=struct.pack("<q", count) + b"x" * 99)
    for view in (("v", 2**62, 4), ("v", 0, 2**62), ("v",), 3):
        yield "w.pth", legacy_file({"x": forge.Tensor(view=view)})
    repeated = b"]" + b"N" + b"\x94" * 10 + b"."
    yield "w.pkl", b"\x80\x04" + repeated
    pairs = b"](" + b"K\x01K\x02\x86" * 300_000 + b"eq\0\x85q\x010ccollections\nOrderedDict\nq\2"
    yield "w.pth", torch_file(pairs + b"h\1R0h\2" * 100_000 + b".")
    text = b"X" + struct.pack("<I", 10**7) + b"x" * 10**7 + b"X\6\0\0\0latin1\x86q\0"
    yield "w.pth", torch_file(text + b"0c_codecs\nencode\nq\1" + b"h\0R0h\1" * 1000 + b".")


def doubled(start: bytes) -> bytes:
    return start + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))


def programs() -> Iterator[bytes]:
    """Yields pickles that want time or memory."""
    yield b"}" + doubled(b"N") + b"Ns."
    yield b"}X\1\0\0\0x" + doubled(b"N") + b"s."
    yield from (b"]" + doubled(b"N") + end for end in (b"Q.", b"R.", b"a.", b"b.", b"\x93.", b"."))
    for count in (1_900_000, 3_000_000):
        yield b")" + b"\x85" * count + b"."
        yield b"}" + b")" + b"\x85" * count + b"Ns."
        yield b"N" * 3 + b"\x87NN" * (count // 3) + b"."
        yield b"(" * count + b"."
        yield b"(" + b"}" * count + b"t."
        yield b"(" * (count // 2) + b"l" * (count // 2) + b"."
        yield b"(" * (count // 2) + b"t" * (count // 2) + b"."
        yield b"(" + b"]" * (count // 2) + b"a" * (count // 2) + b"."
        yield b"\x80\x02N" + b"\x94" * count + b"."
        yield (
            b"}("
            + b"".join(b"J" + struct.pack("<i", i << 15) + b"N" for i in range(2**16)) * 9
            + b"u."
        )
    for opcode, size in (
        (b"\x96", 8),
        (b"\x8e", 8),
        (b"\x8d", 8),
        (b"B", 4),
        (b"X", 4),
        (b"\x8b", 4),
    ):
        for count in (3 * 2**30, 2**31 - 1, 2**63 - 1, 2**64 - 1):
            yield b"}" + opcode + struct.pack("<Q", count)[:size] + b"Ns."
    yield b"N" + b"r" + struct.pack("<I", 2**28) + b"."
    yield b"}\x8a\xff" + b"\x7f" * 255 + b"Ns."
    yield b"c" + b"x" * 10**7 + b"\ny\n."
    yield b"}X" + struct.pack("<I", 10**7) + b"\x1b" * 10**7 + b"Ns."
    yield b"\x80\x04\x8c\x01x" + b"\x8c\x01y\x93" * 3 + b"."
    yield b"(lp0\n" + b"I1\na" * 1000 + b"."


def crafted_pth() -> Iterator[tuple[str, bytes]]:
    for program in programs():
        yield "w.pth", torch_file(program)
    large = b"\0" * 2**23
    view = {"shape": (2**21,), "count": 2**21}
    column = {"shape": (2**10, 2**11), "strides": (1, 2**10), "count": 2**21}
    for options in (view, column, {"shape": (2**21, 1), "strides": (1, 0), "count": 2**21}):
        tensors = {f"{i}": forge.Tensor(**options) for i in range(2000)}
        yield "w.pth", torch_file(forge.dumps(tensors), large)
    yield "w.pth", torch_file(forge.dumps({"module." * 10**7: forge.Tensor()}))
    yield "w.pth", torch_file(forge.dumps({"x": forge.Tensor(key="0" * 10**7)}))
    yield "w.pth", torch_file(forge.dumps({"x": forge.Tensor(shape=(0, 2**62), strides=(1, 1))}))
    content = torch_file(forge.dumps(TENSORS))
    directory = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    for disks in (0, 2, 2**32 - 1):
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, disks)
        yield "w.pth", content[:-22] + directory + locator + content[-22:]


def write_npz(folder: pathlib.Path) -> list[Target]:
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 4)).astype("f4"), "b/c": np.arange(5), "d": np.float32(2)}
    write_weights(folder / "w.npz", weights)

    def wrap(content: bytes) -> bytes:
        return forge.write_npz(folder / "w.npz", {"x.npy": content}).read_bytes()

    return [*whole_files(folder), *[Target("w.npz", forge.npy(weights["a"]), wrap)] * 2]


def crafted_npz() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        yield "w.npz", forge.npz_bomb(folder).read_bytes()
        for shape in (b"(99999999999,)", b"(-4,)", b"(2**40,)", b"(4,)*9999", b"(" * 5000):
            content = forge.npy(np.ones(4), shape=shape)
            yield "w.npz", forge.write_npz(folder / "w.npz", {"x.npy": content}).read_bytes()
        content = forge.npy(np.array([object]))
        yield "w.npz", forge.write_npz(folder / "w.npz", {"x.npy": content}).read_bytes()
        names = {f"{'x' * 60_000}{i}.npy": forge.npy(np.ones(1)) for i in range(10)}
        yield "w.npz", forge.write_npz(folder / "w.npz", names).read_bytes()


def write_safetensors(folder: pathlib.Path) -> list[Target]:
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 4)).astype("f4"), "b": np.arange(5), "c": np.ones(1, "f4")}
    write_weights(folder / "w.safetensors", weights)
    return whole_files(folder)


def crafted_safetensors() -> Iterator[tuple[str, bytes]]:
    def entry(shape: list[int], end: int) -> dict[str, object]:
        return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}

    headers: list[bytes] = [
        b"[" * 10**6,
        b'{"x":' * 10**6,
        json.dumps({"x" * 10**7: entry([1], 4)}).encode(),
        json.dumps({"module." * 10**6: entry([1], 4)}).encode(),
        json.dumps({"x": entry([2**62, 4], 4)}).encode(),
        json.dumps({"x": entry([0, 2**62], 0)}).encode(),
        json.dumps({"x": entry([1] * 10**5, 4)}).encode(),
        json.dumps({f"{i}": entry([1], 4) for i in range(10**5)}).encode(),
    ]
    for header in headers:
        for size in (len(header), 2**62, 2**64 - 1):
            yield "w.safetensors", struct.pack("<Q", size) + header + b"abcd"


# --- data --------------------------------------------------------------------------------------


def batches() -> list[bytes]:
    """Returns a batch of CIFAR-10 as pythons and numpys have written it."""
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    batch = {b"batch_label": b"x", b"labels": [3, 9], b"data": data, b"filenames": [b"a", b"b"]}
    numbers = batch | {b"labels": np.array([3, 9]), b"one": [np.int64(3)]}
    return [pickle.dumps(content, p) for content in (batch, numbers) for p in (2, 4, 5)]


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_cifar(folder: pathlib.Path) -> list[Target]:
    meta = pickle.dumps({b"label_names": [b"class%d" % i for i in range(10)]}, 2)
    archive = tar({"batches.meta": meta, "test_batch": batches()[0]})
    for place in ("files", "archive", "packed"):
        (folder / place).mkdir()
    (folder / "files/batches.meta").write_bytes(meta)
    (folder / "files/test_batch").write_bytes(batches()[0])
    (folder / "archive/cifar-10-python.tar.gz").write_bytes(archive)
    (folder / "packed/cifar-10-python.tar.gz").write_bytes(gzip.compress(archive))
    targets = [Target("files/test_batch", content) for content in batches()]
    return [*whole_files(folder), *targets, *targets]


def read_cifar(folder: pathlib.Path, path: pathlib.Path) -> None:
    read_all(CifarSource("cifar10", "test", path=str(path.parent)))


def crafted_cifar() -> Iterator[tuple[str, bytes]]:
    for program in programs():
        yield "files/test_batch", program
    dtype, state = (
        b"cnumpy\ndtype\nU\x02%bK\0K\1\x87R",
        b"(K\3U\1|%bJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ctb",
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    for code in (b"O8", b"u1", b"i8", b"V8", b"U1"):
        for flags in (0, 0x3F, 0xFF):
            made = dtype % code + state % (b"NNN", flags)
            yield "files/test_batch", made + b"."
            shapes = b"M\x10'\x85", b"\x8a\x08" + b"\x7f" * 8 + b"\x85", b"J\xff\xff\xff\xff\x85"
            for shape in shapes:
                yield "files/test_batch", array + b"(K\1" + shape + made + b"\x89U\x08abcdefghtb."
        fields = b"NU\1x\x85}U\1x" + dtype % b"O8" + b"K\x7f\x86s"
        yield "files/test_batch", dtype % code + state % (fields, 0x3F) + b"."
    yield "files/test_batch", array + b"K\x05K\x01s."
    yield "files/test_batch", b"cnumpy\nndarray\nJ\0\0\0\x10\x85\x85R."
    text = b"X" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"q\x01"
    yield (
        "files/test_batch",
        b"(" + text + b"c_codecs\nencode\nh\1X\6\0\0\0latin1\x86R" * 4000 + b"l.",
    )
    for codec in (b"hex_codec", b"utf-16", b"bz2", b"zlib", b"latin1"):
        once = (
            b"c_codecs\nencode\n" + text + b"X" + struct.pack("<I", len(codec)) + codec + b"\x86R."
        )
        yield "files/test_batch", once
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE):
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.type, info.size = kind, 2**33
        content = info.tobuf(tarfile.GNU_FORMAT) + bytes(10**5)
        yield "archive/cifar-10-python.tar.gz", content
        yield "packed/cifar-10-python.tar.gz", gzip.compress(content)
    many = b"".join(tarfile.TarInfo(f"{i}").tobuf() for i in range(10**5))
    yield "packed/cifar-10-python.tar.gz", gzip.compress(many, 1)
    yield "packed/cifar-10-python.tar.gz", gzip.compress(bytes(2**28), 1)


def zipped(files: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_zip(folder: pathlib.Path) -> list[Target]:
    files = {f"{name}/{i}.png": bytes(50) + b"x" * i for name in "ab" for i in range(3)}
    for name, compression in (("a", zipfile.ZIP_STORED), ("b", zipfile.ZIP_DEFLATED)):
        (folder / name).mkdir()
        (folder / name / "train.zip").write_bytes(zipped(files, compression))
    return whole_files(folder)


def crafted_zip() -> Iterator[tuple[str, bytes]]:
    bomb = {f"a/{i}.png": bytes(2**28) for i in range(1)}
    yield "b/train.zip", zipped(bomb, zipfile.ZIP_DEFLATED)
    whole = zipped({"a/1.png": b"x" * 99, "b/1.png": b"y" * 99}, zipfile.ZIP_STORED)
    central = whole.index(b"PK\x01\x02")
    for field in (20, 24, 42):  # sizes and offset
        for value in (2**31, 2**32 - 2, 2**32 - 1):
            changed = bytearray(whole)
            changed[central + field : central + field + 4] = struct.pack("<I", value)
            yield "a/train.zip", bytes(changed)
    for value in (2**34, 2**62, 2**63, 2**64 - 1):  # the same in 64 bits
        for field in (20, 24, 42):
            extra = struct.pack("<HHQ", 1, 8, value)
            changed = bytearray(whole)
            changed[central + field : central + field + 4] = b"\xff" * 4
            changed[central + 30 : central + 32] = struct.pack("<H", len(extra))
            name_end = central + 46 + len("a/1.png")
            changed[name_end:name_end] = extra
            size = struct.unpack_from("<I", changed, len(changed) - 10)[0]
            changed[-10:-6] = struct.pack("<I", size + len(extra))
            yield "a/train.zip", bytes(changed)


def write_csv(folder: pathlib.Path) -> list[Target]:
    for name in ("a.png", "b.png", "ü.png"):
        (folder / name).write_bytes(bytes(9))
    rows = 'path,label\na.png,cat\n"b.png","do""g"\nü.png,cat\n'
    (folder / "train.csv").write_text(rows, encoding="utf-8")
    (folder / "plain.csv").write_text("a.png,0\nb.png,1\nü.png,2\n", encoding="utf-8")
    (folder / "tabs.tsv").write_text(rows.replace(",", "\t"), encoding="utf-8")
    return [target for target in whole_files(folder) if not target.name.endswith("png")]


def crafted_csv() -> Iterator[tuple[str, bytes]]:
    yield "train.csv", b'"' * 10**7
    yield "train.csv", b"a.png," + b"x" * 10**7
    yield "train.csv", b"a.png,0\n" * 2 * 10**4
    yield "train.csv", b"," * 10**6
    yield "train.csv", b"a.png,\0\n"
    yield "train.csv", b"a\0.png,1\n"
    yield "train.csv", b"\xff\xfe" + "a.png,1\n".encode("utf-16-le")
    yield "train.csv", b"x" * 10**6 + b",1\n"
    for label in (b"20231105", b"9" * 30, b"9" * 5000, "٣".encode(), b"-0", b"1_0", b" 1"):
        yield "train.csv", b"a.png,0\nb.png," + label + b"\n"


class Records(Source):
    class_names = ("a", "b")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        image = np.zeros((4, 4, 3), np.uint8) if index else bad_files.image()
        return {"image": image, "label": index % 2}

    def describe(self, index: int) -> str:
        return f"a/{index}.png"


def array_record(records: list[bytes]) -> bytes:
    from array_record.python.array_record_module import ArrayRecordWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = ArrayRecordWriter(f"{folder}/x", "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return pathlib.Path(folder, "x").read_bytes()


HEAD = {"format": "jaxvision-1", "class_names": ["a", "b"]}
PIXELS = {"label": 1, "name": "a/1.png", "shape": [2, 2, 3]}


def record(header: object, image: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + image


def write_records(folder: pathlib.Path) -> list[Target]:
    write_array_record(Records(), str(folder / "train.array_record"))
    first, second = record(HEAD), record(PIXELS, bytes(12))
    return [
        *whole_files(folder),
        Target("train.array_record", first, lambda head: array_record([head, second])),
        Target("train.array_record", second, lambda body: array_record([first, body, second])),
    ]


def crafted_records() -> Iterator[tuple[str, bytes]]:
    heads = [
        [], 3, {}, HEAD | {"class_names": 3}, HEAD | {"class_names": [[1]]},
        HEAD | {"format": [1]}, b"[" * 10**6, b"9" * 10**5, b"\xff", b"",
    ]  # fmt: skip
    bodies = [
        [], 3, {}, PIXELS | {"label": -1}, PIXELS | {"label": 2}, PIXELS | {"label": 2**70},
        PIXELS | {"label": "1"}, PIXELS | {"label": None}, PIXELS | {"label": True},
        PIXELS | {"shape": [2**40, 3]}, PIXELS | {"shape": 3}, PIXELS | {"shape": "x"},
        PIXELS | {"shape": [12]}, PIXELS | {"shape": [-1, 2, 3]}, PIXELS | {"shape": [2, 2, -3]},
        PIXELS | {"shape": None}, PIXELS | {"name": 3}, b"[" * 10**6, b'{"label":1' + b"0" * 10**5,
    ]  # fmt: skip
    for head in heads:
        yield "train.array_record", array_record([record(head), record(PIXELS, bytes(12))])
    for body in bodies:
        yield "train.array_record", array_record([record(HEAD), record(body, bytes(12))])
    for body in (b"", b"\xff", b"\xff\xff\xff\xff", record(PIXELS)):
        yield "train.array_record", array_record([record(HEAD), body])
        yield "train.array_record", array_record([body])
    yield "train.array_record", array_record([])


def write_images(folder: pathlib.Path) -> list[Target]:
    options: dict[str, dict[str, Any]] = {
        "jpg": {"format": "JPEG"}, "progressive.jpg": {"format": "JPEG", "progressive": True},
        "png": {"format": "PNG"}, "webp": {"format": "WEBP"}, "gif": {"format": "GIF"},
        "bmp": {"format": "BMP"}, "ppm": {"format": "PPM"}, "tif": {"format": "TIFF"},
        "lzw.tif": {"format": "TIFF", "compression": "tiff_lzw"},
        "jpeg.tif": {"format": "TIFF", "compression": "jpeg"},
    }  # fmt: skip
    pixels = PIL.Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    )
    for suffix, how in options.items():
        pixels.save(folder / f"a.{suffix}", **how)
    pixels.convert("P").save(folder / "palette.png")
    pixels.convert("CMYK").save(folder / "cmyk.jpg")
    pixels.convert("I;16").save(folder / "16.png")
    return whole_files(folder)


def crafted_images() -> Iterator[tuple[str, bytes]]:
    yield "a.png", bad_files.bomb()
    yield "a.ppm", b"P6 1000000 1000000 255\n"
    yield "a.ppm", b"P6 " + b"9" * 10**5 + b" 1 255\n"
    yield "a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def write_json(folder: pathlib.Path) -> list[Target]:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)]
    captions = [{"image_id": i, "caption": "a dog"} for i in range(2)]
    content: dict[str, object] = {
        "captions_train.json": {"images": images, "annotations": captions},
        "real.json": [[1], [2, 3], []],
        "results.json": captions,
        "vocabulary.json": {"words": ["<NULL>", "<START>", "<END>", "<UNK>", "a", "dog"]},
        "run/config.json": {"model": {"name": "vit_b16", "kwargs": {}}, "seed": 0},
    }
    (folder / "run/checkpoints/10").mkdir(parents=True)
    for name, value in content.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n')
    (folder / "run/classes.txt").write_text("a\nb\n")
    return whole_files(folder)


def read_json(folder: pathlib.Path, path: pathlib.Path) -> None:
    if path.name == "real.json":
        read_real_labels(str(path), NoImages(), num_classes=10)
    elif path.name == "results.json":
        read_candidates(str(path), read_references(str(folder / "captions_train.json")))
    elif path.name == "vocabulary.json":
        load_vocabulary(str(path))
    elif path.name == "metrics.jsonl":
        read_metrics(folder)
    elif path.parent.name == "run":
        open_run(path.parent)
    else:
        read_coco_captions(str(folder), "train")


class NoImages(Records):
    def __len__(self) -> int:
        return 0


def crafted_json() -> Iterator[tuple[str, bytes]]:
    names = ("captions_train.json", "real.json", "results.json", "vocabulary.json",
             "run/config.json", "metrics.jsonl")  # fmt: skip
    texts = (
        b"[" * 10**6, b'{"a":' * 10**6, b"9" * 10**5, b"[1]", b"{}", b"3", b"null", b"NaN", b"",
        b"\xff", b"\xef\xbb\xbf{}", b'{"step": 1e999}', b'{"a": ' + b"1" * 10**5 + b"}\n{}\n",
        b'{"images": [{"id": 9223372036854775808, "file_name": "a"}], "annotations": []}',
        b'{"images": [{"id": ' + b"1" * 4000 + b', "file_name": "a"}],'
        b'"annotations": [{"image_id": '
        + b"1" * 4000 + b', "caption": "a"}]}',
        b'{"words": [[]]}', b'{"words": 3}', b'{"tokenizer": {}}', b'{"tokenizer": 3}',
    )  # fmt: skip
    for name in names:
        for text in texts:
            yield name, text


def source_reader(new: Callable[[pathlib.Path, pathlib.Path], Source]):
    return lambda folder, path: read_all(new(folder, path))


def weights_reader(folder: pathlib.Path, path: pathlib.Path) -> None:
    read_weights(path)


READERS = {
    "pth": Reader(weights_reader, write_pth, crafted_pth),
    "legacy": Reader(weights_reader, write_legacy, crafted_legacy),
    "safetensors": Reader(weights_reader, write_safetensors, crafted_safetensors),
    "npz": Reader(weights_reader, write_npz, crafted_npz),
    "cifar": Reader(read_cifar, write_cifar, crafted_cifar),
    "zip": Reader(
        source_reader(lambda folder, path: FolderSource(str(path.parent), "train")),
        write_zip,
        crafted_zip,
    ),
    "csv": Reader(
        source_reader(lambda folder, path: ListSource(str(folder), path.name)),
        write_csv,
        crafted_csv,
    ),
    "array_record": Reader(
        source_reader(lambda folder, path: ArrayRecordSource(str(folder), "train")),
        write_records,
        crafted_records,
    ),
    "images": Reader(
        lambda folder, path: decode_image(path.read_bytes(), max_pixels=10**6),
        write_images,
        crafted_images,
    ),
    "json": Reader(read_json, write_json, crafted_json),
}
