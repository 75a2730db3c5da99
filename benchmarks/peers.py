"""Makes torchvision and timm importable beside the CPU build of torch; the tests use it, too."""

from jaxvision.analysis import parity_torchvision  # noqa: F401
