"""Kernels, bytes and held arrays, on small programs in XLA's own words."""

import pathlib

import pytest

import jaxvision
from jaxvision.errors import InputError
from jaxvision.profiling.gpu_estimate import StepPlan
from jaxvision.profiling.gpu_program import read_kernels
from jaxvision.profiling.gpu_target import gpu_names, read_gpu
from jaxvision.profiling.hlo import Array, read_program
from jaxvision.profiling.live_arrays import held_at_peak

PROGRAMS = pathlib.Path(__file__).parent / "programs"
PACKAGE = str(pathlib.Path(jaxvision.__file__).parent)
GEMM = 'custom_call_target="__cublas$lt$matmul"'


def program(name):
    text = (PROGRAMS / f"{name}.txt").read_text().replace("PACKAGE", PACKAGE)
    return read_program(text)


def of_lines(*lines):
    return read_program("\n  ".join(["ENTRY %main (a: f32[]) -> f32[] {", *lines]) + "\n}")


def test_products():
    """By hand: two operations for each multiply-add, and no bytes of scratch."""
    wide, gemm, gemm32, *convs, forward, backward, depthwise = read_kernels(program("products"))
    assert (wide.kind, wide.dtype, wide.flops, wide.bytes) == ("convert", "", 0, 512 * (2 + 4))
    assert (gemm.kind, gemm.dtype, gemm.flops) == ("product", "bf16", 2 * 8 * 32 * 16)
    assert (gemm.read, gemm.written) == (2 * (8 * 16 + 16 * 32), 2 * 8 * 32)
    assert gemm.results == (Array("bf16", (8, 32)),) and gemm.path.endswith("transpose(jvp())/dot")
    assert gemm.line == "layers/mlp.py:40" and wide.line == ""  # not flax's own line above it
    assert (gemm32.dtype, gemm32.flops) == ("f32", 2 * 8 * 32 * 16 * 32)
    assert {(each.kind, each.flops) for each in convs} == {("convolution", 2 * 160 * 9 * 4)}
    assert convs[2].written == 2 * 2 * 36 * 4
    scores = 2 * 3 * 7 * 7
    assert [forward.flops, backward.flops] == [2 * 2 * scores * 8, 2 * 5 * scores * 8]
    assert forward.kind == backward.kind == "attention"
    assert depthwise.flops == 2 * (2 * 4 * 4 * 6) * 9  # each filter meets one channel


def test_loops_count_their_passes_and_slices_their_own_bytes():
    noise, row, halves, turned, *branch = read_kernels(program("loop"))
    assert noise.times == row.times == 12 and halves.times == 1 and noise.kind == "noise"
    # The index, the row and the noise; the row is written in place.
    assert (row.read, row.written, row.kind) == (4 + 2 * 4 * 64, 4 * 64, "elementwise")
    assert (halves.read, halves.written) == (2 * 8 * 32, 2 * 8 * 16 + 4 * 8)
    assert [halves.kind, turned.kind] == ["reduction", "transpose"]
    assert [each.name for each in branch] == ["c", "d"]  # of the branch that moves more


def test_what_is_held_at_the_peak():
    """Both maps live on until their last use; what the program is given is not counted."""
    held = held_at_peak(program("held"))
    assert [str(group) for group in held] == [
        "0.00 GB: 2 x f32[2,10,10]",
        "0.00 GB: f32[150]",
        "0.00 GB: bf16[300]",
        "0.00 GB: f32[5]",
    ]
    assert [group.bytes for group in held] == [1600, 600, 600, 20]
    assert [group.is_scores for group in held] == [True, False, False, False]


def plan(parsed, *, batch_size=10, macs=0):
    kernels, held = read_kernels(parsed), held_at_peak(parsed)
    return StepPlan(read_gpu("h100"), batch_size, macs, 0, kernels, held)


def test_estimate():
    """Kernel by kernel, the slower of product and memory, by hand."""
    contract = 'backend_config={"lhs_contracting_dimensions":["1"]}'
    attend = 'custom_call_target="__cudnn$fmhaSoftmax", backend_config={"dimensions":'
    parsed = of_lines(
        "%a = bf16[8192,8192] parameter(0)",
        "%w = f32[4096,4096] parameter(1)",
        f"%g = bf16[8192,8192] custom-call(%a, %a), {GEMM}, {contract}",
        f"%f = f32[4096,4096] custom-call(%w, %w), {GEMM}, {contract}",
        "%s = f32[64,16,1024,1024] negate(%g)",
        '%q = bf16[64,1024,16,64] custom-call(%s), custom_call_target="cast"',
        f'ROOT %o = bf16[64,16,1024,64] custom-call(%q, %q), {attend}["64","16","1024","1024"]}}',
    )
    kernels, held = read_kernels(parsed), held_at_peak(parsed)
    result = StepPlan(read_gpu("h100"), 10, 10**12, 0, kernels, held)
    product, float32 = 2 * 8192**3, 2 * 4096**3
    scores, tokens = 4 * 64 * 16 * 1024**2, 2 * 64 * 1024 * 16 * 64
    attention = 2 * 2 * 64 * 16 * 1024**2 * 64
    moved = (2 * 8192**2 + scores) + (scores + tokens)
    roofline = (product + attention) / 989e12 + float32 / 494.5e12 + moved / 3.352e12
    assert result.roofline_seconds == pytest.approx(roofline, rel=1e-3)
    seconds = (product / 989e12 + float32 / 494.5e12) / 0.65
    seconds += attention / 400e12 + moved / 2.8e12 + 5 * 2e-6
    assert result.seconds == pytest.approx(seconds, rel=2e-3)
    assert result.images_per_second == pytest.approx(10 / seconds, rel=2e-3)
    assert result.mfu == pytest.approx(3 * 2 * 1e12 / seconds / 989e12, rel=2e-3)
    assert result.float32_products == (1, float32) and result.num_kernels == 5
    assert result.moved_bytes == moved + 3 * 2 * 8192**2 + 3 * 4 * 4096**2 + 3 * tokens
    assert result.score_bytes == scores and len(result.large_arrays) == 1
    assert "1 products of float32 make 0.14 of 1.51 TFLOP" in result.summary()
    table = result.slowest(2).splitlines()
    assert len(table) == 3 and "f32[64,16,1024,1024]" in table[2] and "negate" in table[2]


def test_equal_kernels_are_one_row():
    lines = [f"%n.{i} = f32[64]{{0}} negate(%a)" for i in range(5)]
    kernels = read_kernels(of_lines("%a = f32[64]{0} parameter(0)", *lines))
    table = StepPlan(read_gpu("h200"), 1, 0, 0, kernels, []).slowest(9).splitlines()
    assert len(table) == 2 and table[1].split()[:3] == ["0.01", "5", "negate"]


def test_specifications():
    """Of NVIDIA's data sheets, of the SXM cards."""
    h100, h200 = read_gpu("h100"), read_gpu("h200")
    assert gpu_names() == ["h100", "h200"]
    for gpu, memory, bandwidth in ((h100, 80e9, 3.35e12), (h200, 141e9, 4.8e12)):
        assert gpu.product_rates["bf16"] == pytest.approx(989e12, rel=1e-3)
        assert gpu.product_rates["f32"] == pytest.approx(494.5e12, rel=1e-3)
        assert gpu.bandwidth == pytest.approx(bandwidth, rel=1e-3)
        assert gpu.memory == pytest.approx(memory, rel=0.08)  # GB on one side, GiB on the other
        assert gpu.usable_memory == 0.75 * gpu.memory


def test_what_cannot_be_compiled_for():
    with pytest.raises(InputError, match="h100, h200, got 'h10'; did you mean 'h100'"):
        read_gpu("h10")


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_program("module @jit_f {}")


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("pred[3]", 3),
        ("bf16[2,3]", 12),
        ("f32[]", 4),
        ("s4[3]", 2),
        ("f8e4m3fn[5]", 5),
        ("token[]", 0),
    ],
)
def test_bytes_of_dtypes(text, bytes):
    (each,) = of_lines(f"ROOT %a = {text} parameter(0)").computations["main"].values()
    assert each.bytes == bytes and str(each.results[0]) == text
