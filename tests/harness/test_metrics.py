"""The scores against the definitions with scikit-learn and SciPy, and numbers worked out by hand."""

import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error

from harness.errors import UserError
from harness.metrics import DIRECTION, METRICS, score

# Values on, just below and just above every bound, as the float32 that files and models hold.
EDGES = [0.0, -0.0, 0.1, -0.1, 0.7, -0.7, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0, 2.5, -2.5, 3.0, -3.0, 3.5]
BESIDE = [float(np.nextafter(np.float32(edge), np.float32(side))) for edge in EDGES for side in (-9, 9)]
NUMBERS = st.one_of(
    st.sampled_from([float(np.float32(edge)) for edge in EDGES] + BESIDE), st.floats(-4, 4, width=32)
)


@st.composite
def pairs(draw):
    count = draw(st.integers(1, 12))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    return tuple(draw(arrays.arrays(dtype, count, elements=NUMBERS)) for _ in range(2))


def plain_f1(truth, guess):
    return f1_score(truth, guess, average="weighted")


def clipped(values, limit):
    return [min(max(value, -limit), limit) for value in values]


def plain_corr(first, second):
    """Pearson's r, or NaN where one side is constant up to float32 noise."""
    for values in (first, second):
        if len(values) < 2 or max(values) - min(values) < 1e-6 * max([1.0, *map(abs, values)]):
            return math.nan
    return pearsonr(first, second).statistic


def plain_mosi(predictions, labels):
    has0 = [label >= 0 for label in labels], [guess >= 0 for guess in predictions]
    rated = [(label > 0, guess > 0) for label, guess in zip(labels, predictions, strict=True) if label != 0]
    non0 = [label for label, _ in rated], [guess for _, guess in rated]
    values = {"acc2_has0": accuracy_score(*has0), "f1_has0": plain_f1(*has0)}
    values["acc2_non0"] = accuracy_score(*non0) if rated else math.nan
    values["f1_non0"] = plain_f1(*non0) if rated else math.nan
    for name, limit in (("acc5", 2), ("acc7", 3)):
        classes = ([round(v) for v in clipped(side, limit)] for side in (labels, predictions))
        values[name] = accuracy_score(*classes)
    return values, predictions, labels


def plain_sims(predictions, labels):
    predictions, labels = clipped(predictions, 1), clipped(labels, 1)
    values = {}
    for name, edges in (("acc2", [0]), ("acc3", [-0.1, 0.1]), ("acc5", [-0.7, -0.1, 0.1, 0.7])):
        bounds = [np.float32(edge) for edge in edges]  # everything is read as float32
        sides = [[sum(np.float32(v) > b for b in bounds) for v in side] for side in (labels, predictions)]
        values[name] = accuracy_score(*sides)
        if name == "acc2":
            values["f1"] = plain_f1(*sides)
    return values, predictions, labels


def plain_regression(predictions, labels):
    """Scores without classes; the concordance coefficient as 1 minus a ratio of squared distances."""
    corr, varies = plain_corr(predictions, labels), plain_corr(labels, labels) == plain_corr(labels, labels)
    values = {"rmse": root_mean_squared_error(labels, predictions)}
    values["spearman"] = math.nan if math.isnan(corr) else spearmanr(predictions, labels).statistic
    values["r2"] = r2_score(labels, predictions) if varies else math.nan
    apart = statistics.mean((p - y) ** 2 for p, y in zip(predictions, labels, strict=True))
    spread = statistics.pvariance(predictions) + statistics.pvariance(labels)
    gap = (statistics.mean(predictions) - statistics.mean(labels)) ** 2
    values["ccc"] = 1 - apart / (spread + gap) if varies else math.nan
    return values, predictions, labels


PLAIN = {"mosi": plain_mosi, "mosei": plain_mosi, "sims": plain_sims, "score": plain_regression}


def plain_score(kind, predictions, labels):
    plain = PLAIN[kind]
    values, predictions, labels = plain(predictions.tolist(), labels.tolist())
    errors = [abs(guess - label) for guess, label in zip(predictions, labels, strict=True)]
    return {**values, "mae": math.fsum(errors) / len(errors), "corr": plain_corr(predictions, labels)}


@pytest.mark.parametrize("kind", METRICS)
@given(pair=pairs())
@example(pair=(np.float32([0.1, -0.1, 0.7, -0.7, 0]), np.float32([0.1, -0.1, 0.7, -0.7, -0.0])))
@example(pair=(np.array([0.1, -0.1, 0.7, -0.7]), np.float32([0.1, -0.1, 0.7, -0.7])))
@example(pair=(np.float32([0.5, 1.5, 2.5, -0.5, -2.5]), np.float32([0, 2, 2, 0, -2])))
@pytest.mark.filterwarnings("ignore")  # warnings of scikit-learn and SciPy about nearly constant input
def test_equals_the_definitions_computed_one_by_one(kind, pair):
    scores = score(kind, *pair)
    assert list(scores.values) == list(METRICS[kind])
    expected = plain_score(kind, *pair)
    for name, value in scores.values.items():
        assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-6, nan_ok=True), name
    assert set(scores.undefined) == {name for name, value in scores.values.items() if math.isnan(value)}


def test_mosi_by_hand():
    labels = np.float32([-2.6, 0, 0.4, 2])
    predictions = np.float32([-3.4, -0.2, 0.6, 1.5])
    scores = score("mosi", predictions, labels).values
    assert scores["acc2_has0"] == 3 / 4  # the label 0 counts as positive, its prediction is negative
    assert scores["f1_has0"] == pytest.approx((1 * (2 / 3) + 3 * (4 / 5)) / 4)
    assert scores["acc2_non0"] == scores["f1_non0"] == 1
    assert scores["acc5"] == 3 / 4  # -2 = -2, 0 = -0, 0 != 1, 2 = 2
    assert scores["acc7"] == 3 / 4  # -3 = -3 after clipping
    assert scores["mae"] == pytest.approx((0.8 + 0.2 + 0.2 + 0.5) / 4)


def test_scores_without_classes_by_hand():
    labels, predictions = np.array([1.0, 2, 3, 5]), np.array([2.0, 2, 4, 4])
    scores = score("score", predictions, labels).values
    assert scores["mae"] == 3 / 4
    assert scores["rmse"] == pytest.approx(math.sqrt(3 / 4))
    assert scores["r2"] == pytest.approx(1 - 3 / 8.75)
    assert scores["corr"] == pytest.approx(5 / math.sqrt(8.75 * 4))
    assert scores["spearman"] == pytest.approx(4 / math.sqrt(5 * 4))  # ranks 1.5 1.5 3.5 3.5 and 1 2 3 4
    assert scores["ccc"] == pytest.approx(2 * 5 / (8.75 + 4 + 4 * 0.25**2))
    constant = score("score", np.full(4, 2.75), labels).values
    assert (constant["ccc"], constant["r2"]) == (0, 0), "the labels' mean"
    shifted = score("score", predictions - 3, labels - 3).values
    assert shifted == pytest.approx(scores), "no value depends on the neutral label"


def test_sims_by_hand():
    labels = np.float32([-0.8, 0, 0.2, 1, 0.1])
    predictions = np.float32([-1.4, 0, 0.1, 0.8, -0.1])
    scores = score("sims", predictions, labels).values
    assert scores["acc2"] == 4 / 5  # 0 is negative on both sides, the last clip is wrong
    assert scores["acc3"] == 3 / 5  # 0.1 is neutral, -0.1 negative
    assert scores["acc5"] == 3 / 5
    assert scores["f1"] == pytest.approx((2 * (4 / 5) + 3 * (4 / 5)) / 5)
    assert scores["mae"] == pytest.approx((0.2 + 0 + 0.1 + 0.2 + 0.2) / 5)  # -1.4 counts as -1


CONSTANT = "All {} are the same ({}), so there is nothing to correlate."


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize(
    ("predictions", "labels", "reason"),
    [
        ([0.3, 0.3, 0.3], [0.1, -0.5, 0.2], CONSTANT.format("predictions", "0.3")),
        ([0.3, 0.3 + 3e-7, 0.3 - 3e-7], [0.1, -0.5, 0.2], CONSTANT.format("predictions", "0.3")),
        ([0.1, -0.5, 0.2], [0.41234567] * 3, CONSTANT.format("labels", "0.4123")),
        ([0.1], [0.4], "A correlation needs at least two clips."),
    ],
)
def test_correlation_without_spread_is_undefined(kind, predictions, labels, reason):
    scores = score(kind, np.float32(predictions), np.float32(labels))
    assert math.isnan(scores.values["corr"])
    assert scores.undefined["corr"] == reason
    also = {"spearman"} if "predictions" in reason else {"spearman", "ccc", "r2"}
    assert set(scores.undefined) == {"corr"} | (also & set(METRICS[kind]))


def test_noise_is_relative_to_large_predictions_only():
    labels = np.array([0.1, -0.5, 0.2])
    assert "corr" in score("mosi", np.array([100.0, 100.00005, 100.0]), labels).undefined
    assert "corr" not in score("mosi", np.array([1e-5, 2e-5, 4e-5]), labels).undefined
    assert "corr" not in score("mosi", np.array([0, 1e-6, 5e-7]), labels).undefined, "at the bound"
    for sign in (-1, 1):
        edge = np.array([2.0, 2.000002000001, 2.0])
        assert "corr" in score("mosi", sign * edge, labels).undefined, "relative to the larger end"
    beyond = score("sims", np.array([1.2, 3, 1]), np.array([0.1, 0.5, -1]))
    assert "corr" in beyond.undefined, "constant after clipping"
    huge = score("mosi", np.array([1e200, -1e200, 0]), np.float32([1, -1, 0]))
    assert huge.values["corr"] == pytest.approx(1), "squares do not overflow"
    assert math.isfinite(huge.values["mae"])


def test_a_correlation_never_exceeds_one_by_rounding():
    rows = np.random.default_rng(0).normal(size=(200, 7))
    for factor in (-3, 3):
        assert all(abs(score("mosi", factor * row, row).values["corr"]) <= 1 for row in rows)


def test_labels_that_are_all_zero_leave_the_non_zero_scores_undefined():
    scores = score("mosi", np.array([0.1, -0.2]), np.array([0.0, -0.0]))
    rated = "No label differs from 0, so no clip is left to classify."
    assert scores.undefined.pop("corr").startswith("All labels are the same (")
    assert scores.undefined == {"acc2_non0": rated, "f1_non0": rated}
    assert scores.values["acc2_has0"] == 1 / 2


def test_half_precision_is_accumulated_in_double():
    labels = np.zeros(5000, dtype=np.float16)
    labels[0] = 1
    scores = score("mosi", np.full(5000, 0.1, dtype=np.float16), labels)
    expected = (4999 * float(np.float16(0.1)) + 1 - float(np.float16(0.1))) / 5000
    assert scores.values["mae"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("predictions", "labels", "sentence"),
    [
        ([0.1, math.inf, 1], [0, 1, 2], "predictions must be finite, got 1 non-finite values"),
        ([0.1, 0.2, 0], [0, math.nan, -math.inf], "labels must be finite, got 2 non-finite values"),
        ([], [], "predictions must have the shape (N,) with N >= 1, got (0,)"),
        ([[0.1]], [1], "predictions must have the shape (N,) with N >= 1, got (1, 1)"),
        ([0.1], [[1], [2]], "labels must have the shape (N,) with N >= 1, got (2, 1)"),
        ([0.1, 0.2], [0], "2 predictions cannot be scored against 1 labels"),
    ],
)
def test_unusable_arrays_are_refused(predictions, labels, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        score("mosi", np.array(predictions, dtype=float), np.array(labels, dtype=float))


def test_every_metric_has_a_direction_and_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError) as refused:
        score("mossi", np.zeros(2), np.zeros(2))
    allowed = ", ".join(sorted(METRICS))
    sentence = f"Unknown kind of metrics 'mossi'; allowed: {allowed}. Did you mean 'mosi'?"
    assert str(refused.value) == sentence
    assert {name for names in METRICS.values() for name in names} | {"loss"} == set(DIRECTION)
    assert {name for name, sign in DIRECTION.items() if sign == -1} == {"mae", "rmse", "loss"}
