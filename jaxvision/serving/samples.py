"""Images that the page offers to try."""

import logging

import numpy as np

from jaxvision.data.image_files import ImageFile, find_images
from jaxvision.errors import InputError
from jaxvision.evaluation.labelled import DataOptions, open_eval_split
from jaxvision.interop.run_folder import is_run
from jaxvision.serving.engine import Engine

logger = logging.getLogger(__name__)

COUNT = 8


def find_samples(path: str | None, weights: str, engine: Engine) -> list[ImageFile]:
    """Returns images to try, spread over all there are.

    Args:
      path: Path of an image, folder or zip; None: the evaluation images of a run, if they are here.
      weights: Folder of a run, or anything else that weights come from.
      engine: Model behind the server.

    Raises:
      InputError: if there is no image at the path.
    """
    if path is not None:
        return _spread(find_images(path))
    if not is_run(weights):
        return []
    size = engine.blank.shape[:2]
    try:
        source = open_eval_split(
            DataOptions(), weights, image_size=size, class_names=engine.class_names
        )
    except InputError as error:
        logger.info("No samples on the page: %s", error)
        return []

    def image(index: int) -> ImageFile:
        def read() -> bytes | np.ndarray:
            return source[index]["image"]

        return ImageFile(source.describe(index), read, lambda: len(read()))

    return _spread([image(i) for i in np.linspace(0, len(source) - 1, COUNT).astype(int).tolist()])


def _spread(images: list[ImageFile]) -> list[ImageFile]:
    places = np.linspace(0, len(images) - 1, min(COUNT, len(images))).astype(int)
    return [images[place] for place in places]
