"""Lengths of a run: given in updates, epochs, examples or percent; used in updates."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

from jaxvision.errors import InputError

# An option of a length is <name>_<unit>.
LENGTH_UNITS = ("steps", "epochs", "examples", "percent")


def drop_other_units(config: Any, given: Iterable[str]) -> None:
    """Sets a length of a recipe card to none that the command line gives in another unit.

    Args:
      config: Config of configs/common.py.
      given: Names of the options on the command line, such as "total_steps".
    """
    given = frozenset(given)
    for option in given:
        *groups, name = option.split(".")
        stem, _, unit = name.rpartition("_")
        group = functools.reduce(getattr, groups, config)
        if unit not in LENGTH_UNITS:
            continue
        for other in (f"{stem}_{unit}" for unit in LENGTH_UNITS):
            if other in group and ".".join([*groups, other]) not in given:
                group[other] = type(group[other])()


@dataclasses.dataclass(frozen=True)
class Cadence:
    """When something happens that a run does again and again.

    Attributes:
      updates: Number of updates between two times, a whole one or not, as an epoch is; 0: never.
    """

    updates: int | float

    def count(self, step: int) -> int:
        """Returns which time it is after so many updates, from 1 on; 0: it is none."""
        number = round(step / self.updates) if self.updates else 0
        return number if round(number * self.updates) == step else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long a run is.

    Attributes:
      total_steps: Number of updates of the whole run.
      num_examples: Number of examples of the training split.
      batch_size: Number of examples of one update.
    """

    total_steps: int
    num_examples: int
    batch_size: int

    @property
    def total_epochs(self) -> float:
        """Passes over the training split."""
        return self.total_steps * self.batch_size / self.num_examples

    def step_of(self, epoch: int | float) -> int:
        """Returns the updates that were done after so many passes over the training split."""
        return round(epoch * self.num_examples / self.batch_size)

    @property
    def epochs(self) -> Cadence:
        """The ends of the epochs."""
        return Cadence(self.num_examples / self.batch_size)

    def cadence(self, options: Any, *, group: str) -> Cadence:
        """Returns when something happens whose options are `every_steps`, `every_epochs`, ...

        Args:
          options: Group of options with these attributes.
          group: Name of the group in the schema, for messages.

        Raises:
          InputError: if it is given in two units, or as something else than a number above 0.
        """
        return Cadence(max(1, each) if (each := self._exact(options, "every", group)) else 0)

    def updates(self, options: Any, name: str, *, group: str) -> Any:
        """Returns a length in updates, at least 1 if it is given at all.

        It is given in one unit, as a number or as a tuple of them; 0 or () in the others.

        Args:
          options: Group of options with the attributes `<name>_steps`, `<name>_epochs`, ...
          name: Name of the length, such as "warmup".
          group: Name of the group in the schema, for messages.

        Returns:
          The length as updates: a whole number or a tuple of them; 0 or () if it is not given.

        Raises:
          InputError: if it is given in two units, or as something else than numbers above 0.
        """
        exact = self._exact(options, name, group)
        if not exact:
            return exact
        if isinstance(exact, tuple):
            return tuple(max(1, round(x)) for x in exact)
        return max(1, round(exact))

    def _exact(self, options: Any, name: str, group: str) -> Any:
        """Returns a length in updates, which may be no whole number; see `updates`."""
        values = {unit: getattr(options, f"{name}_{unit}") for unit in LENGTH_UNITS}
        given = {unit: value for unit, value in values.items() if value}
        if len(given) > 1:
            listing = " and ".join(f"{name}_{unit}={value}" for unit, value in given.items())
            raise InputError(
                f"Give {group}.{name}_* in one unit, got {listing}; set the others to 0."
            )
        if not given:
            return values["steps"]
        ((unit, value),) = given.items()
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(x, int | float) and 0 < x < math.inf for x in numbers):
            raise InputError(f"{group}.{name}_{unit} must be 0 (off) or above, got {value}.")
        steps_of = {
            "steps": 1.0,
            "epochs": self.num_examples / self.batch_size,
            "examples": 1 / self.batch_size,
            "percent": self.total_steps / 100,
        }
        updates = tuple(x * steps_of[unit] for x in numbers)
        return updates if isinstance(value, tuple) else updates[0]
