import numpy as np

from jaxvision.metrics.confusion import class_scores, confusion_matrix, most_confused

# The example of scikit-learn's page of classification_report, and what is printed there.
LABELS = np.array([0, 1, 2, 2, 2])
GUESSES = np.array([0, 0, 2, 2, 1])


def test_scores_are_those_of_scikit_learn():
    scores = class_scores(LABELS, GUESSES, num_classes=3)
    np.testing.assert_allclose(scores["precision"], [0.5, 0.0, 1.0])
    np.testing.assert_allclose(scores["recall"], [1.0, 0.0, 2 / 3])
    np.testing.assert_allclose(scores["f1"], [2 / 3, 0.0, 0.8])
    np.testing.assert_array_equal(scores["support"], [1, 1, 3])


def test_a_class_without_examples_and_predictions_has_zeros():
    scores = class_scores(LABELS, GUESSES, num_classes=5)
    for name in ("precision", "recall", "f1", "support"):
        assert list(scores[name][3:]) == [0, 0]


def test_confusion_matrix():
    expected = [[1, 0, 0], [1, 0, 0], [0, 1, 2]]
    np.testing.assert_array_equal(confusion_matrix(LABELS, GUESSES, num_classes=3), expected)


def test_no_overflow_with_many_classes():
    labels = np.array([49_999], np.int32)
    assert most_confused(labels, np.array([1]), count=5) == [(49_999, 1, 1)]
    scores = class_scores(labels, labels, num_classes=50_000)
    assert scores["f1"].sum() == 1


def test_most_confused():
    labels = np.array([3, 3, 1, 0, 0, 2])
    guesses = np.array([0, 0, 2, 0, 1, 1])
    assert most_confused(labels, guesses, count=3) == [(3, 0, 2), (0, 1, 1), (1, 2, 1)]
    assert most_confused(labels, labels, count=3) == []
