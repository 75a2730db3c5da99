"""Names of the ResNet's weights, the same in torchvision and timm."""

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import batch_norm, conv, linear

_THEIRS, _OURS = "layer{stage+1}.{i}", "stages/{stage}/{i}"
_RULES = (
    *conv("conv1", "stem/conv"),
    *batch_norm("bn1", "stem/norm"),
    *conv(f"{_THEIRS}.conv{{n}}", f"{_OURS}/conv{{n}}"),
    *batch_norm(f"{_THEIRS}.bn{{n}}", f"{_OURS}/norm{{n}}"),
    *conv(f"{_THEIRS}.downsample.0", f"{_OURS}/downsample/conv"),
    *batch_norm(f"{_THEIRS}.downsample.1", f"{_OURS}/downsample/norm"),
    *linear("fc", "head"),
)
_SOURCE = Source(
    rules=lambda config: _RULES,
    requires={"plain": False},
    fits={"stem/conv/kernel": fit_channels},
)

SOURCES = {"torchvision": _SOURCE, "timm": _SOURCE}
