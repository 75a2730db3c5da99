"""The tree of modules, the table of times, and the calls that are watched for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interop import helpers

from jaxvision.errors import InputError
from jaxvision.profiling.module_calls import watch_calls
from jaxvision.profiling.profile import Timing, module_tree, time_model, times_table, tree_table
from jaxvision.profiling.table import markdown_table, text_table


def test_tree_of_a_resnet():
    nodes = {node.path: node for node in module_tree("resnet50", 64, 96, depth=3)}
    root = nodes[""]
    assert root.parameters == 25_557_032 and root.shape == (1, 1000)
    # Component counts of the published model, by stage.
    parameters = {path: node.parameters for path, node in nodes.items()}
    assert parameters["stem"] == 9_536 and parameters["head"] == 2_049_000
    stages = [parameters[f"stages.{stage}"] for stage in range(4)]
    assert stages == [215_808, 1_219_584, 7_098_368, 14_964_736]
    top = [path for path in nodes if path and "." not in path]
    assert top == ["stem", "stages", "head"]
    assert sum(nodes[path].macs for path in top) == root.macs
    assert sum(nodes[path].activations for path in top) == root.activations
    assert nodes["stages.3"].shape == (1, 2, 3, 2048)
    assert list(nodes).index("stages.0.2") < list(nodes).index("stages.1")
    lines = tree_table(nodes.values()).splitlines()
    assert "stem ConvNormAct" in lines[2] and lines[2].endswith("32 x 48 x 64")


def test_tree_of_a_vit_is_built_for_the_size():
    nodes = {node.path: node for node in module_tree("vit_ti16", 32, 64, depth=1)}
    assert list(nodes) == ["", "patch_embed", "blocks", "norm", "head"]
    assert nodes["blocks"].shape == (1, 2 * 4 + 1, 192)
    with pytest.raises(InputError, match="30 x 64 pixels does not divide"):
        module_tree("vit_ti16", 30, 64, depth=1)


def test_times():
    (timing,) = time_model("resnet18", 32, 32, [2])
    assert timing.batch == 2 and timing.milliseconds > 0
    assert timing.images_per_second == pytest.approx(2e3 / timing.milliseconds)
    # The float32 weights and the images are the least.
    assert timing.peak_bytes > 4 * 11_689_512
    table = times_table("resnet18", module_tree("resnet18", 32, 32, depth=1)[0], [timing])
    assert table.splitlines()[1].startswith("resnet18  11,689,512  0.038")


def test_time_table_is_written_in_units():
    root = module_tree("resnet18", 32, 32, depth=1)[0]
    line = times_table("x", root, [Timing(8, 2.0, 4000.0, 3 * 2**30)]).splitlines()[1]
    assert line.split() == ["x", "11,689,512", "0.038", "8", "2.00", "4000.0", "3.00", "GiB"]


@pytest.mark.parametrize("scan", [False, True])
def test_watched_calls_see_every_module_and_change_nothing(scan):
    model = helpers.vit(scan=scan)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    call, plain = type(model).__call__, model(images)
    seen = []

    def around(path, make):
        seen.append(path)
        return make()

    with watch_calls(model, around) as watched:
        np.testing.assert_array_equal(watched(images), plain)
    block = "blocks" if scan else "blocks.1"
    assert {"", "patch_embed", f"{block}.attn.query", f"{block}.mlp", "head"} <= set(seen)
    assert seen.count("head") == 1
    assert type(model).__call__ is call and not hasattr(model, "call_path")
    seen.clear()
    model(images)
    assert not seen


def test_watching_ends_with_an_error_too():
    class Child(nnx.Linear):  # inherits its call
        pass

    model = Child(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ZeroDivisionError), watch_calls(model, lambda path, make: 1 / 0) as watched:
        watched(jnp.zeros((1, 2)))
    assert "__call__" not in vars(Child)
    assert model(jnp.zeros((1, 2))).shape == (1, 2)


def test_tables():
    rows = [("a", "1", "x"), ("bb", "10", "")]
    assert text_table(("name", "n", "y"), rows) == "name   n  y\na      1  x\nbb    10"
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
