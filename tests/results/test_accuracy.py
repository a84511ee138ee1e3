"""An accuracy with its interval."""

from robustcls.results.records import Accuracy


def test_accuracy():
    assert Accuracy.of(431, 1000).accuracy == 0.431
    assert Accuracy.of(0, 0) == Accuracy(0, 0, 0.0, [0.0, 1.0])
