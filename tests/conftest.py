"""Strict settings for every test."""

import os
import tempfile
import warnings

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs outlive a run, so that only the first run of the suite pays for them.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAXVISION_TEST_CACHE", os.path.join(tempfile.gettempdir(), "jaxvision-tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

from absl import flags  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags

# Every jaxtyping annotation of the package is checked at run time.
install_import_hook("jaxvision", "beartype.beartype")


def _torch_peers() -> bool:
    """Makes torchvision and timm importable beside the CPU build of torch.

    torchvision's wheel is built for CUDA: without its compiled library two operator schemas are
    missing that its Python files ask for at import.
    """
    try:
        import torch
    except ImportError:
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        try:
            library.define(schema)
        except RuntimeError:  # a complete torchvision has it already
            pass
    torch.set_num_threads(2)
    _torch_peers.library = library  # keeps the definitions alive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm  # noqa: F401
        import torchvision  # noqa: F401
    return True


HAS_TORCH = _torch_peers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("parity") and not HAS_TORCH:
            item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))
        if item.get_closest_marker("float64") and not jax.config.jax_enable_x64:
            item.add_marker(pytest.mark.skip(reason="float64: run make parity"))
