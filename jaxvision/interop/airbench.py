"""Names of Airbench's weights in the published code, whose network is one `nn.Sequential`."""

from typing import Any

import numpy as np

from jaxvision.errors import InputError
from jaxvision.interop.adapt import Source
from jaxvision.interop.rules import LINEAR, Rule, Weights, batch_norm, conv
from jaxvision.models.spec import param_dtype

_FIRST = 2  # place of the first stage, behind the whitening and its activation


def _rules(config: Any) -> tuple[Rule, ...]:
    rules = [*conv("0", "stem")]
    for stage, width in enumerate(config.stage_widths):
        for n in (1, 2):
            theirs, ours = f"{_FIRST + stage}.norm{n}", f"stages/{stage}/0/norm{n}"
            rules += conv(f"{_FIRST + stage}.conv{n}", f"stages/{stage}/0/conv{n}")
            rules += [rule for rule in batch_norm(theirs, ours) if not _is_scale(rule.source)]
            ones = np.ones(width, param_dtype(config.dtype))
            rules.append(Rule(f"{theirs}.weight", f"{ours}/mean", constant=ones))
    head = _FIRST + len(config.stage_widths) + 2  # behind the pooling and the flattening
    return *rules, Rule(f"{head}.weight", "head/kernel", LINEAR)


def _is_scale(name: str) -> bool:
    return ".norm" in name and name.endswith(".weight")


def _checked(weights: Weights, config: Any) -> Weights:
    """Returns the weights, whose norms have no scale but 1."""
    for name, array in weights.items():
        if _is_scale(name) and np.any(array != 1.0):
            raise InputError(
                f"{name} is not 1 everywhere: an Airbench has no scale in its norms, give weights "
                "that were trained without."
            )
    return dict(weights)


SOURCES = {
    "airbench": Source(
        rules=_rules,
        requires={"whiten_size": 2, "activation": "gelu", "head_scale": 1 / 9},
        prepare=_checked,
    )
}
