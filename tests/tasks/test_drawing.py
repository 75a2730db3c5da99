"""The picture of a finished classifier: which images are chosen, whatever the batches are."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
from opening import make_run

from configs import smoke
from jaxvision.data.source import Subset
from jaxvision.tasks import classification
from jaxvision.train.state import create_state

CLASSES = ("a", "b", "c")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 20)):
        for name in CLASSES:
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i:02}.png")
    (tmp_path / "images/test/b/07.png").write_bytes(b"no image")
    return tmp_path / "images"


def open_run(images, **options):
    config = smoke.get_config()
    with config.unlocked():
        config.model.kwargs = dict(width=16, depth=1, num_heads=2, patch_size=8)
    flat = {"data.name": "folder", "data.path": str(images), "data.image_size": 16, **options}
    flat["model.num_classes"] = 5
    config.update_from_flattened_dict(flat)
    return make_run(config)


def panels(figure):
    """Returns {bytes of the image: (title, true class)}, in the order of the picture."""
    return {
        axes.images[0].get_array().tobytes(): (axes.get_title(), axes.texts[0].get_text())
        for axes in figure.axes
        if axes.images
    }


def test_the_same_images_in_batches_of_any_size_and_order(images, tmp_path, figures, monkeypatch):
    """Two small compilations, as a program has one batch size; with outputs that no class has."""
    monkeypatch.setattr(classification, "NUM_SAMPLES", 10)
    run = open_run(images)
    state = create_state(run.build, run.optimizer.tx, seed=0, abstract=run.abstract_state)
    weights = run.weights_of(state)["eval"]
    for size, is_shuffled in ((48, False), (7, False), (48, True)):
        run = open_run(images, eval_batch_size=size)
        if is_shuffled:  # as if the files came in another order
            source = Subset(run.eval_source, np.random.default_rng(1).permutation(60).tolist())
            data = dataclasses.replace(run.task.data, eval_source=source)
            run = dataclasses.replace(run, task=dataclasses.replace(run.task, data=data))
        assert run.task.draw(run, weights, tmp_path) == "predictions.png"
    first, second, third = map(panels, figures)
    assert list(first.items()) == list(second.items()) == list(third.items())
    assert len(first) == 10 and list(first.values())[-1] == ("corrupt image", "true: b")
    shown = [true.removeprefix("true: ") for _, true in list(first.values())[:-1]]
    assert [shown.count(name) for name in CLASSES] == [3, 3, 3]
    assert figures[0].get_suptitle().startswith("10 of 60 evaluation images: of each class")
    mistakes = [title.split()[0] != true.split()[1] for title, true in list(first.values())[:-1]]
    assert mistakes == sorted(mistakes, reverse=True)
