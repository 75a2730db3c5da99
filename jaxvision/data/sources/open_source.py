"""open_source(): the one door to all data, by the name in config.data.name."""

from typing import Any

from jaxvision.data.class_lists import imagenet_names, readable
from jaxvision.data.classes import check_class_names, one_line
from jaxvision.data.source import DataError, Relabelled, Source
from jaxvision.data.sources.array_record import ArrayRecordSource
from jaxvision.data.sources.cifar import CifarSource
from jaxvision.data.sources.file_list import ListSource
from jaxvision.data.sources.folder import FolderSource
from jaxvision.data.sources.hf import HfSource
from jaxvision.data.sources.shapes import ShapesSource
from jaxvision.data.sources.share import held_out, hold_out, parse_share, share_of
from jaxvision.data.sources.tar import TarSource
from jaxvision.data.sources.tfds import TfdsSource

NAMES = (
    *("shapes", "folder", "list", "tar", "cifar10", "cifar100", "array_record", "tfds:<name>"),
    "hf:<name or folder>",
)


def open_source(
    name: str,
    split: str,
    *,
    path: str = "",
    class_names: tuple[str, ...] | None = None,
    class_folders: str = "names",
    labelled: bool = True,
    image_size: int | tuple[int, int] = 224,
    shapes: Any = None,
    image_column: str = "",
    label_column: str = "",
) -> Source:
    """Opens one split of a data set for random access.

    Args:
      name: Name of the data set: `shapes`, `folder`, `list`, `tar`, `cifar10`, `cifar100`,
        `array_record`, `tfds:<name>`, `hf:<name>` or `hf:<folder>`.
      split: Sub-folder, zip, glob of zips, csv or tfds split; its meaning is in each class here. A
        share of one is `train[:80%]`, see `share_of`; `[:80%]` is one of `path` itself.
      path: Folder, zip or file that holds the data; `~` is expanded. `shapes` needs none.
      class_names: Class names by label, of the training split or of a run, so that a label means
        the same there; the split may lack some of them. None: those of the split.
      class_folders: Kind of class folders of `folder`, see FolderSource.
      labelled: Whether a `folder` must have classes, see FolderSource.
      image_size: Size of the images in pixels, one side or (height, width); only `shapes` is drawn
        at a given size.
      shapes: Mapping with further options of `shapes`: num_train, num_eval, difficulty.
      image_column: Column with the images of `hf:`, see HfSource.
      label_column: Column with the labels of `hf:`; of `shapes` shape or color.

    Raises:
      DataError: where the name is unknown, the data is missing or malformed, or has other classes.
    """
    # Folders of ImageNet are called by WordNet ids, its published classes by their names.
    by_name = class_names is not None and tuple(class_names) == imagenet_names()
    known = None if by_name and class_folders == "names" else class_names
    of_columns = image_column or (label_column and name != "shapes")
    if of_columns and not name.startswith("hf:"):
        raise DataError(
            "--config.data.image_column and label_column name columns of data sets hf:<name>, but"
            f" config.data.name is {name}; leave them out."
        )
    share = None
    if name != "shapes" and not name.startswith("tfds:"):  # which has its own shares
        split, share = parse_share(split)
    if name == "shapes":
        label = label_column or "shape"
        source = ShapesSource(split, image_size=image_size, label=label, **(shapes or {}))
    elif name == "folder":
        kind = {"class_folders": class_folders, "labelled": labelled}
        source = FolderSource(path, split, class_names=known, **kind)
    elif name == "list":
        source = ListSource(path, split, class_names=known)
    elif name == "tar":
        source = TarSource(path, split, class_names=known)
    elif name in ("cifar10", "cifar100"):
        source = CifarSource(name, split, path=path)
    elif name == "array_record":
        source = ArrayRecordSource(path, split)
    elif name.startswith("tfds:"):
        source = TfdsSource(name.removeprefix("tfds:"), split, path=path)
    elif name.startswith("hf:"):
        columns = {"image_column": image_column, "label_column": label_column}
        source = HfSource(name.removeprefix("hf:"), split, path=path, class_names=known, **columns)
    else:
        raise DataError(f"config.data.name must be one of {', '.join(NAMES)}, but is {name!r}.")
    if share is not None:
        source = share_of(source, *share)
    if len(source) == 0:
        raise DataError(f"The split {split!r} of {name} is empty; give a split that holds images.")
    source.class_names = tuple(map(one_line, source.class_names))
    if by_name:
        source.class_names = readable(source.class_names)
    if class_names is not None and source.class_names != tuple(class_names):
        where = f"The split {split!r} of {name}"
        check_class_names(source.class_names, class_names, where=where)
        return Relabelled(source, class_names)
    return source


def open_both(
    name: str,
    train_split: str,
    eval_split: str,
    *,
    class_names: tuple[str, ...] | None = None,
    class_folders: str = "names",
    training: bool = True,
    **options: Any,
) -> tuple[Source | None, Source]:
    """Opens the split to train and the one to evaluate on, whose labels mean the same.

    Args:
      name: Name of the data set, see `open_source`.
      train_split: Split to train on.
      eval_split: Split to evaluate on; `10%`: that share of the training split, of every class, and
        the rest is trained on.
      class_names: Class names by label, of a run; None: those of the training split.
      class_folders: Kind of class folders of the split to evaluate on.
      training: Whether the training split is wanted; it is opened where something depends on it.
      **options: Further options of `open_source`.

    Raises:
      DataError: as `open_source`; if the share leaves nothing.
    """
    percent, train = held_out(eval_split), None
    if training or class_names is None or percent is not None:
        train = open_source(name, train_split, class_names=class_names, **options)
        if percent is not None:
            return hold_out(train, percent)
    names = class_names if train is None else tuple(train.class_names)
    evaluation = open_source(
        name, eval_split, class_names=names, class_folders=class_folders, **options
    )
    return train, evaluation
