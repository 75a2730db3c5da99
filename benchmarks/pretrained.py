"""Real ImageNet weights on real photos, ours beside timm's, image by image.

`python benchmarks/pretrained.py --zip=imagenet100.zip`: the EfficientNet-Lites of the extra
`weights` label the photos of a zip, whose folders are called by WordNet ids as ImageNet's are. The
same weights run in timm, on images that timm prepares. Prints top-1 and top-5 and the largest
difference of a probability. A minute on 2 CPU cores; needs the extras `weights` and `test`.
"""

import argparse
import io
import pathlib
import tempfile

import numpy as np
import PIL.Image

TAGS = [f"tf_efficientnet_lite{size}.ml_illustrated_in1k" for size in (0, 1, 2)]


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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zip", required=True, help="of folders called by WordNet ids")
    options = parser.parse_args()

    from jaxvision.data.class_lists import imagenet_wordnet_ids
    from jaxvision.data.image_files import find_images
    from jaxvision.evaluation.predict import predict
    from jaxvision.interop.trained import open_trained

    place = {name: label for label, name in enumerate(imagenet_wordnet_ids())}
    images = find_images(options.zip)
    labels = np.array([place[pathlib.PurePath(image.name).parent.name] for image in images])
    print(f"{len(images)} images\n")
    print("| weights | top-1 | top-5 | top-1 of timm | largest difference of a probability |")
    print("|---|---|---|---|---|")
    for tag in TAGS:
        trained = open_trained(tag)
        found = list(predict(trained, images, top=1000))
        ours = np.zeros((len(images), 1000))
        for row, prediction in zip(ours, found, strict=True):
            assert prediction.error is None, prediction.error
            row[[guess.index for guess in prediction.guesses]] = [
                guess.probability for guess in prediction.guesses
            ]
        theirs = timm_probabilities(trained.model, trained.spec.timm, images)
        best = np.argsort(-ours, axis=1)
        top1 = np.mean(best[:, 0] == labels)
        top5 = np.mean((best[:, :5] == labels[:, None]).any(axis=1))
        top1_of_timm = np.mean(np.argmax(theirs, axis=1) == labels)
        print(
            f"| `{tag}` | {top1:.2%} | {top5:.2%} | {top1_of_timm:.2%} | "
            f"{np.abs(ours - theirs).max():.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
