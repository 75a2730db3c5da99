"""Makes torchvision importable beside the CPU build of torch: import this first.

torchvision's wheel is built for CUDA: where its compiled library cannot be loaded, two operator
schemas are missing that its Python files ask for at import. Nothing here calls them.
"""

import importlib.util
import pathlib

import torch


def _load_compiled() -> bool:
    """Loads torchvision's own library without importing torchvision; returns whether it could."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in pathlib.Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(str(path))
            except OSError:  # built for CUDA, and there is none
                continue
            return True
    return False


# Not the other way round: a library that finds its operators declared aborts the process.
if not _load_compiled():
    _library = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as the definitions
    for _schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        _library.define(_schema)
