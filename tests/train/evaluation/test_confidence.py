"""The confidence of single contrails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from contrail_train.contrails.confidence import FEATURES, Confidence, features, fit
from contrail_train.contrails.instances import features_of, separate
from contrail_train.evaluation.confidence import Observed, calibrate_confidence, observe
from contrail_train.evaluation.instance_scores import reliability_classes


def contrails(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, true probability of a match, and whether it does."""
    x = rng.normal([1, 2, 3, 1], [1, 1, 0.5, 0.3], (count, len(FEATURES)))
    p = expit(x @ [1.2, 0.3, 0.8, -1.5] - 1.5)
    return x, p, rng.random(count) < p


def test_a_fit_is_that_of_scikit_learn() -> None:
    x, _, hit = contrails(np.random.default_rng(0), 300)
    ours = fit(x, hit)
    standardised = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1.0, tol=1e-8).fit(standardised, hit)
    np.testing.assert_allclose(ours.of(x), theirs.predict_proba(standardised)[:, 1], atol=1e-4)


def test_confidence_is_near_the_true_probability_and_better_than_the_mean_probability() -> None:
    rng = np.random.default_rng(1)
    x, p, hit = contrails(rng, 4000)
    fold = rng.integers(5, size=400)
    rows = rng.integers(400, size=len(x))
    observed = [Observed(row, x[rows == row], expit(x[rows == row, 0]), hit[rows == row]) for row in range(400)]
    fitted = calibrate_confidence(observed, fold)
    assert fitted is not None
    assert (fitted["contrails"], fitted["hits"]) == (4000, hit.sum())
    assert np.abs(Confidence(fitted["weights"], fitted["bias"]).of(x) - p).mean() < 0.02
    assert fitted["brier"] < fitted["brier_of_mean_probability"] - 0.005
    for confidence, share, count in fitted["reliability"]:
        assert abs(confidence - share) < 4 * np.sqrt(confidence * (1 - confidence) / count)


def test_scores_of_a_fold_do_not_depend_on_its_own_matches() -> None:
    rng = np.random.default_rng(2)
    x, _, hit = contrails(rng, 500)
    fold = np.arange(500) % 5

    def brier_of_fold(matches: np.ndarray) -> float:
        observed = [Observed(row, x[[row]], np.full(1, 0.5), matches[[row]]) for row in range(500)]
        fitted = calibrate_confidence(observed, fold)
        assert fitted is not None
        return fitted["brier"]

    rest = fold != 3
    other = fit(x[rest], hit[rest]).of(x[~rest])
    inverted = np.where(fold == 3, ~hit, hit)
    expected = {}
    for name, matches in (("as it is", hit), ("inverted", inverted)):
        total = np.square(other - matches[~rest]).sum()
        for k in (0, 1, 2, 4):
            own = fold == k
            total += np.square(fit(x[~own], matches[~own]).of(x[own]) - matches[own]).sum()
        expected[name] = total / 500
    assert brier_of_fold(hit) == pytest.approx(expected["as it is"])
    assert brier_of_fold(inverted) == pytest.approx(expected["inverted"])


def test_nothing_is_fitted_on_few_contrails() -> None:
    x, _, hit = contrails(np.random.default_rng(3), 40)
    observed = [Observed(row, x[[row]], np.full(1, 0.5), hit[[row]]) for row in range(40)]
    assert calibrate_confidence(observed, np.arange(40) % 5) is None
    assert calibrate_confidence([], np.zeros(0, int)) is None


def test_predicted_contrails_are_matched_to_those_of_the_label() -> None:
    p, target = np.zeros((60, 60), np.float32), np.zeros((60, 60), bool)
    p[10:13, 5:50], p[40:43, 5:50] = 0.9, 0.6
    target[11:14, 5:50] = True
    p[:, 30] = np.nan
    observed = observe(7, p >= 0.5, p, target)
    assert observed is not None
    assert observed.row == 7
    assert observed.is_hit.tolist() == [True, False]
    assert observed.mean_probability.tolist() == pytest.approx([0.9, 0.6])
    found = separate(p, threshold=0.5)
    one = found.instances[1]
    np.testing.assert_allclose(features_of(found, p)[1], features(np.full(9, 0.6), one.length, one.width), rtol=1e-5)
    assert observe(7, p > 1, p, target) is None
    noise = np.zeros((60, 60), bool)
    noise[::2, ::2] = True
    assert observe(7, noise, p, target) is None


def test_certain_probabilities_give_finite_features() -> None:
    for p in (0.0, 1.0):
        assert np.isfinite(features(np.full(3, p), 3.0, 1.0)).all()
    assert reliability_classes(np.array([0.0, 1.0]), np.array([False, True])) == [[0, 0, 1], [1, 1, 1]]
