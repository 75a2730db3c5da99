"""Pickles of plain data are read as pickle reads them; anything else is refused, soon."""

import collections
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from jaxvision import plain_pickle
from jaxvision.data.sources.array_pickle import read_arrays
from jaxvision.plain_pickle import PickleError, read_pickle

NUMBERS = [1, 255, 256, 65536, -1, -(2**31), 2**31, 2**100, -(2**64)]
PLAIN = {
    "a": NUMBERS,
    b"b": (0.5, float("inf"), True, False, None, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    3: {"ü\ud800": b"\xff\0" * 200, -7: {}, "long": "x" * 70_000, "": []},
    "again": (NUMBERS, "a"),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data(protocol):
    assert read_pickle(pickle.dumps(PLAIN, protocol), {}) == pickle.loads(
        pickle.dumps(PLAIN, protocol)
    )
    many = [b"%d" % i for i in range(300)]  # more than a byte of memo
    assert read_pickle(pickle.dumps([many, many], protocol), {}) == [many, many]


def test_names_stand_for_what_the_reader_says():
    ordered = pickle.dumps(collections.OrderedDict(x=1), 2)
    assert read_pickle(ordered, {"collections.OrderedDict": lambda: {}}) == {"x": 1}
    with pytest.raises(PickleError, match="it names collections.OrderedDict"):
        read_pickle(ordered, {})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_as_numpy_writes_them(protocol):
    rng = np.random.default_rng(0)
    data = {
        b"bytes": rng.integers(0, 256, (3, 5), dtype=np.uint8),
        b"numbers": rng.integers(-(2**62), 2**62, 7),
        b"columns": np.asfortranarray(rng.integers(0, 256, (3, 5), dtype=np.uint8)),
        b"none": np.empty((0, 4), np.int64),
        b"list": [np.int64(-3), np.uint8(200), 4],
    }
    if protocol == 2:
        del data[b"none"]  # written as a call of bytes()
    numpy_2 = pickle.dumps(data, protocol)
    numpy_1 = numpy_2.replace(b"cnumpy._core", b"cnumpy.core")
    for content in (numpy_2, numpy_1):
        found = read_arrays(content)
        assert found.keys() == data.keys() and found.pop(b"list") == [-3, 200, 4]
        for name, array in found.items():
            assert array.dtype == data[name].dtype
            np.testing.assert_array_equal(array, data[name])


TEXT = b"X" + struct.pack("<I", 2**20) + b"x" * 2**20
ENCODE = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\nU\x02%bK\x00K\x01\x87R"
STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ctb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
HOSTILE = {
    "code": (b"cos\nsystem\nU\x04true\x85R.", "it names os.system"),
    "terminal": (b"c\x1b[2J\nx\n.", r"it names \\x1b\[2J.x"),
    "long-name": (b"c" + b"x" * 10**6 + b"\nx\n.", "it names x+ ... x+[.]x,"),
    "no-function": (b"]K\x01\x85R.", "'list' object is not callable"),
    "ndarray": (b"cnumpy\nndarray\nM\xe8\x03\x85\x85R.", "not callable"),
    "dtype-flags": (DTYPE % b"u1" + STATE % b"\x3f" + b".", "none of a plain array"),
    "dtype-fields": (
        DTYPE % b"u1" + b"(K\x03U\x01|NU\x01x\x85}U\x01xN\x85s" + b"K\x01K\x01K\x00tb.",
        "none of a plain array",
    ),
    "dtype-objects": (DTYPE % b"O8" + b".", "not of uint8 or int64"),
    "short-data": (
        ARRAY + b"(K\x01M\x10'M\x10'\x86" + DTYPE % b"u1" + b"\x89U\x01xtb.",
        "not of its size",
    ),
    "negative-shape": (
        ARRAY + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + DTYPE % b"u1" + b"\x89U\x01xtb.",
        "not of its size",
    ),
    "empty-array": (b"}U\x01x" + ARRAY + b"s.", "not of its size"),
    "setitem-in-array": (ARRAY + b"K\x05K\x01s.", "takes a _Array for a dict"),
    "chained-codecs": (ENCODE + b"U\x02abU\x09hex_codec\x86R.", "not written as numpy does"),
    "other-codec": (ENCODE + b"X\x02\0\0\0abX\x05\0\0\0utf32\x86R.", "not written as numpy does"),
    "many-codecs": (
        b"(" + TEXT + b"q\x010X\x06\0\0\0latin1q\x020" + (ENCODE + b"h\x01h\x02\x86R") * 50 + b"l.",
        "more than the file has",
    ),
    "memo-index": (b"}r" + struct.pack("<I", 2**28) + b"j\xff\xff\xff\xff.", "KeyError"),
    "sizes": (b"\x96" + struct.pack("<Q", 3 * 10**9) + b"abc.", "cut short"),
    "huge-sizes": (b"\x8e" + b"\xff" * 8 + b"abc.", "cut short"),
    "long4": (b"\x8b" + struct.pack("<I", 10**8) + b"abc.", "instruction b'.x8b'"),
    "doubled-key": (b"}U\x01x" + b"2\x86" * 60 + b"K\x01s.", "instruction b'2'"),
    "doubled-key-by-memo": (
        b"}K\x01" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"K\x01s.",
        "neither text nor small numbers",
    ),
    "colliding-keys": (
        b"}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N"
                         for i in range(1, 9)) + b"u.",
        "neither text nor small numbers",
    ),
    "nested": (b")" + b"\x85" * 3_000 + b".", "more than 2,000 instructions"),
    "marks": (b"(" * 3_000, "more than 2,000 instructions"),
    "odd-items": (b"}(U\x01xu.", "is broken"),
    "empty-stack": (b".", "is broken"),
    "bytes": (b"\xff\xfe", "instruction"),
    "nothing": (b"", "cut short"),
    "text": (b"X\x01\0\0\0\xff.", "UnicodeDecodeError"),
}  # fmt: skip


@pytest.mark.parametrize(("program", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_programs(program, message, monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MAX_INSTRUCTIONS", 2_000)
    tracemalloc.start()
    try:
        with pytest.raises(PickleError, match=message) as error:
            read_arrays(program)
        assert tracemalloc.get_traced_memory()[1] < 4 * 10**6 + 3 * len(program)
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
