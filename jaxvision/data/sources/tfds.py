"""The `tfds:<name>` source: prepared TensorFlow Datasets, read without TensorFlow."""

import os
from typing import Any

from jaxvision.data.source import (
    CorruptImageError,
    DataError,
    Example,
    NumberedSource,
    missing_data,
)


class TfdsSource(NumberedSource):
    """A tfds data set with an image and a label that was prepared as ArrayRecord.

    Images stay encoded: tfds' own decoding differs with the libraries that are installed (an RGBA
    PNG has four channels, a CMYK JPEG three or four), and this project decodes in one place only.

    Args:
      name: Name of the data set, with an optional config and version (`imagenet2012`,
        `cifar10:3.0.2`).
      split: Split or part of one: `train`, `train[:90%]`.
      path: Folder that is tfds' `data_dir`; "" is its default, ~/tensorflow_datasets.

    Raises:
      DataError: if tfds is not installed, or the data set was not prepared in that folder.
    """

    def __init__(self, name: str, split: str, *, path: str):
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise DataError(
                f"tfds:{name} needs tensorflow-datasets ({error}); pip install tensorflow-datasets."
            ) from error
        data_dir = os.path.expanduser(path) if path else None
        code = f"tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record')"
        missing = missing_data(
            f"The prepared data set tfds:{name}",
            where=data_dir or "~/tensorflow_datasets",
            prepare=(
                "prepare it once with `pip install importlib_resources tensorflow-cpu` and"
                f" `{code}.download_and_prepare()` (only this step may need TensorFlow)"
            ),
        )
        try:
            builder: Any = tfds.builder(name, data_dir=data_dir)
        except Exception as error:  # tfds has a class of its own for each way of not being there
            raise missing from error
        if not builder.is_prepared():
            raise missing
        decode: Any = tfds.decode  # its names are loaded lazily, which pyright does not see
        decoders = {"image": decode.SkipDecoding()}
        try:
            self._data: Any = builder.as_data_source(split=split, decoders=decoders)
        except NotImplementedError as error:  # prepared as TFRecord, which only TensorFlow reads
            raise DataError(
                f"tfds:{name} was prepared in a format that needs TensorFlow; prepare it again with"
                f" `{code}.download_and_prepare()`."
            ) from error
        except Exception as error:
            raise DataError(
                f"tfds:{name} has the splits {', '.join(builder.info.splits)}; {split!r} cannot be"
                f" opened ({error})."
            ) from error
        features: Any = builder.info.features
        if "image" not in features or "label" not in features:
            raise DataError(
                f"tfds:{name} has the features {sorted(features)}, but image and label are needed."
            )
        self.class_names = tuple(features["label"].names)
        self._name = f"tfds:{name} {split}"

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        """Returns one example.

        Raises:
          CorruptImageError: if its record is damaged.
        """
        try:
            record = self._data[index]
            return {"image": record["image"], "label": int(record["label"])}
        except Exception as error:  # the reader has no exception class of its own
            raise CorruptImageError(f"its record is damaged ({error})") from error

    def _file(self, index: int) -> str:
        try:
            name = self._data[index].get("file_name", b"")
        except Exception:  # noqa: BLE001 - as above
            name = b""
        return name.decode() if isinstance(name, bytes) else str(name)
