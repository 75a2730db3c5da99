"""Makes torchvision importable beside a torch without CUDA."""

import torch

# Its CPU wheel lacks the library that declares these two operators; nothing here calls them.
_library = torch.library.Library("torchvision", "FRAGMENT")
try:
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:  # a complete torchvision was loaded before
    pass
