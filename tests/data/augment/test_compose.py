import numpy as np
import pytest

from jaxvision.data.augment.compose import Compose, OneOf, Sometimes
from jaxvision.errors import InputError

IMAGE = np.zeros((2, 2, 3), np.uint8)


def add(number):
    return lambda image, rng: image + np.uint8(number)


def results(operation, count=3000):
    rng = np.random.default_rng(0)
    return np.array([operation(IMAGE, rng)[0, 0, 0] for _ in range(count)])


def test_compose_applies_in_turn():
    twice = Compose((add(3), lambda image, rng: image * np.uint8(2), add(1)))
    assert (twice(IMAGE, None) == 7).all()


def test_one_of_applies_one():
    seen = results(OneOf((add(1), add(2), add(5)), probability=0.6))
    shares = [np.mean(seen == level) for level in (0, 1, 2, 5)]
    assert sum(shares) == pytest.approx(1.0)
    np.testing.assert_allclose(shares, [0.4, 0.2, 0.2, 0.2], atol=0.03)
    assert (results(OneOf((add(1),)), 100) == 1).all()
    assert (results(OneOf((add(1),), 0.0), 100) == 0).all()


def test_sometimes_applies_its_share():
    assert abs(np.mean(results(Sometimes(add(1), 0.3))) - 0.3) < 0.03


def test_nesting_uses_one_generator():
    nested = OneOf((Compose((add(1), Sometimes(add(10)))), Sometimes(add(100))), 0.9)
    assert set(results(nested).tolist()) == {0, 1, 11, 100}
    np.testing.assert_array_equal(results(nested), results(nested))


def test_errors():
    with pytest.raises(InputError, match="chooses among operations"):
        OneOf(())
    with pytest.raises(InputError, match=r"OneOf.probability is a probability in \[0, 1\]"):
        OneOf((add(1),), 1.5)
    with pytest.raises(InputError, match="Sometimes.probability"):
        Sometimes(add(1), -0.5)
    with pytest.raises(ValueError, match="pass numpy.random.default_rng"):
        OneOf((add(1),))(IMAGE, None)
