"""Strict settings for every test."""

import importlib.util
import os
import pathlib
import tempfile
import warnings

import jax
import pytest

ON_GPU = os.environ.get("JAXVISION_TEST_GPU") == "1"  # see test_gpu.py
if ON_GPU:
    # The runs that the tests start need memory of the device, too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
else:
    # Tests compile more than they compute, and a third faster where LLVM optimises nothing.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    ).strip()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs outlive a run, so that only the first run of the suite pays for them.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAXVISION_TEST_CACHE", os.path.join(tempfile.gettempdir(), "jaxvision-tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

from jaxtyping import install_import_hook  # noqa: E402

# Every jaxtyping annotation of the package is checked at run time; rented GPUs lack beartype.
if not ON_GPU or importlib.util.find_spec("beartype"):
    install_import_hook("jaxvision", "beartype.beartype")


def _torch_peers() -> bool:
    """Makes torchvision and timm importable; returns whether they are there."""
    try:
        import torch
    except ImportError:
        return False
    from benchmarks import peers  # noqa: F401 - declares what torchvision's wheel lacks

    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm  # noqa: F401
        import torchvision  # noqa: F401
    return True


HAS_TORCH = not ON_GPU and _torch_peers()  # which would bring its own CUDA


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Lets a worker go of its compiled programs before all workers together fill the machine."""
    statm = pathlib.Path("/proc/self/statm")  # the second number: pages in memory
    if item.path != getattr(nextitem, "path", None) and statm.exists():
        if int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 7 << 30:
            jax.clear_caches()


@pytest.fixture
def figures(monkeypatch):
    """A list that receives each figure that is saved, with its images and texts."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def savefig(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("parity") and not HAS_TORCH:
            item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))
        if item.get_closest_marker("float64") and not jax.config.jax_enable_x64:
            item.add_marker(pytest.mark.skip(reason="float64: run make parity"))
