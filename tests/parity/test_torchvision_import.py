"""torchvision's compiled library and the schemas that are declared where it cannot be loaded."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

# As C++ does, but for the end: a library that finds its operators declared aborts the process.
LOADS_ITS_LIBRARY = """
import sys
import torch

loaded = []
library = torch.library.Library("torchvision", "FRAGMENT")

def load_library(path):
    loaded.append(path)
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

sys.path.insert(0, sys.argv[1])
torch.ops.load_library = load_library
from jaxvision.parity import torchvision_import
assert loaded == [f"{sys.argv[1]}/torchvision/_C.so"], loaded
assert "torchvision" not in sys.modules
"""


def test_a_complete_torchvision_declares_its_operators_itself(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("")
    (tmp_path / "torchvision/_C.so").touch()
    command = [sys.executable, "-c", LOADS_ITS_LIBRARY, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
