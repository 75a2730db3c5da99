"""Makes torchvision and timm importable beside the CPU build of torch; the tests use it, too."""

from jaxvision.parity import torchvision_import as parity_torchvision  # noqa: F401
