"""The `list` source: a csv or tsv file of paths and labels."""

import csv
import os

import numpy as np

from jaxvision.data.fingerprint import digest_files, file_sizes
from jaxvision.data.source import (
    RUNS_WITHOUT_DATA,
    DataError,
    Example,
    Source,
    missing_data,
)
from jaxvision.data.sources.label_classes import label_classes
from jaxvision.errors import reason, shorten

_PREPARE = (
    "expected <path>/<split>, <path>/<split>.csv or <path>/<split>.tsv with the columns path and"
    " label"
)


class ListSource(Source):
    """Images named in a table of paths and labels.

    The table has the columns `path` and `label` under a header, or exactly these two with no
    header; `.tsv` is split at tabs, anything else at commas. Paths are relative to the table's
    folder. A label is the name of a class, a whole number such as 7 or 07 too. Classes are sorted
    by their names, or by their values where all are whole numbers, which must have no gap then. A
    file `classes.txt` beside the table lists the classes instead, one name a line in the order of
    the outputs; labels are these names, or their places from 0 on.

    Args:
      path: Folder of the table.
      split: File name of the table, with or without its suffix.
      class_names: Class names by label, of the training split or of a run; None: those of the
        table.

    Raises:
      DataError: if there is no table, or a row is wrong; the message names the line.
    """

    def __init__(self, path: str, split: str, *, class_names: tuple[str, ...] | None = None):
        self.path = find_table(path, split)
        try:
            rows = _read_rows(self.path)  # (line, image path, label text)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path} cannot be read as a table ({reason(error)}); {_PREPARE}, as UTF-8 "
                "text."
            ) from error
        folder = os.path.dirname(self.path)
        self._lines = np.array([line for line, _, _ in rows], np.int64)
        self._paths = [os.path.join(folder, image) for _, image, _ in rows]
        for line, image in zip(self._lines, self._paths, strict=True):
            if not os.path.isfile(image):
                raise DataError(
                    f"{self.path}, line {line}: there is no file {image}; paths are relative to the"
                    f" folder of the table. {RUNS_WITHOUT_DATA}"
                )
        self.class_names, self._labels = label_classes(
            [label for _, _, label in rows], self._line, self.path, class_names
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        try:
            with open(self._paths[index], "rb") as file:
                image = file.read()
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read ({reason(error)}).") from error
        return {"image": image, "label": int(self._labels[index])}

    def label(self, index: int) -> int:
        """Returns the label of an image, without reading it."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """Returns the image's path and the line that names it."""
        return f"{self._paths[index]} ({os.path.basename(self.path)}, line {self._lines[index]})"

    def key(self, index: int) -> str:
        """Returns the name of the image's file."""
        return os.path.basename(self._paths[index])

    def _line(self, index: int) -> str:
        return f"{self.path}, line {self._lines[index]}"

    def parts(self) -> dict[str, str]:
        """Returns a digest of the names and sizes of each class's files."""
        sizes, root = file_sizes(self._paths), os.path.join(os.path.dirname(self.path), "")
        files: list[list[tuple[str, int]]] = [[] for _ in self.class_names]
        for label, path, size in zip(self._labels.tolist(), self._paths, sizes, strict=True):
            files[label].append((path.removeprefix(root), size))
        return {
            name: digest_files(*zip(*some, strict=True))
            for name, some in zip(self.class_names, files, strict=True)
            if some
        }


def find_table(path: str, split: str) -> str:
    """Returns the path of the table of a split.

    Args:
      path: Folder of the table.
      split: File name of the table, with or without its suffix.

    Raises:
      DataError: if there is none.
    """
    base = os.path.join(os.path.expanduser(path), split)
    for candidate in (base, f"{base}.csv", f"{base}.tsv"):
        if path and os.path.isfile(candidate):
            return candidate
    raise missing_data(f"The table of the split {split!r}", where=path, prepare=_PREPARE)


def _read_rows(path: str) -> list[tuple[int, str, str]]:
    rows = []
    image_column, label_column, width = 0, 1, 2
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
        for number, cells in enumerate(reader):
            names = [cell.strip().lower() for cell in cells]
            if number == 0 and {"path", "label"} <= set(names):
                image_column, label_column = names.index("path"), names.index("label")
                width = len(names)
            elif cells:
                label = cells[label_column].strip() if len(cells) == width else ""
                if not label or not cells[image_column]:
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {width} cells with a path and a"
                        f" label, but the row is {shorten(cells)}."
                    )
                rows.append((reader.line_num, cells[image_column], label))
    return rows
