import jax
import pytest

from jaxvision.errors import InputError
from jaxvision.train.sharding import make_mesh, state_shardings


def test_mesh_takes_what_is_left():
    assert dict(make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2}


@pytest.mark.parametrize("sizes", [dict(fsdp=3), dict(data=2, fsdp=2), dict(fsdp=0), dict(data=0)])
def test_impossible_mesh(sizes):
    with pytest.raises(InputError, match="does not cover the 8 devices"):
        make_mesh(**sizes)


def test_rule_of_wrong_rank_is_named():
    tree = {"head": {"kernel": jax.ShapeDtypeStruct((4, 8), "float32")}}
    with pytest.raises(InputError, match="head/kernel of shape"):
        state_shardings(tree, mesh=make_mesh(), rules=(("kernel", ("fsdp",)),))
