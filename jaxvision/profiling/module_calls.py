"""Looks at the calls of a model's submodules without a line about it in the model's file."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

Around = Callable[[str, Callable[[], Any]], Any]


@contextlib.contextmanager
def watch_calls(model: nnx.Module, around: Around) -> Iterator[nnx.Module]:
    """Yields a copy of the model; inside the context each call of a submodule goes by `around`.

    The path is a plain attribute of the copy's submodules, because `jax.checkpoint` and
    `jax.lax.scan` hand the module that they call over as a new object.

    Args:
      model: Model of arrays or of shapes. Stacked blocks are one submodule, called once.
      around: Function (path such as "stages.0.1.conv2", the call) -> output. It must make the call.
        The model itself has the path "".
    """
    watched = nnx.clone(model)
    classes: set[Any] = set()
    modules: list[tuple[Any, Any]] = list(nnx.iter_modules(watched))
    for path, module in modules:
        if callable(module):
            module.call_path = ".".join(map(str, path))
            classes.add(type(module))
    # A class may inherit its call: what is patched onto it must then go away again.
    own = {each: vars(each).get("__call__") for each in classes}
    calls = {each: each.__call__ for each in classes}
    for each, call in calls.items():
        each.__call__ = _watched(call, around)
    try:
        yield watched
    finally:
        for each, call in own.items():
            if call is None:
                del each.__call__
            else:
                each.__call__ = call


def _watched(call: Callable[..., Any], around: Around) -> Callable[..., Any]:
    def watched_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self.call_path, lambda: call(self, *args, **kwargs))

    return watched_call
