"""Sources whose images have any number of labels: a table, or what the built-in data shows."""

import abc
import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from jaxvision.data.classes import one_line, read_class_names, some_names
from jaxvision.data.file_tree import list_files
from jaxvision.data.fingerprint import digest, digest_files, file_sizes
from jaxvision.data.source import DataError, Records, is_image, missing_data
from jaxvision.data.sources.file_list import find_table
from jaxvision.data.sources.shape_drawing import draw_image
from jaxvision.data.sources.shape_scene import COLORS, SHAPES, Scene, draw_group
from jaxvision.data.sources.shapes import check_shapes_options, generator
from jaxvision.data.sources.share import parse_share, share_indices
from jaxvision.errors import reason, shorten

UNKNOWN = -1  # the label of a class of which nobody knows whether it is there
NAMES = ("shapes", "list", "folder")
_PATHS, _SETS = ("path", "file_name"), ("labels", "label")
_CELLS = {"": UNKNOWN, "-1": UNKNOWN, "-1.0": UNKNOWN, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
_IN_FOLDER = ("labels.csv", "labels.tsv", "metadata.csv", "metadata.tsv")
_HEADER = (
    "a header with `path` (or file_name) and either `labels`, a cell with all names, or a column of"
    " 0 and 1 for each class"
)


class LabelSets(Records):
    """Random access to images with a label for each class: 1 there, 0 not, -1 unknown.

    A record is {"image": ..., "label": int8 [classes]}.
    """

    class_names: tuple[str, ...]

    @abc.abstractmethod
    def labels(self, index: int) -> Int8[np.ndarray, " classes"]:
        """Returns the labels of an image, without reading it."""

    def label(self, index: int) -> int:
        """Returns 0, as shares of a split are not of each class: an image has several."""
        return 0

    def key(self, index: int) -> str:
        """Returns the name by which chance sorts a record, as that of a Source."""
        return os.path.basename(self.describe(index))


class LabelSetShare(LabelSets):
    """Some records of another source.

    Args:
      source: Source of all records.
      indices: Indices of records of the source.
    """

    def __init__(self, source: LabelSets, indices: Sequence[int]):
        self._source, self._indices = source, indices
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self._indices[index]]

    def labels(self, index: int) -> Int8[np.ndarray, " classes"]:
        """Returns the labels of an image."""
        return self._source.labels(self._indices[index])

    def describe(self, index: int) -> str:
        """Returns the name of the record in the whole."""
        return self._source.describe(self._indices[index])

    def parts(self) -> Mapping[str, str]:
        """Returns the digests of the whole."""
        return self._source.parts()


class LabelTable(LabelSets):
    """Images named in a table, each with any number of labels.

    The table has a header: `path` or `file_name`, and either `labels`, a cell with the names of all
    classes that are there (an empty one: none), or a column for each class, whose cells are 1, 0,
    or -1 or empty where nobody knows. `.tsv` is split at tabs, anything else at commas.

    Classes of a column `labels` are sorted by name, or in the order of a file `classes.txt` beside
    the table; columns are in their own order. Those that a run has and the columns of another
    table lack are unknown there.

    Args:
      table: Path of the table; paths in it are relative to its folder.
      separator: Text between two names in a cell of `labels`.
      class_names: Class names by label, of the training split or of a run; None: those of the
        table.

    Raises:
      DataError: if a row is wrong; the message names the line.
    """

    def __init__(self, table: str, *, separator: str, class_names: tuple[str, ...] | None = None):
        self.path = table
        try:
            columns, rows = _read(table)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{table} cannot be read as a table ({reason(error)}); expected UTF-8 text with "
                f"{_HEADER}."
            ) from error
        folder = os.path.dirname(table)
        self._lines = [line for line, _, _ in rows]
        self.paths = [os.path.join(folder, image) for _, image, _ in rows]
        first: dict[str, int] = {}
        for line, path in zip(self._lines, self.paths, strict=True):
            if not os.path.isfile(path):
                raise DataError(
                    f"{table}, line {line}: there is no file {path}; paths are relative to the "
                    "folder of the table."
                )
            if first.setdefault(path, line) != line:
                raise DataError(
                    f"{table}, line {line}: {path} has a row already, line {first[path]}; give an "
                    "image one row with all its labels."
                )
        if columns is None:
            sets = [_split(cells[0], separator) for _, _, cells in rows]
            found = sorted(set().union(*sets)) if sets else []
            listed = read_class_names(os.path.join(folder, "classes.txt"))
            self.class_names = class_names or listed or tuple(found)
        else:
            sets, found = [], list(columns)
            self.class_names = class_names or columns
        place = {name: label for label, name in enumerate(self.class_names)}
        unknown = [name for name in found if name not in place]
        if unknown or len(place) < len(self.class_names) or not place:
            problem = f"has the classes {some_names(unknown)}, not among" if unknown else "repeats"
            if not place:
                raise DataError(f"{table} names no class: expected {_HEADER}.")
            raise DataError(f"{table} {problem} the {len(place)} classes of the run; correct it.")
        if columns is None:
            self._labels = np.zeros((len(rows), len(place)), np.int8)
            for row, names in zip(self._labels, sets, strict=True):
                row[[place[name] for name in names]] = 1
        else:
            self._labels = np.full((len(rows), len(place)), UNKNOWN, np.int8)
            for i, (line, _, cells) in enumerate(rows):
                for name, cell in zip(columns, cells, strict=True):
                    if cell not in _CELLS:
                        raise DataError(
                            f"{table}, line {line}: the cell of {name!r} is {shorten(cell)!r}, but "
                            "1 (there), 0 (not there), or -1 or empty (unknown) was expected; "
                            "names of classes belong into one column `labels`."
                        )
                    self._labels[i, place[name]] = _CELLS[cell]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            with open(self.paths[index], "rb") as file:
                return {"image": file.read(), "label": self._labels[index]}
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read ({reason(error)}).") from error

    def labels(self, index: int) -> Int8[np.ndarray, " classes"]:
        """Returns the labels of an image."""
        return self._labels[index]

    def describe(self, index: int) -> str:
        """Returns the image's path and the line that names it."""
        return f"{self.paths[index]} ({os.path.basename(self.path)}, line {self._lines[index]})"

    def parts(self) -> dict[str, str]:
        """Returns a digest of the names and sizes of all files, and one of their labels."""
        root = os.path.join(os.path.dirname(self.path), "")
        names = [path.removeprefix(root) for path in self.paths]
        return {
            "images": digest_files(names, file_sizes(self.paths)),
            "labels": digest([*self.class_names, self._labels.tobytes().hex()]),
        }


class ShapeSets(LabelSets):
    """Images of one to three shapes: a label for each shape, and one for each colour of a shape.

    As in ShapesSource, an image depends on the split and the index alone.

    Args:
      split: Name of the split: train | test.
      num_train: Number of images of the train split.
      num_eval: Number of images of the test split.
      difficulty: Difficulty of the images: easy | medium | hard.
      image_size: Size of the images in pixels, one side or (height, width).
    """

    class_names = (*SHAPES, *COLORS)

    def __init__(
        self,
        split: str,
        *,
        num_train: int = 50_000,
        num_eval: int = 2_000,
        difficulty: str = "medium",
        image_size: int | tuple[int, int] = 224,
    ):
        options = check_shapes_options(split, difficulty, image_size)
        self._difficulty, (self._height, self._width) = options
        self._split = split
        self._num_examples = num_train if split == "train" else num_eval

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = generator(self._split, index)
        scene = draw_group(rng, index, self._difficulty)
        image = draw_image(rng, scene, self._difficulty, height=self._height, width=self._width)
        return {"image": image, "label": self._labels_of(scene)}

    def labels(self, index: int) -> Int8[np.ndarray, " classes"]:
        """Returns the labels of an image, without drawing it."""
        return self._labels_of(draw_group(generator(self._split, index), index, self._difficulty))

    def _labels_of(self, scene: Scene) -> Int8[np.ndarray, " classes"]:
        there = {name for item in scene.objects for name in (item.shape, item.color)}
        return np.array([name in there for name in self.class_names], np.int8)

    def describe(self, index: int) -> str:
        """Returns the split and the index."""
        return f"shapes {self._split} image {index}"


def open_label_sets(
    name: str,
    split: str,
    *,
    path: str = "",
    separator: str = ";",
    class_names: tuple[str, ...] | None = None,
    image_size: int | tuple[int, int] = 224,
    shapes: Mapping[str, Any] | None = None,
) -> LabelSets:
    """Opens one split of a data set whose images have several labels.

    Args:
      name: Name of the data set: `shapes`; `list`, whose split is a table; `folder`, whose split is
        a folder of images with a table `labels.csv` or `metadata.csv` in it.
      split: Split of the data; a share of one is `train[:80%]`.
      path: Folder that holds the splits; `~` is expanded. `shapes` needs none.
      separator: Text between two names in a cell of labels.
      class_names: Class names by label, of the training split or of a run; None: those of the
        split.
      image_size: Size of the images in pixels, one side or (height, width), for `shapes`.
      shapes: Further options of `shapes`: num_train, num_eval, difficulty.

    Raises:
      DataError: where the name is unknown, the data is missing or malformed, or has other classes.
    """
    share = None
    if name == "shapes":
        source: LabelSets = ShapeSets(split, image_size=image_size, **(shapes or {}))
    elif name in ("list", "folder"):
        split, share = parse_share(split)
        table = find_table(path, split) if name == "list" else _table_in(path, split)
        source = LabelTable(table, separator=separator, class_names=class_names)
        if name == "folder":
            _check_rows(source.path, source.paths)
    else:
        raise DataError(
            f"With --config.task=multi_label, --config.data.name must be one of {', '.join(NAMES)},"
            f" got {name!r}."
        )
    if class_names is not None and source.class_names != tuple(class_names):
        raise DataError(
            f"The run has {len(class_names)} classes, but {name} has {len(source.class_names)}: "
            "give the data of the run."
        )
    if share is not None:
        source = LabelSetShare(source, share_indices(source, share)[0])
    if len(source) == 0:
        raise DataError(f"The split {split!r} of {name} is empty; give a split that holds images.")
    return source


def hold_out_label_sets(source: LabelSets, percent: float) -> tuple[LabelSets, LabelSets]:
    """Returns the records to train and to evaluate on, the latter so many percent.

    Args:
      source: Source of all records.
      percent: Percent of the records that is held out, more than 0 and less than 100.

    Raises:
      DataError: if that is no image at all.
    """
    train, evaluation = share_indices(source, [0.0, 100 - percent, 100.0])
    if not (train and evaluation):
        raise DataError(
            f"--config.data.eval_split={percent:g}% is {len(evaluation)} of {len(source)} images;"
            " give a share that leaves some to both."
        )
    return LabelSetShare(source, train), LabelSetShare(source, evaluation)


def label_matrix(source: LabelSets) -> Int8[np.ndarray, "images classes"]:
    """Returns the labels of all images."""
    return np.stack([source.labels(index) for index in range(len(source))])


def _read(path: str) -> tuple[tuple[str, ...] | None, list[tuple[int, str, list[str]]]]:
    """Returns the columns of classes, None if a cell names them, and (line, path, cells) each."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
        header = [one_line(cell.strip()) for cell in next(reader, [])]
        lower = [name.lower() for name in header]
        image = next((lower.index(name) for name in _PATHS if name in lower), None)
        one = next((lower.index(name) for name in _SETS if name in lower), None)
        places = [one] if one is not None else [i for i in range(len(header)) if i != image]
        if image is None or not places or len(set(header)) < len(header):
            raise DataError(
                f"{path} has the columns {shorten(', '.join(header))!r}, but {_HEADER} was "
                "expected, none twice."
            )
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header) or not cells[image]:
                raise DataError(
                    f"{path}, line {reader.line_num}: expected {len(header)} cells with a path, "
                    f"but the row is {shorten(cells)}."
                )
            rows.append((reader.line_num, cells[image], [cells[i].strip() for i in places]))
    return None if one is not None else tuple(header[i] for i in places), rows


def _split(cell: str, separator: str) -> set[str]:
    return {one_line(name.strip()) for name in cell.split(separator) if name.strip()}


def _table_in(path: str, split: str) -> str:
    folder = os.path.join(os.path.expanduser(path), split)
    for name in _IN_FOLDER:
        if path and os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise missing_data(
        f"The table of the split {split!r}",
        where=path,
        prepare=f"expected <path>/<split>/{_IN_FOLDER[0]} (or {', '.join(_IN_FOLDER[1:])}) beside "
        f"the images, with {_HEADER}",
    )


def _check_rows(table: str, paths: list[str]) -> None:
    """Checks that every image in the folder of a table has a row in it."""
    folder = os.path.dirname(table)
    named = {os.path.normpath(path) for path in paths}
    images = [name for name in list_files(folder)[0] if is_image(name)]
    others = [x for x in images if os.path.normpath(os.path.join(folder, x)) not in named]
    if others:
        raise DataError(
            f"{table} has no row for {len(others)} of the {len(images)} images beside it, such as "
            f"{shorten(others[0])}: add them, or take the images out."
        )
