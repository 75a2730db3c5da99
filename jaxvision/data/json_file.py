"""Reads JSON files that a user may have cut short or mistaken for another."""

import json
import os
from typing import Any

from jaxvision.data.source import DataError


def read_json(path: str, *, wanted: str) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
      path: Path of the file; `~` is expanded.
      wanted: Description of what the file should be, for the text of an error.

    Raises:
      DataError: if it is missing, unreadable, no JSON, or no object.
    """
    path = os.path.expanduser(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {wanted}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); expected {wanted}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected {wanted}.")
    return content
