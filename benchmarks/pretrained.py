"""Published weights on real photos, ours beside timm's, image by image.

`python benchmarks/pretrained.py --imagenet=imagenet100.zip --cifar=cifar10/test.zip`: the
EfficientNet-Lites of the extra `weights` label the photos of a zip whose folders are called by
WordNet ids, as ImageNet's are; the same weights run in timm, on images that timm prepares. Prints
top-1, top-5 and the largest difference of a probability. With `--cifar`, ResNets for CIFAR-10 label
a zip with a folder for each class. Two minutes on 2 CPU cores; needs the extras `weights`, `test`.
"""

import argparse
import io
import pathlib
import tempfile

import numpy as np
import PIL.Image

LITES = [f"tf_efficientnet_lite{size}.ml_illustrated_in1k" for size in (0, 1, 2)]
RESNETS = [f"cifar_resnet{depth}.akamaster" for depth in (20, 32, 44, 56)]


def our_probabilities(trained, images) -> np.ndarray:
    """Returns what our model gives, [images, classes]."""
    from jaxvision.evaluation.predict import predict

    found = np.zeros((len(images), trained.model.config.num_classes))
    predictions = predict(trained, images, top=found.shape[1], batch_size=50)
    for row, prediction in zip(found, predictions, strict=True):
        assert prediction.error is None, prediction.error
        row[[guess.index for guess in prediction.guesses]] = [
            guess.probability for guess in prediction.guesses
        ]
    return found


def timm_probabilities(model, name: str, images) -> np.ndarray:
    """Returns what timm gives for the same weights, [images, classes]."""
    from jaxvision.parity import torchvision_import  # isort: skip  # noqa: F401 - before timm
    import timm
    import timm.data
    import torch

    import jaxvision as jv

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.safetensors"
        jv.save_weights(model, path, format="timm")
        theirs = timm.create_model(name, checkpoint_path=str(path)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    rows = []
    with torch.no_grad():
        for image in images:
            with PIL.Image.open(io.BytesIO(image.read())) as picture:
                pixels = transform(picture.convert("RGB"))[None]
            rows.append(torch.softmax(theirs(pixels), -1).numpy()[0])
    return np.stack(rows)


def labels_of(images, class_names) -> np.ndarray:
    """Returns the labels by the names of the folders."""
    place = {name: label for label, name in enumerate(class_names)}
    return np.array([place[pathlib.PurePath(image.name).parent.name] for image in images])


def shares(probabilities, labels) -> str:
    """Returns the cells of top-1 and top-5."""
    best = np.argsort(-probabilities, axis=1)[:, :5] == labels[:, None]
    return f"{best[:, 0].mean():.2%} | {best.any(axis=1).mean():.2%}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imagenet", help="a zip of folders called by WordNet ids")
    parser.add_argument("--cifar", help="a zip of CIFAR-10, one folder a class")
    options = parser.parse_args()

    from jaxvision.data.class_lists import CIFAR10, imagenet_wordnet_ids
    from jaxvision.data.image_files import find_images
    from jaxvision.interop.trained import open_trained

    if options.imagenet:
        images = find_images(options.imagenet)
        labels = labels_of(images, imagenet_wordnet_ids())
        print(f"{len(images)} images of ImageNet\n")
        print("| weights | top-1 | top-5 | timm: top-1 | top-5 | largest difference |")
        print("|---|---|---|---|---|---|")
        for tag in LITES:
            trained = open_trained(tag)
            ours = our_probabilities(trained, images)
            theirs = timm_probabilities(trained.model, str(trained.spec.timm), images)
            print(
                f"| `{tag}` | {shares(ours, labels)} | {shares(theirs, labels)} | "
                f"{np.abs(ours - theirs).max():.1e} |",
                flush=True,
            )
    if options.cifar:
        images = find_images(options.cifar)
        labels = labels_of(images, CIFAR10)
        print(
            f"\n{len(images)} images of CIFAR-10\n\n| weights | top-1 | published |\n|---|---|---|"
        )
        for tag in RESNETS:
            from jaxvision.interop.pretrained import get_weights

            ours = our_probabilities(open_trained(tag), images)
            top1 = np.mean(np.argmax(ours, axis=1) == labels)
            print(f"| `{tag}` | {top1:.2%} | {get_weights(tag).top1}% |", flush=True)


if __name__ == "__main__":
    main()
