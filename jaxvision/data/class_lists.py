"""Names of the classes of public data sets, by label."""

import functools
import pathlib
from collections.abc import Iterable

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)


@functools.cache
def _imagenet() -> tuple[tuple[str, str], ...]:
    text = pathlib.Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    pairs = (line.partition("\t") for line in text.splitlines())
    return tuple((wordnet_id, name) for wordnet_id, _, name in pairs)


def imagenet_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes by label, as torchvision has them."""
    return tuple(name for _, name in _imagenet())


def imagenet_wordnet_ids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet's 1,000 classes, "n01440764", ..., by label.

    They are the names of its folders.
    """
    return tuple(wordnet_id for wordnet_id, _ in _imagenet())


@functools.cache
def _name_of_wordnet_id() -> dict[str, str]:
    return dict(_imagenet())


def readable(class_names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of classes for people: "tench" for ImageNet's folder "n01440764"."""
    names = _name_of_wordnet_id()
    return tuple(names.get(name, name) for name in class_names)
