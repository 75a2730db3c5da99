"""--config.model.kwargs on the command line reaches every field of the chosen family's config."""

import pytest

from configs import caption_shapes, quickstart, smoke
from jaxvision.command_line import split_model_options
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.train.model_flags import set_model_options


def kwargs(card, *arguments, name=None):
    """Returns the model's options of a recipe card with arguments of the command line."""
    config = card.get_config()
    config.model.name = name or config.model.name
    rest, options = split_model_options(["launch.py", *arguments])
    assert rest == ["launch.py"]
    set_model_options(config, options)
    return read_options(config).model.kwargs


def test_fields_stand_beside_those_of_the_card():
    card = read_options(quickstart.get_config()).model.kwargs
    assert "drop_path_rate" not in card and card["depth"]
    for arguments in (
        ["--config.model.kwargs={'drop_path_rate': 0.1}"],
        ["--config.model.kwargs.drop_path_rate=0.1"],
        ["-config.model.kwargs.drop_path_rate", "0.1"],
    ):
        assert kwargs(quickstart, *arguments) == {**card, "drop_path_rate": 0.1}
    assert kwargs(quickstart, "--config.model.kwargs={}") == {}
    last = kwargs(quickstart, "--config.model.kwargs={}", "--config.model.kwargs={'depth': 3}")
    assert last == {"depth": 3}


def test_values_have_the_types_of_the_fields():
    fields = {
        "zero_init_last=true": True,
        "stage_depths=(1, 1)": (1, 1),
        "stage_widths=[8, 16]": (8, 16),
        "drop_path_rate=0": 0.0,
        "stem=cifar": "cifar",
    }
    given = [f"--config.model.kwargs.{field}" for field in fields]
    found = kwargs(smoke, "--config.model.kwargs={}", *given, name="resnet18")
    assert found == {field.split("=")[0]: value for field, value in fields.items()}
    types = {field.split("=")[0]: type(value) for field, value in fields.items()}
    assert {field: type(value) for field, value in found.items()} == types
    for field in ("stage_depths=1", "stage_depths=(1, 1.5)", "drop_path_rate=True", "stem=1"):
        with pytest.raises(InputError, match=f"kwargs.{field.split('=')[0]} must be "):
            kwargs(smoke, f"--config.model.kwargs.{field}", name="resnet18")


def test_a_part_of_a_field():
    card = read_options(caption_shapes.get_config()).model.kwargs["encoder_options"]
    found = kwargs(caption_shapes, "--config.model.kwargs.encoder_options.drop_path_rate=0.2")
    assert found["encoder_options"] == {**card, "drop_path_rate": 0.2}
    for options in ("{'depth': 2}", "{}"):
        found = kwargs(caption_shapes, f"--config.model.kwargs.encoder_options={options}")
        assert found["encoder_options"] == eval(options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("={1: 2}", "has no option '1'"),
        (".num_classes=5", "is an option of its own: --config.model.num_classes"),
        (".dtype=bfloat16", "is an option of its own: --config.model.dtype"),
        (".depth.x=2", "depth has no parts"),
    ],
)
def test_what_is_no_field(argument, message):
    with pytest.raises(InputError, match=message):
        kwargs(smoke, f"--config.model.kwargs{argument}")
