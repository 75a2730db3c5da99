"""Makes torchvision importable beside the CPU build of torch: import this first.

torchvision's wheel is built for CUDA: without its compiled library two operator schemas are missing
that its Python files ask for at import. Nothing here calls them.
"""

import contextlib

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as the definitions
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    with contextlib.suppress(RuntimeError):  # a complete torchvision has it already
        _library.define(_schema)
