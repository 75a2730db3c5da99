"""Multiply-adds of every model against published figures, to the printed digits."""

import csv
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.layers.conv import Conv
from jaxvision.layers.convolve import convolve
from jaxvision.profiling.cost import (
    abstract_model,
    count_work,
    image_batch,
    total,
    trace_model,
)
from jaxvision.profiling.profile import model_options

# Counted with torch's flop counter / 2 in torchvision, timm and transformers: convolutions and
# matrix products, those of attention included. Of PVT, the figures of the paper.
with open(pathlib.Path(__file__).with_name("published.csv"), newline="") as file:
    PUBLISHED = list(csv.DictReader(file))


def known(row):
    try:
        return row["name"] in jv.get_spec(row["name"]).peers.values()
    except InputError:
        return False


ROWS = [row for row in PUBLISHED if known(row)]


def own_name(row):
    return jv.get_spec(row["name"]).name


# The models whose `num_params` is that of a published row, against which each is built.
COUNTED = {
    own_name(row) for row in ROWS if int(row["parameters"]) == jv.get_spec(row["name"]).num_params
}


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@functools.cache  # a size of torchvision, timm and transformers is one model here
def counted(name, size):
    model = abstract_model(name, **model_options(name, size, size))
    images = image_batch(model, size, size)
    return model, *total(count_work(lambda model, images: model(images), model, images))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['library']}-{r['name']}-{r['image_size']}")
def test_macs_are_the_published_ones(row):
    size = int(row["image_size"])
    model, macs, _ = counted(own_name(row), size)
    digits = len(row["gmacs"].partition(".")[2])
    assert f"{macs / 1e9:.{digits}f}" == row["gmacs"]
    assert num_params(model) == int(row["parameters"])


@pytest.mark.parametrize("name", sorted(set(jv.list_models()) - COUNTED))
def test_num_params_of_the_other_models(name):
    assert num_params(abstract_model(name)) == jv.get_spec(name).num_params


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", "11.11"), ("vit_b16", "23.90"), ("resnet18", "2.48")]
)
def test_activations_are_those_of_timms_csv(name, millions):
    assert f"{counted(name, 224)[2] / 1e6:.2f}" == millions


def test_the_table_has_rows():
    assert len(PUBLISHED) > 130 and len(ROWS) > 120


def test_depthwise_separable_costs_what_the_paper_says():
    """Howard et al. 2017, section 3.1: 1/N + 1/K^2 of the full convolution."""
    rngs, dtypes = nnx.Rngs(0), {"dtype": "float32", "param_dtype": "float32"}
    images = jnp.zeros((1, 14, 14, 64))
    full = Conv(64, 128, 3, rngs=rngs, **dtypes)
    depthwise = Conv(64, 64, 3, groups=64, rngs=rngs, **dtypes)
    pointwise = Conv(64, 128, 1, rngs=rngs, **dtypes)
    full_macs, _ = total(count_work(full, images))
    macs, _ = total(count_work(lambda x: pointwise(depthwise(x)), images))
    assert full_macs == 9 * 64 * 128 * 14 * 14
    assert macs / full_macs == pytest.approx(1 / 128 + 1 / 9, rel=1e-12)
    assert round(macs / full_macs, 5) == 0.11892


def test_depthwise_counts_its_stride_and_groups():
    def strided(x, kernel):
        return convolve(x, kernel, stride=2, sides=((1, 1), (1, 1)))

    work = count_work(strided, jnp.zeros((2, 8, 6, 5)), jnp.zeros((3, 3, 1, 5)))
    assert total(work) == (9 * 2 * 4 * 3 * 5, 2 * 4 * 3 * 5)
    grouped = Conv(8, 12, 3, groups=4, dtype="float32", param_dtype="float32", rngs=nnx.Rngs(0))
    assert total(count_work(grouped, jnp.zeros((1, 5, 5, 8))))[0] == 9 * 2 * 12 * 25


def test_loops_count_every_turn_and_branches_the_longest():
    matrix = jnp.zeros((4, 4))

    def scanned(x):
        return jax.lax.scan(lambda carry, _: (carry @ matrix, None), x, length=7)[0]

    def branching(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ matrix @ matrix, lambda x: x @ matrix, x)

    assert total(count_work(scanned, jnp.zeros((2, 4))))[0] == 7 * 2 * 16
    assert total(count_work(branching, jnp.zeros((2, 4))))[0] == 2 * 2 * 16


def test_scan_and_loop_count_the_same_and_modules_add_up():
    size = {"width": 32, "depth": 3, "num_heads": 2, "patch_size": 8, "image_size": 32}
    traces = {}
    for scan in (True, False):
        model = abstract_model("vit_ti16", scan=scan, **size)
        traces[scan] = trace_model(model, image_batch(model, 32, 32))
    assert total(traces[True].work) == total(traces[False].work)
    by_path = {
        path: sum(work.macs for work in traces[False].work if work.path == path)
        for path in ("patch_embed", "blocks.2.attn", "blocks.2.mlp.fc1", "head")
    }
    assert by_path == {
        "patch_embed": 16 * 8 * 8 * 3 * 32,
        "blocks.2.attn": 2 * 17 * 17 * 32,
        "blocks.2.mlp.fc1": 17 * 32 * 128,
        "head": 32 * 1000,
    }
    assert traces[False].shapes["blocks.2.mlp.fc1"] == (1, 17, 128)
    assert traces[True].shapes["blocks.mlp.fc1"] == (1, 17, 128)


def test_attention_of_cudnn(monkeypatch):
    """By the same attention as two products."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)
    query = jax.ShapeDtypeStruct((2, 8, 3, 64), "bfloat16")
    keys = jax.ShapeDtypeStruct((2, 16, 3, 64), "bfloat16")

    def macs(implementation):
        attend = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
        return total(count_work(lambda query, keys: attend(query, keys, keys), query, keys))[0]

    assert macs("cudnn") == macs("xla") == 2 * 2 * 3 * 8 * 16 * 64
