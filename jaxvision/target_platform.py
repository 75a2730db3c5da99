"""The platform that programs are traced for; it need not be that of this machine."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": what runs the program that is being traced."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Builds and traces models inside for another platform, to export or to plan.

    What was traced before keeps its form: a function that is already jitted does not ask again.

    Args:
      platform: Name of the platform, "cpu", "gpu" or "tpu".
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)
