"""What a training step would take on a GPU, read off its compiled program: no measurement."""

import dataclasses

from jaxvision.profiling.cost import count_work, total
from jaxvision.profiling.gpu_program import Kernel, read_kernels
from jaxvision.profiling.gpu_target import Gpu
from jaxvision.profiling.hlo import read_program
from jaxvision.profiling.live_arrays import Held, held_at_peak
from jaxvision.profiling.memory import StepMemory
from jaxvision.profiling.table import text_table
from jaxvision.target_platform import tracing_for

# What kernels are assumed to reach.
PRODUCT_SHARE = 0.65  # of the peak of matrix products, by those and by convolutions
ATTENTION_RATE = 4e14  # FLOP/s of fused attention
BANDWIDTH_SHARE = 2.8 / 3.35  # of the peak of the memory
LAUNCH_SECONDS = 2e-6  # of each kernel, beside its work
LARGE = 5 * 10**8  # bytes of arrays of one shape that are worth a line


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """A training step on a GPU.

    Attributes:
      gpu: GPU that it was compiled for.
      batch_size: Number of images.
      macs: Multiply-adds of the forward pass of the batch.
      peak_bytes: Bytes that the program needs at once, by XLA's plan.
      kernels: Kernels of the step.
      held: Arrays that are held where most bytes are, see `held_at_peak`.
    """

    gpu: Gpu
    batch_size: int
    macs: int
    peak_bytes: int
    kernels: list[Kernel]
    held: list[Held]

    @property
    def moved_bytes(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(each.times * each.bytes for each in self.kernels)

    @property
    def num_kernels(self) -> int:
        """Launches of kernels."""
        return sum(each.times for each in self.kernels)

    @property
    def float32_products(self) -> tuple[int, int]:
        """Launches of products of float32 factors, and their floating-point operations."""
        slow = [each for each in self.kernels if each.dtype == "f32"]
        return sum(each.times for each in slow), sum(each.times * each.flops for each in slow)

    @property
    def score_bytes(self) -> int:
        """Bytes of scores of attention that are held for the backward pass, where they are many."""
        return sum(group.bytes for group in self.large_arrays if group.is_scores)

    @property
    def large_arrays(self) -> list[Held]:
        """Arrays held for the backward pass of which those of one shape take much."""
        return [group for group in self.held if group.bytes >= LARGE]

    @property
    def roofline_seconds(self) -> float:
        """Seconds of a step if each kernel reached the peak of either products or memory."""
        return sum(each.times * self._roofline(each) for each in self.kernels)

    @property
    def seconds(self) -> float:
        """Seconds of a step, as the constants of this file have it."""
        return sum(each.times * self._estimate(each) for each in self.kernels)

    @property
    def images_per_second(self) -> float:
        """Images per second, by the estimate."""
        return self.batch_size / self.seconds

    @property
    def mfu(self) -> float:
        """Share of the peak of bfloat16 products that three forward passes are, by the estimate."""
        return 3 * 2 * self.macs / self.seconds / self.gpu.product_rates["bf16"]

    def _roofline(self, kernel: Kernel) -> float:
        return max(kernel.flops / self._peak(kernel), kernel.bytes / self.gpu.bandwidth)

    def _estimate(self, kernel: Kernel) -> float:
        rate = PRODUCT_SHARE * self._peak(kernel)
        if kernel.kind == "attention":
            rate = ATTENTION_RATE
        bandwidth = BANDWIDTH_SHARE * self.gpu.bandwidth
        return max(kernel.flops / rate, kernel.bytes / bandwidth) + LAUNCH_SECONDS

    def _peak(self, kernel: Kernel) -> float:
        rates = self.gpu.product_rates
        return rates.get(kernel.dtype, rates["bf16"])

    def summary(self) -> str:
        """Returns the estimate as two sentences."""
        count, flops = self.float32_products
        return (
            f"Estimate for one {self.gpu.title}, read off the program and not measured: "
            f"{1e3 * self.seconds:.1f} ms a step, {self.images_per_second:,.0f} images/s, MFU "
            f"{self.mfu:.0%} (roofline {1e3 * self.roofline_seconds:.1f} ms). {self.num_kernels:,} "
            f"kernels move {self.moved_bytes / 1e9:.0f} GB; {count} products of float32 make "
            f"{flops / 1e12:.2f} of {self._flops / 1e12:.2f} TFLOP."
        )

    @property
    def _flops(self) -> int:
        return sum(each.times * each.flops for each in self.kernels)

    def slowest(self, count: int) -> str:
        """Returns a text table of what takes most of the estimated time; equal kernels are a row.

        Args:
          count: Number of rows.
        """
        equal: dict[tuple, list[Kernel]] = {}
        for each in self.kernels:
            key = each.kind, each.dtype, each.flops, each.read, each.written, each.results
            equal.setdefault(key, []).append(each)
        rows = [
            (sum(k.times for k in alike), self._estimate(alike[0]), alike[0])
            for alike in equal.values()
        ]
        rows.sort(key=lambda row: row[0] * row[1], reverse=True)
        header = ("ms", "launches", "kind", "factors", "MB read", "MB written", "GFLOP", "result")
        return text_table(
            (*header, "from"),
            (
                (
                    f"{1e3 * launches * seconds:.2f}",
                    str(launches),
                    each.kind,
                    each.dtype,
                    f"{each.read / 1e6:.1f}",
                    f"{each.written / 1e6:.1f}",
                    f"{each.flops / 1e9:.1f}",
                    " ".join(map(str, each.results[:2])),
                    f"{each.line} {'backward' if 'transpose(' in each.path else ''}".strip(),
                )
                for launches, seconds, each in rows[:count]
            ),
        )


def plan_step(memory: StepMemory, gpu: Gpu, batch_size: int) -> StepPlan:
    """Returns the plan of the training step that was compiled last.

    Args:
      memory: Compiler of the steps; `memory.program` is the step.
      gpu: GPU that it was compiled for.
      batch_size: Number of images of the step.
    """
    state, step = memory.run.abstract_state, memory.program
    images = memory.batch(batch_size, memory.image_sizes[-1])
    with tracing_for("cpu"):  # without what is padded for a GPU
        work = count_work(memory.run.eval_step(), state.params, state.batch_stats, images)
    program = read_program(step.as_text())
    return StepPlan(
        gpu=gpu,
        batch_size=batch_size,
        macs=total(work)[0],
        peak_bytes=step.memory_analysis().peak_memory_in_bytes,
        kernels=read_kernels(program),
        held=held_at_peak(program),
    )
