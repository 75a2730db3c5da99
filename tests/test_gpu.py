"""What only a GPU can show: `python -m pytest tests/test_gpu.py` on a machine that has one."""

import shutil

import pytest
from torture import resnet, runs

from configs import smoke

pytestmark = pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="needs a GPU")


@pytest.mark.parametrize("module", [smoke, resnet], ids=["vit", "resnet"])
def test_two_deterministic_runs_have_the_same_bits(module, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for workdir in (one, other):
        cache = f"--config.compilation_cache={workdir}-cache"  # each tunes its own kernels
        runs.finish(
            module,
            workdir,
            "--config.deterministic=true",
            cache,
            environment={"JAX_PLATFORMS": "cuda"},
        )
    runs.assert_same_end("two deterministic runs on a GPU", module, one, other)
