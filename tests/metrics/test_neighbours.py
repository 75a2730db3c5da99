import numpy as np
import pytest

from jaxvision.metrics.neighbours import knn_accuracy


def clouds(count, *, seed, width=6, classes=4):
    """Overlapping classes, so that votes are close."""
    centres = np.random.default_rng(0).standard_normal((classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return centres[labels] + rng.standard_normal((count, width)), labels


@pytest.mark.parametrize("neighbours", [1, 20, 200])
def test_votes_are_those_of_scikit_learn(neighbours):
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, labels = clouds(150, seed=1)
    test, truth = clouds(1_500, seed=2)
    theirs = neighbors.KNeighborsClassifier(
        min(neighbours, 150),
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / 0.07),
        algorithm="brute",
    )
    expected = np.mean(theirs.fit(train, labels).predict(test) == truth)
    ours = knn_accuracy(train, labels, test, truth, num_classes=4, neighbours=neighbours)
    assert ours == expected and 0.4 < ours < 0.95


def test_nearer_neighbours_weigh_more():
    train = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels = np.array([0, 1, 1])
    test, truth = np.array([[5.0, 0.1]]), np.array([0])
    assert knn_accuracy(train, labels, test, truth, num_classes=2) == 1.0
    assert knn_accuracy(train, labels, test, truth, num_classes=2, temperature=10.0) == 0.0
