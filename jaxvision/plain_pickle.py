"""Reads pickles of plain data, and never calls what a pickle names.

A pickle is a program for a small machine with a stack. Python's own machine can be made to import
and call anything, to hash what takes for ever, and to take memory by announcing it. This one knows
the instructions of which plain containers, numbers and text are made since pickle's protocol 2; a
name stands for what the reader of a format says it does, and whatever is taken lies in the file.
"""

import abc
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from jaxvision.errors import shorten

# Real files need half a million. Each takes a microsecond, and two hundred bytes at most.
_MAX_INSTRUCTIONS = 2_000_000
_MAX_KEY = 2**31  # of whole numbers: larger ones can be chosen so that their hashes collide

_EMPTY: dict[bytes, Callable[[], Any]] = {
    pickle.EMPTY_DICT: dict,
    pickle.EMPTY_LIST: list,
    pickle.EMPTY_TUPLE: tuple,
    pickle.NONE: lambda: None,
    pickle.NEWTRUE: lambda: True,
    pickle.NEWFALSE: lambda: False,
}
_NUMBERS = {
    pickle.BININT: struct.Struct("<i"),
    pickle.BININT1: struct.Struct("<B"),
    pickle.BININT2: struct.Struct("<H"),
    pickle.BINFLOAT: struct.Struct(">d"),
}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# How many bytes hold the length, and what the bytes after it mean. Text of Python 2 stays bytes.
_SIZED: dict[bytes, tuple[int, Callable[[bytes], Any]]] = {
    pickle.SHORT_BINUNICODE: (1, _text),
    pickle.BINUNICODE: (4, _text),
    pickle.BINUNICODE8: (8, _text),
    pickle.SHORT_BINSTRING: (1, bytes),
    pickle.BINSTRING: (4, bytes),
    pickle.SHORT_BINBYTES: (1, bytes),
    pickle.BINBYTES: (4, bytes),
    pickle.BINBYTES8: (8, bytes),
    pickle.BYTEARRAY8: (8, bytes),
    pickle.LONG1: (1, _long),
}
_PUTS = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}
_GETS = {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
_SKIPPED = {pickle.PROTO: 1, pickle.FRAME: 8}


class PickleError(ValueError):
    """What is wrong with a pickle, as the end of a sentence: "it names os.system"."""


class Built(abc.ABC):
    """What is given its state after it was made; of anything else, the state is left out."""

    @abc.abstractmethod
    def build(self, state: Any) -> None:
        """Takes the state, which can be anything."""


def read_pickle(
    data: bytes,
    names: Mapping[str, Any],
    load_persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the object that was pickled; keys of its dictionaries are text or small numbers.

    Args:
      data: Whole pickle, of protocol 2 or newer.
      names: What each name that a pickle may have stands for: "module.name" -> function or value.
        The functions are called with any arguments, and must check them.
      load_persistent: Function from a persistent id, which can be anything, to its object.

    Raises:
      PickleError: if the pickle is broken, or needs anything else.
    """
    try:
        return _Machine(data, names, load_persistent).run()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise PickleError(f"it is broken ({type(error).__name__}: {shorten(error)})") from error


class _Machine:
    """The stack, and what lies below each mark in it."""

    def __init__(self, data: bytes, names: Mapping[str, Any], load_persistent: Any):
        self._data, self._place = data, 0
        self._names, self._load_persistent = names, load_persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._stack.pop()
            self._do(opcode)
        raise PickleError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")

    def _take(self, size: int) -> bytes:
        start, self._place = self._place, self._place + size
        if self._place > len(self._data):
            raise PickleError("it is cut short")
        return self._data[start : self._place]

    def _take_number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take_line(self) -> str:
        end = self._data.find(b"\n", self._place)
        return self._take(max(end - self._place, 0) + 1)[:-1].decode()

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _do(self, opcode: bytes) -> None:
        stack = self._stack
        if opcode in _PUTS:
            self._memo[self._take_number(_PUTS[opcode])] = stack[-1]
        elif opcode == pickle.MEMOIZE:
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in _GETS:
            stack.append(self._memo[self._take_number(_GETS[opcode])])
        elif opcode in _NUMBERS:
            number = _NUMBERS[opcode]
            stack.append(number.unpack(self._take(number.size))[0])
        elif opcode in _SIZED:
            size, convert = _SIZED[opcode]
            stack.append(convert(self._take(self._take_number(size))))
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode == pickle.MARK:
            self._below.append(stack)
            self._stack = []
        elif opcode == pickle.TUPLE:
            items = self._pop_to_mark()
            self._stack.append(tuple(items))
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == pickle.APPEND:
            item = stack.pop()
            _check(stack[-1], list).append(item)
        elif opcode == pickle.APPENDS:
            items = self._pop_to_mark()
            _check(self._stack[-1], list).extend(items)
        elif opcode == pickle.SETITEM:
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif opcode == pickle.SETITEMS:
            items = self._pop_to_mark()
            _set_items(self._stack[-1], items)
        elif opcode == pickle.GLOBAL:
            module = self._take_line()
            stack.append(self._find(module, self._take_line()))
        elif opcode == pickle.STACK_GLOBAL:
            name, module = stack.pop(), stack.pop()
            stack.append(self._find(_check(module, str), _check(name, str)))
        elif opcode == pickle.REDUCE:
            arguments, function = stack.pop(), stack.pop()
            # Nothing but `names` brings functions: those make data.
            stack.append(function(*_check(arguments, tuple)))
        elif opcode == pickle.BUILD:
            state = stack.pop()
            if isinstance(stack[-1], Built):
                stack[-1].build(state)
        elif opcode == pickle.BINPERSID and self._load_persistent is not None:
            stack.append(self._load_persistent(stack.pop()))
        elif opcode == pickle.POP:
            stack.pop()
        elif opcode in _SKIPPED:
            self._take(_SKIPPED[opcode])
        else:
            raise PickleError(f"it has the instruction {opcode!r}, which plain data does not need")

    def _find(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._names:
            raise PickleError(
                f"it names {shorten(full_name)}, which is neither plain data nor an array"
            )
        return self._names[full_name]


def _check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise PickleError(f"it takes a {type(value).__name__} for a {kind.__name__}")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    _check(target, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Tuples of tuples take for ever to hash.
        if not isinstance(key, str | bytes) and not (isinstance(key, int) and abs(key) < _MAX_KEY):
            raise PickleError("it has a dictionary whose keys are neither text nor small numbers")
        target[key] = value
