"""Reads pickles of plain data, and never calls or imports what a pickle names.

A pickle is a program for a small machine with a stack. Python's own machine can be made to import
and call anything, to hash what takes for ever, and to take memory by announcing it. This one knows
the instructions of which plain containers, numbers and text are made since pickle's protocol 2; a
name stands for what the reader of a format says it does, and whatever is taken lies in the file.
Any other name is refused or, for a reader that wants a part of the pickle only, inert.
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


class Inert:
    """A name that the reader does not know, or anything made of it, however it is called or filled.

    Attributes:
      name: Full name, "module.name", or what it is in words.
      state: Object that was to become its attributes, which can be anything; None: none.
      items: Items of a set; of anything else, none.
    """

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str, items: list[Any] | None = None):
        self.name, self.state, self.items = name, None, items


def read_pickle(
    data: bytes,
    names: Mapping[str, Any],
    load_persistent: Callable[[Any], Any] | None = None,
    *,
    inert: bool = False,
) -> Any:
    """Returns the object that was pickled; keys of its dictionaries are text or small numbers.

    Args:
      data: Whole pickle, of protocol 2 or newer.
      names: What each name that a pickle may have stands for: "module.name" -> function or value.
        The functions are called with any arguments, and must check them.
      load_persistent: Function from a persistent id, which can be anything, to its object.
      inert: Whether other names, and all that is made of them, sets, and keys of other kinds become
        objects of `Inert`; False: they are refused.

    Raises:
      PickleError: if the pickle is broken, or needs anything else.
    """
    return read_next_pickle(data, 0, names, load_persistent, inert=inert)[0]


def read_next_pickle(
    data: Any,
    start: int,
    names: Mapping[str, Any],
    load_persistent: Callable[[Any], Any] | None = None,
    *,
    inert: bool = False,
) -> tuple[Any, int]:
    """Returns the object of one of several pickles, and the place behind it.

    Args:
      data: Bytes of the file, or a map of it.
      start: Place of the pickle's first byte.
      names: What each name stands for, see `read_pickle`.
      load_persistent: Function from a persistent id to its object, see `read_pickle`.
      inert: Whether other names are inert, see `read_pickle`.

    Raises:
      PickleError: as `read_pickle`.
    """
    machine = _Machine(data, start, names, load_persistent, inert)
    try:
        return machine.run(), machine.place
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise PickleError(f"it is broken ({type(error).__name__}: {shorten(error)})") from error


class _Machine:
    """The stack, and what lies below each mark in it."""

    def __init__(
        self,
        data: Any,
        start: int,
        names: Mapping[str, Any],
        load_persistent: Any,
        inert: bool,
    ):
        self._data, self.place = data, start
        self._names, self._load_persistent, self._inert = names, load_persistent, inert
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
        start, self.place = self.place, self.place + size
        if self.place > len(self._data):
            raise PickleError("it is cut short")
        return self._data[start : self.place]

    def _take_number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take_line(self) -> str:
        end = self._data.find(b"\n", self.place)
        return self._take(max(end - self.place, 0) + 1)[:-1].decode()

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
            self._extend(stack[-1], [item])
        elif opcode == pickle.APPENDS:
            items = self._pop_to_mark()
            self._extend(self._stack[-1], items)
        elif opcode == pickle.SETITEM:
            value, key = stack.pop(), stack.pop()
            self._set_items(stack[-1], [key, value])
        elif opcode == pickle.SETITEMS:
            items = self._pop_to_mark()
            self._set_items(self._stack[-1], items)
        elif opcode == pickle.GLOBAL:
            module = self._take_line()
            stack.append(self._find(module, self._take_line()))
        elif opcode == pickle.STACK_GLOBAL:
            name, module = stack.pop(), stack.pop()
            stack.append(self._find(_check(module, str), _check(name, str)))
        elif opcode == pickle.REDUCE:
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif opcode == pickle.BUILD:
            state = stack.pop()
            if isinstance(stack[-1], Built):
                stack[-1].build(state)
            elif isinstance(stack[-1], Inert):
                stack[-1].state = state
        elif opcode == pickle.BINPERSID and self._load_persistent is not None:
            stack.append(self._load_persistent(stack.pop()))
        elif opcode == pickle.POP:
            stack.pop()
        elif opcode in _SKIPPED:
            self._take(_SKIPPED[opcode])
        elif not self._inert or not self._do_inert(opcode):
            raise PickleError(f"it has the instruction {opcode!r}, which plain data does not need")

    def _do_inert(self, opcode: bytes) -> bool:
        """Does what only objects need that stay inert; returns whether it knows the instruction."""
        stack = self._stack
        if opcode == pickle.NEWOBJ:
            arguments, kind = stack.pop(), stack.pop()
            stack.append(self._call(kind, arguments))
        elif opcode == pickle.NEWOBJ_EX:
            del stack[-2:]
            stack.append(Inert(_check(stack.pop(), Inert).name))
        elif opcode == pickle.OBJ:
            kind, *arguments = self._pop_to_mark()
            self._stack.append(self._call(kind, tuple(arguments)))
        elif opcode == pickle.EMPTY_SET:
            stack.append(Inert("a set", []))
        elif opcode == pickle.FROZENSET:
            items = self._pop_to_mark()
            self._stack.append(Inert("a set", items))
        elif opcode == pickle.ADDITEMS:
            items = self._pop_to_mark()
            self._extend(self._stack[-1], items)
        elif opcode == pickle.POP_MARK:
            self._pop_to_mark()
        else:
            return False
        return True

    def _call(self, function: Any, arguments: Any) -> Any:
        arguments = _check(arguments, tuple)
        if isinstance(function, Inert):
            return Inert(function.name)
        # Nothing but `names` brings functions: those make data.
        return function(*arguments)

    def _find(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name in self._names:
            return self._names[full_name]
        if self._inert:
            return Inert(full_name)
        raise PickleError(
            f"it names {shorten(full_name)}, which is neither plain data nor an array"
        )

    def _extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, Inert):
            _check(target, list).extend(items)
        elif target.items is not None:
            target.items.extend(items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, Inert):
            set_items(_check(target, dict), items, inert=self._inert)


def _check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise PickleError(f"it takes a {type(value).__name__} for a {kind.__name__}")
    return value


def set_items(target: dict, items: list[Any], *, inert: bool = False) -> None:
    """Puts keys and values into a dictionary, if its keys can be hashed in no time.

    Args:
      target: Dictionary to fill.
      items: Key, value, key, value, ...
      inert: Whether another key becomes an object of `Inert`; False: it is refused.

    Raises:
      PickleError: if a key is neither text nor a small number.
    """
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Tuples of tuples take for ever to hash.
        if not isinstance(key, str | bytes) and not (isinstance(key, int) and abs(key) < _MAX_KEY):
            if not inert:
                raise PickleError(
                    "it has a dictionary whose keys are neither text nor small numbers"
                )
            key = Inert("a key")
        target[key] = value
