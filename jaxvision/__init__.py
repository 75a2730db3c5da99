"""Vision models and a trainer in JAX and Flax NNX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxvision import explain
    from jaxvision.compile_cache import cache_compilation
    from jaxvision.evaluation.from_pretrained import from_pretrained, preprocess
    from jaxvision.evaluation.push import push
    from jaxvision.interop.create import create_model
    from jaxvision.interop.load import load_weights, save_weights
    from jaxvision.interop.pretrained import list_models, list_weights
    from jaxvision.models.registry import get_spec, register_model

__version__ = "0.1.0"

# Public name -> the module it comes from, imported at first use: `import jaxvision` itself costs
# nothing, and a data worker that imports jaxvision.data does not start JAX.
_CONTRACT = {
    "cache_compilation": "jaxvision.compile_cache",
    "create_model": "jaxvision.interop.create",
    "get_spec": "jaxvision.models.registry",
    "list_models": "jaxvision.interop.pretrained",
    "list_weights": "jaxvision.interop.pretrained",
    "register_model": "jaxvision.models.registry",
    "load_weights": "jaxvision.interop.load",
    "save_weights": "jaxvision.interop.load",
    "from_pretrained": "jaxvision.evaluation.from_pretrained",
    "preprocess": "jaxvision.evaluation.from_pretrained",
    "push": "jaxvision.evaluation.push",
}

__all__ = [
    "__version__",
    "cache_compilation",
    "create_model",
    "explain",
    "from_pretrained",
    "get_spec",
    "list_models",
    "list_weights",
    "load_weights",
    "preprocess",
    "push",
    "register_model",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name == "explain":  # a folder of functions
        return importlib.import_module("jaxvision.explain")
    if name not in _CONTRACT:
        raise AttributeError(f"module 'jaxvision' has no attribute {name!r}")
    return getattr(importlib.import_module(_CONTRACT[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_CONTRACT, "explain"})
