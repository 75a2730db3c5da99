"""The arrays that a compiled program holds where it holds most."""

import collections
import dataclasses
import itertools
import re
from typing import Any

from jaxvision.profiling.hlo import Array, Instruction, Program

# Operations whose result is their operand, under another name.
_ALIASES = ("bitcast", "opt-barrier", "while", "fusion-done", "copy-done", "async-done")


@dataclasses.dataclass(frozen=True)
class Held:
    """Arrays of one shape that are held at once.

    Attributes:
      array: Shape and dtype of each.
      count: Number of arrays.
    """

    array: Array
    count: int

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return self.count * self.array.bytes

    @property
    def is_scores(self) -> bool:
        """Whether they look like those of attention: as many rows as columns, in a batch."""
        shape = self.array.shape
        return len(shape) > 2 and shape[-2] == shape[-1]

    def __str__(self) -> str:
        times = f"{self.count} x " if self.count > 1 else ""
        return f"{self.bytes / 1e9:.2f} GB: {times}{self.array}"


@dataclasses.dataclass
class _Buffer:
    array: Array
    first: int  # place of the instruction that writes it
    last: int  # place of the last one that needs it


def held_at_peak(program: Program) -> list[Held]:
    """Returns the arrays that are alive where most bytes are, those that take most first.

    Of a training step these are what the forward pass saves for the backward pass. What the program
    is given does not count, nor what lives only inside the body of a loop.

    Args:
      program: Program whose instructions stand in the order in which they run.
    """
    values: dict[str, Any] = {}  # of each name its buffer, or of a tuple a list of them
    buffers: list[_Buffer] = []
    entry = program.computations[program.entry]
    for now, each in enumerate(entry.values()):
        given = [values[name] for name in each.operands]
        for buffer in _flat(given):
            buffer.last = now
        if each.opcode == "parameter":
            values[each.name] = []
        elif each.opcode == "tuple":
            values[each.name] = given
        elif each.opcode == "get-tuple-element":
            values[each.name] = _element(given[0], each)
        elif each.opcode in _ALIASES:
            values[each.name] = given[0]
        else:
            # What begins asynchronously gives its operands back before its result.
            results = each.results
            if each.opcode.endswith("-start"):
                results = results[len(given) : len(given) + 1]
            new = [_Buffer(array, now, now) for array in results]
            buffers += new
            values[each.name] = new[0] if len(new) == 1 else new

    changes = [0] * (len(entry) + 1)
    for buffer in buffers:
        changes[buffer.first] += buffer.array.bytes
        changes[buffer.last + 1] -= buffer.array.bytes
    totals = list(itertools.accumulate(changes))
    peak = totals.index(max(totals))
    alive = collections.Counter(b.array for b in buffers if b.first <= peak <= b.last)
    held = [Held(array, count) for array, count in alive.items()]
    return sorted(held, key=lambda group: group.bytes, reverse=True)


def _element(value: Any, each: Instruction) -> Any:
    """Returns an element of a tuple; a tuple of one is its element."""
    found = re.search(r"\bindex=(\d+)", each.attributes)
    return value[int(found[1])] if found and isinstance(value, list) and value else value


def _flat(tree: Any) -> list[_Buffer]:
    """Returns the buffers in a tree of lists."""
    return [leaf for part in tree for leaf in _flat(part)] if isinstance(tree, list) else [tree]
