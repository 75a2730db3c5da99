"""The sentence that says how a file and a model differ."""

import difflib
from collections.abc import Iterable, Sequence


def complaint(
    missing: Sequence[str], extra: Sequence[str], misfits: Sequence[str], names: Iterable[str]
) -> str:
    """Returns the message that says how a file and a model differ.

    Args:
      missing: Names that the model needs and the file lacks.
      extra: Names in the file that the model does not know.
      misfits: Phrases about arrays of a wrong shape.
      names: All names in the file.
    """

    def listing(few: Sequence[str], others: Iterable[str], place: str) -> str:
        others, texts = list(others), []
        for name in few[:3]:
            nearest = difflib.get_close_matches(name, others, n=1)
            texts.append(f"{name!r}" + (f" (nearest {place}: {nearest[0]!r})" if nearest else ""))
        return ", ".join(texts) + (f" and {len(few) - 3} more" if len(few) > 3 else "")

    parts = []
    if missing:
        parts.append(f"the file lacks {listing(missing, extra or names, 'in the file')}")
    if extra:
        parts.append(f"the model has no use for {listing(extra, missing, 'wanted')}")
    if misfits:
        rest = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        parts.append("; ".join(misfits[:3]) + rest)
    return (
        f"The weights do not fit the model: {'; '.join(parts)}. Check the model's name and options "
        "and where the file comes from (source=...)."
    )
