"""Reads pickles of plain data and numpy arrays of bytes or whole numbers, without numpy's help.

What numpy's own functions are told by a pickle they believe: a dtype's flags can turn bytes of the
file into pointers, and an array may be longer than its data.
"""

import math
from typing import Any

import numpy as np

from jaxvision.plain_pickle import Built, PickleError, read_pickle

_CODES = {"u1": np.dtype("u1"), "i8": np.dtype("<i8")}
_NO_ARRAY = "it has an array that is not of uint8 or int64, or not of its size"


def read_arrays(data: bytes) -> Any:
    """Returns the object that was pickled, by numpy 1 or 2, of Python 2 or 3.

    Text of Python 2 becomes bytes, a numpy number an int; arrays are found as values of the
    outermost dictionary, read-only.

    Args:
      data: Whole pickle, of protocol 2 or newer.

    Raises:
      PickleError: if the pickle is broken, or holds anything else.
    """
    names: dict[str, Any] = {
        "numpy.dtype": _Dtype,
        "numpy.ndarray": None,
        "_codecs.encode": _Encoder(len(data)),
    }
    for numpy in ("numpy.core", "numpy._core"):  # of numpy 1 and 2
        names[f"{numpy}.multiarray._reconstruct"] = lambda *empty: _Array()
        names[f"{numpy}.multiarray.scalar"] = _scalar
        names[f"{numpy}.numeric._frombuffer"] = _from_buffer
    content = read_pickle(data, names)
    if isinstance(content, dict):
        return {key: x.values() if isinstance(x, _Array) else x for key, x in content.items()}
    return content


class _Dtype(Built):
    """A dtype, by its code; numpy gives it a state that says no more."""

    def __init__(self, code: Any, *flags: Any):
        del flags  # align, copy
        code = str(code, "ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code not in _CODES:
            raise PickleError(_NO_ARRAY)
        self.dtype = _CODES[code]

    def build(self, state: Any) -> None:
        orders = ("|", b"|", "<", b"<")
        if not any(state == (3, order, None, None, None, -1, -1, 0) for order in orders):
            raise PickleError("it has a dtype that is none of a plain array")


class _Array(Built):
    """An array that may get its shape and numbers only after something has referred to it."""

    _values: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise PickleError(_NO_ARRAY)
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise PickleError(_NO_ARRAY)
        if len(shape) > 2 or math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise PickleError(_NO_ARRAY)
        flat = np.frombuffer(data, dtype.dtype)
        self._values = flat.reshape(shape, order="F" if is_fortran is True else "C")

    def values(self) -> np.ndarray:
        if self._values is None:
            raise PickleError(_NO_ARRAY)
        return self._values


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.build((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> int:
    array = _Array()
    array.build((1, (), dtype, False, data))
    return int(array.values())


class _Encoder:
    """How Python 3 writes bytes in protocol 2: as text of which each character is a byte."""

    def __init__(self, limit: int):
        self._left = limit  # the same text may be encoded many times

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise PickleError("it has bytes that are not written as numpy does")
        self._left -= len(text)
        if self._left < 0:
            raise PickleError("its bytes are more than the file has")
        return text.encode("latin1")
