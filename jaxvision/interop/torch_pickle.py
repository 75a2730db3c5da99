"""What the names mean in a pickle of tensors or arrays, whose numbers are read when asked for.

Unpickling may call whatever a file names. Here the few names that tensors and arrays need are
known, none of which does more than check its arguments; all others are inert.
"""

import abc
import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from jaxvision.errors import shorten
from jaxvision.plain_pickle import Built, Inert, PickleError, set_items

# By torch's names. What a model cannot have for weights is known here too, to be refused by name.
_DTYPES = {
    **{name: np.dtype(name).newbyteorder("<") for name in (
        "float64", "float32", "float16", "int64", "int32", "int16", "int8",
        "uint8", "uint16", "uint32", "uint64", "complex64", "complex128", "bool",
    )},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in (
        "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )},
}  # fmt: skip
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.QInt8Storage": "int8",
    "torch.QUInt8Storage": "uint8",
    "torch.QInt32Storage": "int32",
    "torch.storage.UntypedStorage": "uint8",
    "torch.storage._UntypedStorage": "uint8",
}
_MADE_OF_A_TENSOR = (
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_device_tensor_from_cpu_tensor",
)
_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_MAX_RANK = 64  # numpy's
# Of a file's bytes, those of its tensors: a few may be views of the same numbers, not thousands.
_MAX_VIEWS = 8
_SMALL_BYTES = 2**24

# What torch makes of tensors that are no plain table of numbers.
_OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor of the meta device, without numbers",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of another class",
    "torch._tensor._rebuild_from_type_v2": "a tensor of another class",
    "torch.storage._load_from_bytes": "a tensor that was pickled without torch.save",
    "numpy.ndarray": "an array of objects, text or reversed bytes",
}


class Storages(abc.ABC):
    """The numbers of a file's tensors, each storage read once it is asked for."""

    def __init__(self, size_bytes: int):
        self._read: dict[str, np.ndarray] = {}
        self._left = _SMALL_BYTES + _MAX_VIEWS * size_bytes  # that tensors may still have

    @abc.abstractmethod
    def read_bytes(self, key: str) -> np.ndarray:
        """Returns the bytes of a storage."""

    def load(self, storage: "Storage") -> np.ndarray:
        """Returns the numbers; several tensors may share them, so they are read once."""
        if storage.key not in self._read:
            self._read[storage.key] = self.read_bytes(storage.key)
        values = self._read[storage.key]
        if storage.total * storage.dtype.itemsize != len(values):
            raise PickleError(f"data/{storage.key} does not have as many numbers as it should")
        return values.view(storage.dtype)[storage.start : storage.start + storage.count]

    def take(self, size_bytes: int) -> None:
        """Takes what a tensor needs from the bytes that all may have."""
        self._left -= size_bytes
        if self._left < 0:
            raise PickleError(f"its tensors have more than {_MAX_VIEWS} times the file's bytes")


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers in a row, `count` of the `total` in the file from `start`."""

    storages: Storages
    key: str
    dtype: np.dtype
    start: int
    count: int
    total: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The part of a storage that a tensor sees; nothing of it lies outside.

    Equal tensors are the same numbers of the same file.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Returns the numbers in C order."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        values = self.storage.storages.load(self.storage).view(self.dtype)
        self.storage.storages.take(math.prod(self.shape) * self.dtype.itemsize)
        offset, *steps = (n * self.dtype.itemsize for n in (self.offset, *self.strides))
        return np.asarray(np.ndarray(self.shape, self.dtype, values, offset, steps), order="C")


def what_it_is(value: Any) -> str:
    """Returns in words what stands in the place of a weight."""
    if isinstance(value, Array):
        return _OTHER_TENSORS["numpy.ndarray"]
    if isinstance(value, Inert):
        other = f"an object of {shorten(value.name, 100)}, whose code is not run"
        return _OTHER_TENSORS.get(value.name, other)
    return f"a {type(value).__name__}"


def is_other_tensor(value: Any) -> bool:
    """Returns whether an object is a tensor or array that cannot be read."""
    known = isinstance(value, Inert) and value.name in _OTHER_TENSORS
    return known or (isinstance(value, Array) and value.values is None)


class Meanings:
    """The names that a pickle may have, and its persistent ids.

    Attributes:
      storages: Numbers of the tensors; None: of a file without any.
      names: What each name stands for, see `read_pickle`.
    """

    def __init__(self, size_bytes: int, storages: Storages | None = None):
        self.storages = storages
        self._items_left = size_bytes  # of ordered dictionaries: lists of items can be repeated
        self._text_left = size_bytes  # and so can text
        self._made_of_a_tensor = lambda data, *rest: data
        self.names: dict[str, Any] = {
            "collections.OrderedDict": self._ordered,
            "torch._utils._rebuild_tensor": self._rebuild,
            "torch._utils._rebuild_tensor_v2": self._rebuild,
            "torch._utils._rebuild_tensor_v3": self._rebuild_3,
            "torch._tensor._rebuild_from_type": self._rebuild_class,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_class,
            **{f"torch._utils.{name}": self._made_of_a_tensor for name in _MADE_OF_A_TENSOR},
            **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
            **{name: _DTYPES[dtype] for name, dtype in _STORAGES.items()},
            **{f"{builtins}.set": _set for builtins in ("builtins", "__builtin__")},
            "numpy.dtype": _dtype,
            "_codecs.encode": self._encode,
        }
        for numpy in ("numpy.core", "numpy._core"):  # of numpy 1 and 2
            self.names[f"{numpy}.multiarray._reconstruct"] = lambda *empty: Array()
            self.names[f"{numpy}.numeric._frombuffer"] = _from_buffer

    def load_persistent(self, pid: Any) -> Any:
        """Returns a storage, which torch names by (kind, dtype, key, device, count[, view])."""
        kind, dtype, *rest = pid
        if _text(kind) == "module":  # a class, beside which older files have its source
            return dtype
        if _text(kind) != "storage" or self.storages is None:
            raise PickleError("it has data that is not a tensor's")
        if isinstance(dtype, Inert):
            return dtype
        key, _, count, *view = rest
        key = _text(key)
        if not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_count(count):
            raise PickleError("it has data that is not a tensor's")
        start, total = 0, count
        if view and view[0] is not None:
            _, start, count = view[0]
            if not _is_count(start) or not _is_count(count) or start + count > total:
                raise PickleError("it has a view that reaches beyond its data")
        return Storage(self.storages, key, dtype, start, count, total)

    def _ordered(self, *items: Any) -> dict:
        """Returns an ordered dictionary, whose items Python 2 gives as a list of pairs."""
        made: dict[Any, Any] = {}
        for pairs in items:
            if not isinstance(pairs, list | tuple):
                raise PickleError("it has an ordered dictionary that is none")
            self._items_left -= len(pairs)
            if self._items_left < 0:
                raise PickleError("its dictionaries have more items than the file has bytes")
            for pair in pairs:
                key, value = pair
                set_items(made, [key, value], inert=True)
        return made

    def _rebuild(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
    ) -> Tensor | Inert:
        del rest  # requires_grad, hooks
        if isinstance(storage, Inert):
            return storage
        dtype = storage.dtype if isinstance(storage, Storage) else None
        return _tensor(storage, offset, shape, strides, dtype)

    def _rebuild_3(
        self, storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any,
        dtype: Any, *rest: Any,
    ) -> Tensor | Inert:  # fmt: skip
        """Returns a tensor whose storage is of bytes."""
        del grad, hooks, rest
        if isinstance(storage, Inert) or isinstance(dtype, Inert):
            return storage if isinstance(storage, Inert) else dtype
        return _tensor(storage, offset, shape, strides, dtype)

    def _rebuild_class(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """Returns the tensor in one that has attributes, or whose class is another."""
        del kind, state
        if not isinstance(arguments, tuple):
            raise PickleError("it has a tensor that is none")
        plain = (self._rebuild, self._rebuild_3, self._made_of_a_tensor)
        if function in plain:
            return function(*arguments)
        return Inert(getattr(function, "name", "torch._tensor._rebuild_from_type_v2"))

    def _encode(self, text: Any, encoding: Any) -> bytes | Inert:
        """Returns bytes, which Python 3 writes in protocol 2 as text of a character a byte."""
        if not isinstance(text, str) or encoding != "latin1":
            return Inert("_codecs.encode")
        self._text_left -= len(text)
        if self._text_left < 0:
            raise PickleError("its bytes are more than the file has")
        return text.encode("latin1")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any) -> Tensor:
    """Returns a tensor, once it is sure that it is one and reaches nowhere."""
    fits = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(dtype, np.dtype)
    fits = fits and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_RANK
    if not fits or not all(map(_is_count, (offset, *shape, *strides))):
        raise PickleError("it has a tensor that is none")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        size = storage.count * storage.dtype.itemsize // dtype.itemsize
        if last >= size or math.prod(shape) > size:
            raise PickleError("it has a tensor that reaches beyond its data")
    return Tensor(storage, dtype, offset, shape, strides)


def _set(*items: Any) -> Inert:
    return Inert("a set", items[0] if items and isinstance(items[0], list) else [])


def _is_count(number: Any) -> bool:
    return type(number) is int and number >= 0


def _text(value: Any) -> Any:
    """Returns text, also that of Python 2."""
    return value.decode("latin1") if isinstance(value, bytes) else value


# --- numpy --------------------------------------------------------------------------------------


class _Dtype(Built):
    """A dtype of numbers; numpy gives it a state that tells the order of bytes."""

    def __init__(self, code: str):
        self.dtype: np.dtype | None = np.dtype(f"<{code}")

    def build(self, state: Any) -> None:
        orders = ("|", b"|", "<", b"<")
        if not any(state == (3, order, None, None, None, -1, -1, 0) for order in orders):
            self.dtype = None


def _dtype(code: Any, *flags: Any) -> _Dtype | Inert:
    del flags  # align, copy
    code = _text(code)
    known = isinstance(code, str) and code in _NUMPY_CODES
    return _Dtype(code) if known else Inert("numpy.dtype")


class Array(Built):
    """An array, which may get its numbers only after something has referred to it.

    Attributes:
      values: Numbers; None: it holds something else, or has not as many as its shape says.
    """

    values: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """Takes the state that numpy gives an array."""
        if not isinstance(state, tuple) or len(state) != 5:
            return
        _, shape, dtype, is_fortran, data = state
        dtype = dtype.dtype if isinstance(dtype, _Dtype) else None
        shaped = isinstance(shape, tuple) and all(map(_is_count, shape))
        if dtype is None or not isinstance(data, bytes) or not shaped or len(shape) > _MAX_RANK:
            return
        if math.prod(shape) * dtype.itemsize == len(data):
            flat = np.frombuffer(data, dtype)
            self.values = flat.reshape(shape, order="F" if is_fortran is True else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.build((1, shape, dtype, order == "F", data))
    return array
