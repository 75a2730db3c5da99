"""The kernels of a program that XLA compiled for a GPU: what each computes and moves."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from jaxvision.profiling.hlo import Array, Computation, Instruction, Program

# Instructions that run nothing on the device, and those whose computations are walked instead.
_NO_KERNEL = {
    "parameter", "constant", "bitcast", "tuple", "get-tuple-element", "opt-barrier", "after-all",
    "partition-id", "replica-id", "copy-done", "fusion-done", "async-done", "async-update",
}  # fmt: skip
_VIEWS = ("bitcast", "reshape")
_SLICES = ("dynamic-slice", "slice", "gather")
_TRANSPOSES = ("transpose", "copy")
_SCRATCH = ("s8", "u8")  # dtypes of what libraries ask for beside their result
PRODUCTS = ("product", "convolution", "attention")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch of a kernel, or the same one in each pass of a loop.

    Attributes:
      name: Name of the instruction.
      kind: Name of the kind: one of `PRODUCTS`, "reduction", "transpose", "elementwise", or XLA's
        name of anything else.
      dtype: Dtype of the factors of a product; "" for other kinds.
      flops: Floating-point operations of the products of one launch.
      read: Bytes that one launch reads; of an array that is sliced, those of the slice.
      written: Bytes that one launch writes.
      times: Number of launches.
      results: Arrays of the result.
      line: Line of this package that it is from, "" where none is known.
      path: Path of the operation in the traced function.
    """

    name: str
    kind: str
    dtype: str
    flops: int
    read: int
    written: int
    times: int
    results: tuple[Array, ...]
    line: str
    path: str

    @property
    def bytes(self) -> int:
        """Bytes that one launch moves."""
        return self.read + self.written


def read_kernels(program: Program) -> list[Kernel]:
    """Returns the kernels in the order in which they run.

    A loop of unknown length counts once; of a branch, the one that moves most bytes.

    Args:
      program: Program as XLA compiled it for a GPU.
    """
    return list(_walk(program, program.entry, 1))


def _walk(program: Program, name: str, times: int) -> Iterator[Kernel]:
    for each in program.computations[name].values():
        if each.opcode == "while":
            trips = re.search(r'"known_trip_count": ?{"n": ?"(\d+)"', each.attributes)
            (body,) = each.called("body")
            yield from _walk(program, body, times * int(trips[1] if trips else 1))
        elif each.opcode in ("call", "async-start"):
            for called in each.called("to_apply", "calls", "called_computations"):
                yield from _walk(program, called, times)
        elif each.opcode == "conditional":
            names = each.called("branch_computations", "true_computation", "false_computation")
            branches = [list(_walk(program, branch, times)) for branch in names]
            yield from max(branches, key=lambda kernels: sum(k.times * k.bytes for k in kernels))
        elif each.opcode not in _NO_KERNEL:
            yield _kernel(program, program.computations[name], each, times)


def _kernel(program: Program, around: Computation, each: Instruction, times: int) -> Kernel:
    fused = each.opcode in ("fusion", "fusion-start")
    inside = program.computations[each.called("calls")[0]] if fused else around
    parts = inside.values() if fused else [each]
    products = [part for part in parts if product_kind(part)]
    kind, dtype = _other_kind(inside if fused else None, each), ""
    if products:
        kind = product_kind(products[0])
        dtype = inside[products[0].operands[0]].results[0].dtype
    read, written = _fused_traffic(inside) if fused else _traffic(around, each)
    libraries = [part for part in parts if part.opcode == "custom-call"]
    scratch = [a for part in libraries for a in part.results if a.dtype in _SCRATCH]
    return Kernel(
        each.name,
        kind,
        dtype,
        sum(_flops(inside, product) for product in products),
        read,
        max(written - sum(array.bytes for array in scratch), 0),
        times,
        tuple(array for array in each.results if array not in scratch),
        program.line(each),
        each.path,
    )


def product_kind(each: Instruction) -> str:
    """Returns which of `PRODUCTS` an instruction is, "" for any other."""
    if each.opcode == "dot" or "cublas" in each.target:
        return "product"
    if each.opcode == "convolution" or "cudnn$conv" in each.target:
        return "convolution"
    return "attention" if "fmha" in each.target else ""


def _other_kind(fused: Computation | None, each: Instruction) -> str:
    """Returns the kind of what is no product."""
    if fused is None:
        return "transpose" if each.opcode in _TRANSPOSES else each.target or each.opcode
    opcodes = {part.opcode for part in fused.values()}
    if "reduce" in opcodes:
        return "reduction"
    return "transpose" if opcodes.intersection(_TRANSPOSES) else "elementwise"


def _flops(inside: Computation, product: Instruction) -> int:
    """Returns the floating-point operations of a product: two for each multiply-add."""
    arrays = [inside[name].results[0] for name in product.operands]
    result, target = product.results[0], product.target
    kind = product_kind(product)
    if kind == "product":
        sides = product.dimensions("lhs_contracting_dimensions") or product.dimensions(
            "lhs_contracting_dims"
        )
        return 2 * result.size * math.prod(arrays[0].shape[side] for side in sides)
    if kind == "attention":  # products: queries keys, weights values; backward, five
        scores = math.prod(product.dimensions("dimensions"))  # batch, heads, queries, keys
        return 2 * (5 if "Backward" in target else 2) * scores * arrays[0].shape[-1]
    # In each direction, every output pixel of the forward convolution meets one filter.
    pixels, kernel = result, arrays[1]
    if "BackwardInput" in target:
        pixels = arrays[0]
    elif "BackwardFilter" in target:
        pixels, kernel = arrays[1], result
    labels = product.attributes.partition("dim_labels=")[2].partition("->")[0].partition("_")[2]
    return 2 * pixels.size * kernel.size // kernel.shape[labels.index("o")]


def _traffic(around: Computation, each: Instruction) -> tuple[int, int]:
    """Returns the bytes read and written by an instruction that is a kernel by itself."""
    operands = [around[name] for name in each.operands]
    if each.opcode in _SLICES:
        return each.bytes, each.bytes
    if each.opcode == "dynamic-update-slice":
        return operands[1].bytes, operands[1].bytes
    return sum(operand.bytes for operand in operands), each.bytes


def _fused_traffic(fused: Computation) -> tuple[int, int]:
    """Returns the bytes read and written by a fusion: of what is sliced or updated, the slice."""
    users = collections.defaultdict(list)
    for each in fused.values():
        for name in each.operands:
            users[name].append(each)

    def read(each: Instruction) -> int:
        parts: dict[tuple, int] = {}  # the same slice may be computed twice, but is read once
        for user in users[each.name]:
            first = user.operands[0] == each.name
            if user.opcode in _VIEWS:
                parts[user.name,] = read(user)
            elif user.opcode in _SLICES and first:
                place = user.attributes.partition("metadata=")[0]
                parts[user.operands, place] = user.bytes
            elif not (user.opcode == "dynamic-update-slice" and first):
                return each.bytes
        return min(sum(parts.values()), each.bytes)

    def written(each: Instruction) -> int:
        if each.opcode == "tuple":
            return sum(written(fused[name]) for name in each.operands)
        if each.opcode in _VIEWS:
            return written(fused[each.operands[0]])
        return (
            fused[each.operands[1]].bytes if each.opcode == "dynamic-update-slice" else each.bytes
        )

    (root,) = (each for each in fused.values() if each.is_root)
    return sum(read(each) for each in fused.values() if each.opcode == "parameter"), written(root)
