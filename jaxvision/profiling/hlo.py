"""The text of a compiled program, as XLA prints it: computations of instructions."""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "bf16": 2, "token": 0}  # others have their bits in their name
_ARRAY = re.compile(r"\b(pred|token|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_PACKAGE = f"{pathlib.Path(__file__).parents[1]}/"


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a program.

    Attributes:
      dtype: Name of the dtype as XLA writes it, such as "bf16".
      shape: Shape of the array.
    """

    dtype: str
    shape: tuple[int, ...]

    @functools.cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of all elements."""
        bits = re.search(r"\d+", self.dtype)
        width = _BYTES.get(self.dtype) if self.dtype in _BYTES else int(bits[0] if bits else 0) / 8
        return math.ceil(self.size * (width or 0))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: Name of the result.
      opcode: Name of the operation, such as "fusion".
      results: Arrays of the result: several where it is a tuple.
      operands: Names of the operands.
      attributes: Text behind the operands.
      is_root: Whether it is the result of its computation.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(array.bytes for array in self.results)

    @property
    def target(self) -> str:
        """Name of the library's function that a custom call calls; "" for other operations."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def path(self) -> str:
        """Path of the operation in the traced function, such as "jit(train_step)/jvp()/add"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def frame(self) -> int:
        """Number of the frame of the stack that called the operation; 0: it is not known."""
        found = re.search(r"\bstack_frame_id=(\d+)", self.attributes)
        return int(found[1]) if found else 0

    def called(self, *keys: str) -> list[str]:
        """Returns the names of the computations that it calls as one of the given attributes."""
        found = re.findall(
            rf"\b(?:{'|'.join(keys)})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes
        )
        return [name.strip(" %") for many, one in found for name in (many or one).split(",")]

    def dimensions(self, key: str) -> list[int]:
        """Returns a list of numbers among the attributes, `key={1,2}` or `"key":["1","2"]`."""
        found = re.search(rf'\b{key}"?[=:] ?[{{\[]([\d", ]*)', self.attributes)
        return [int(number) for number in re.findall(r"\d+", found[1])] if found else []


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: Instructions by name, in the order in which they run, of each computation.
      entry: Name of the computation that is the program.
      frames: File with line, and number of the caller's frame, by the number of the frame.
    """

    computations: dict[str, Computation]
    entry: str
    frames: dict[int, tuple[str, int]]

    def line(self, instruction: Instruction) -> str:
        """Returns the line of this package that an instruction is from, as "layers/mlp.py:40"."""
        frame = instruction.frame
        while frame in self.frames:
            place, frame = self.frames[frame]
            if place.startswith(_PACKAGE):
                return place.removeprefix(_PACKAGE)
        return ""


def read_program(text: str) -> Program:
    """Returns the program of `compiled.as_text()`.

    Raises:
      ValueError: if the text holds no program.
    """
    computations: dict[str, Computation] = {}
    entry, inside = "", None
    for line in text.split("\n"):
        if line[:1] != " ":
            header = _HEADER.match(line)
            if header:
                inside = computations[header[2]] = {}
                entry = header[2] if header[1] else entry
        elif inside is not None and (found := _INSTRUCTION.match(_COMMENT.sub("", line))):
            root, name, results, opcode, operands, attributes = found.groups()
            inside[name] = Instruction(
                name,
                opcode,
                tuple(arrays_of(results)),
                tuple(re.findall(r"%([\w.\-]+)", operands)),
                attributes,
                bool(root),
            )
    if not entry:
        raise ValueError("The text is no compiled program: it has no ENTRY computation.")
    return Program(computations, entry, _frames(text))


def _frames(text: str) -> dict[int, tuple[str, int]]:
    """Returns the frames of `Program` from the tables before the computations."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', text.partition("FunctionNames")[0], re.MULTILINE))
    places = {
        number: f"{files.get(file, '')}:{line}"
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", text, re.MULTILINE
        )
    }
    frames = re.findall(
        r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}", text, re.MULTILINE
    )
    # The number of the parent is written with 1 added: 0 is no frame.
    return {int(n): (places.get(place, ""), int(parent) - 1) for n, place, parent in frames}


def arrays_of(text: str) -> Iterator[Array]:
    """Yields the arrays of a type such as `(bf16[2,3]{1,0}, s32[])`."""
    for dtype, shape in _ARRAY.findall(text):
        yield Array(dtype, tuple(int(side) for side in shape.split(",") if side))
