"""Scores against scikit-learn, intervals and tests against enumeration, errors by simulation."""

import time
import tracemalloc
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from mmlabel import evidence
from mmlabel.evidence import (
    METRICS,
    Comparison,
    bootstrap_interval,
    compare,
    explain,
    holm,
    resample_weights,
    resampled_scores,
    scores,
    summarise,
    verdict,
)

TARGETS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
ANSWERS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)

PREVALENCE = np.array([0.6, 0.3, 0.2, 0.1, 0.1])


def study(
    random: np.random.Generator, *, rows: int, seeds: int, seed_noise: float, better: float = 0.0
) -> dict[str, np.ndarray]:
    """Two systems alike except that the variant misses less by `better`.

    What a system finds depends on the row (the same for all its seeds), on the seed (the same for
    all rows, `seed_noise`) and on chance.
    """
    targets = random.random((rows, len(PREVALENCE))) < PREVALENCE

    def answers(shift: float) -> np.ndarray:
        row = random.normal(0, 0.9, (rows, len(PREVALENCE)))
        seed = random.normal(0, seed_noise, (seeds, 1, 1))
        chance = random.normal(0, 0.4, (seeds, rows, len(PREVALENCE)))
        signal = row + seed + chance
        return np.where(targets, signal + shift > -0.7, signal > 2)

    return {"targets": targets, "baseline": answers(0.0), "variant": answers(better)}


def sklearn_score(targets: np.ndarray, answers: np.ndarray, metric: str) -> float:
    labels = np.flatnonzero(targets.any(0)) if metric == "f1_macro" else None
    return f1_score(
        targets, answers, labels=labels, average=metric.removeprefix("f1_"), zero_division=0
    )


def f1_rows(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Each row's F1 (N,), one by one."""
    pairs = zip(targets, answers, strict=True)
    return np.array([f1_score(truth, answer, zero_division=0) for truth, answer in pairs])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # 3 hits, 1 false alarm, 1 miss.
        ("f1_micro", 6 / 8),
        # 2/3, 1, 2/3, and 0 for the row without targets and answers.
        ("f1_samples", (2 / 3 + 1 + 2 / 3 + 0) / 4),
        # 1, 2/3 and 0: no answer ever has label 2.
        ("f1_macro", (1 + 2 / 3 + 0) / 3),
    ],
)
def test_scores_equal_hand_worked(metric: str, expected: float) -> None:
    assert scores(TARGETS, ANSWERS[None], metric) == pytest.approx([expected])


@pytest.mark.parametrize("metric", METRICS)
def test_scores_equal_scikit_learn(metric: str) -> None:
    random = np.random.default_rng(1)
    targets = random.random((50, 6)) < [0.5, 0.2, 0.1, 0.05, 0.02, 0.0]
    answers = targets ^ (random.random((3, 50, 6)) < 0.15)
    expected = [sklearn_score(targets, one, metric) for one in answers]
    assert scores(targets, answers, metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_true_and_nothing_answered_is_zero(metric: str) -> None:
    nothing = np.zeros((3, 2), dtype=bool)
    assert scores(nothing, nothing[None], metric) == [0]


@pytest.mark.parametrize("metric", METRICS)
def test_resampled_scores_equal_a_loop_over_the_same_resamples(metric: str) -> None:
    random = np.random.default_rng(2)
    targets = random.random((12, 4)) < [0.5, 0.3, 0.1, 0.1]
    answers = targets ^ (random.random((2, 12, 4)) < 0.2)
    drawn = resampled_scores(targets, answers, metric=metric, resamples=40, seed=3)
    slow = []
    for weights in np.concatenate(list(resample_weights(12, 40, 3))):
        rows = np.repeat(np.arange(12), weights.astype(int))
        slow.append([sklearn_score(targets[rows], one[rows], metric) for one in answers])
    np.testing.assert_allclose(drawn, slow, atol=1e-12)


def test_resamples_are_bootstrap_draws_and_do_not_depend_on_the_chunks(monkeypatch) -> None:
    whole = np.concatenate(list(resample_weights(30, 2000, 5)))
    assert whole.shape == (2000, 30)
    assert (whole.sum(1) == 30).all()
    # Each count is binomial(30, 1/30): mean 1, variance 29/30.
    assert whole.mean(0) == pytest.approx(np.ones(30), abs=0.12)
    assert whole.var(0).mean() == pytest.approx(29 / 30, abs=0.05)
    monkeypatch.setattr(evidence, "CHUNK", 30 * 7)
    parts = list(resample_weights(30, 2000, 5))
    assert max(len(part) for part in parts) == 7
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(np.concatenate(list(resample_weights(30, 2000, 6))), whole)


def test_interval_of_two_rows_is_known() -> None:
    # Rows score 0 and 1, so a resample scores 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. There is no
    # bias and no skewness: the ends are the 2.5 % and 97.5 % quantiles.
    targets = np.array([[True], [True]])
    answers = np.array([[[True], [False]]])
    assert bootstrap_interval(targets, answers, metric="f1_samples") == (0, 1)
    # With a coverage of 40 % they are the 30 % and 70 % quantiles.
    narrow = bootstrap_interval(targets, answers, metric="f1_samples", level=0.4)
    assert narrow == (0.5, 0.5)


def test_interval_equals_scipy_bca() -> None:
    # Most rows are right and a few are far off, so that the correction for skewness matters.
    random = np.random.default_rng(4)
    targets = np.ones((30, 20), dtype=bool)
    answers = random.random((2, 30, 20)) < 1 - random.exponential(0.15, (30, 1)) ** 2
    rows = np.mean([f1_rows(targets, one) for one in answers], axis=0)  # (N,)
    both = {
        method: stats.bootstrap(
            (rows,),
            np.mean,
            n_resamples=20_000,
            method=method,
            random_state=np.random.default_rng(0),  # scipy before 1.15 knows no rng
        ).confidence_interval
        for method in ("BCa", "percentile")
    }
    ours = bootstrap_interval(targets, answers, metric="f1_samples", resamples=20_000)
    assert ours == pytest.approx(tuple(both["BCa"]), abs=0.002)
    assert abs(both["percentile"].low - both["BCa"].low) > 0.006


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 20])
def test_where_all_rows_are_right_nothing_is_known_of_how_the_score_varies(
    metric: str, rows: int
) -> None:
    """Three right rows of three are no proof that all others would be; as scipy has it."""
    targets = np.ones((rows, 3), dtype=bool)
    ours = bootstrap_interval(targets, targets[None], metric=metric, resamples=200)
    assert np.isnan(ours).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.bootstrap((np.ones(20),), np.mean, n_resamples=200, method="BCa")
    assert np.isnan(theirs.confidence_interval).all()


@pytest.mark.parametrize("metric", METRICS)
def test_interval_covers_the_score_it_estimates(metric: str) -> None:
    truth = study(np.random.default_rng(5), rows=100_000, seeds=1, seed_noise=0)
    score = scores(truth["targets"], truth["variant"], metric)[0]
    covered = 0
    for trial in range(300):
        data = study(np.random.default_rng([5, trial]), rows=200, seeds=1, seed_noise=0)
        low, high = bootstrap_interval(
            data["targets"], data["variant"], metric=metric, resamples=400, seed=trial
        )
        covered += low <= score <= high
    # 200 rows and 400 resamples cost about 1 % of the coverage; with 94 % the lower bound fails
    # less than once in a thousand. An interval that always covers is too wide.
    assert stats.binom.ppf(0.001, 300, 0.94) <= covered <= 299


@pytest.mark.parametrize("metric", METRICS)
def test_row_noise_equals_enumeration_of_every_resample(metric: str) -> None:
    random = np.random.default_rng(6)
    targets = random.random((5, 3)) < 0.6
    systems = targets ^ (random.random((2, 5, 3)) < 0.3)
    drawn = np.array(
        [
            scores(targets[rows], systems[:, rows], metric)
            for rows in map(list, product(range(5), repeat=5))
        ]
    )  # (3125, 2)
    result = compare(
        baseline=systems[:1], variant=systems[1:], targets=targets, metric=metric, resamples=50_000
    )
    exact = (drawn[:, 1] - drawn[:, 0]).std() * np.sqrt(5 / 4)
    assert exact > 0.05
    assert result.standard_error == pytest.approx(exact, rel=0.02)


def one_seed(seed: int, rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return study(random, rows=rows, seeds=1, seed_noise=0, better=0.4)


def test_one_seed_is_the_paired_t_test_over_rows() -> None:
    data = one_seed(7, 150)
    each = [f1_rows(data["targets"], data[name][0]) for name in ("variant", "baseline")]
    differences = each[0] - each[1]
    expected = stats.ttest_1samp(differences, 0)
    result = compare(**data, metric="f1_samples")
    assert 0.001 < expected.pvalue < 0.3
    assert result.p_value == pytest.approx(expected.pvalue, rel=0.1)
    assert result.interval == pytest.approx(tuple(expected.confidence_interval()), abs=0.002)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_one_seed_agrees_with_the_exact_randomisation_test(seed: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.random((14, 20)) < 0.4
    baseline, variant = (targets ^ (random.random((14, 20)) < wrong) for wrong in (0.25, 0.2))
    each = f1_rows(targets, variant) - f1_rows(targets, baseline)
    signs = np.array(list(product([-1, 1], repeat=14)))
    exact = (np.abs(signs @ each) >= abs(each.sum()) - 1e-9).mean()
    result = compare(
        baseline=baseline[None], variant=variant[None], targets=targets, metric="f1_samples"
    )
    # The t distribution is an approximation to the 2^14 sign patterns, and a good one.
    assert result.p_value == pytest.approx(exact, abs=0.03)


def test_rows_without_noise_leave_the_t_test_over_seeds() -> None:
    # Every row is alike; the variant's seeds find 1, 3 and 2 of the 4 labels, the baseline's 1.
    targets = np.ones((30, 4), dtype=bool)
    found = np.arange(4) < np.array([[1], [3], [2]])  # (3, 4)
    variant = np.repeat(found[:, None], 30, axis=1)
    baseline = np.repeat((np.arange(4) < 1)[None, None], 30, axis=1).repeat(3, axis=0)
    result = compare(baseline=baseline, variant=variant, targets=targets, metric="f1_micro")
    differences = np.array([2 / 5, 6 / 7, 4 / 6]) - 2 / 5
    expected = stats.ttest_1samp(differences, 0)
    assert result.difference == pytest.approx(differences.mean())
    assert result.degrees == pytest.approx(2)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval == pytest.approx(tuple(expected.confidence_interval()))
    error = differences.std(ddof=1) / np.sqrt(3)
    assert result.detectable == pytest.approx((4.302653 + 1.060660) * error, rel=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_without_labels_and_answers_have_no_interval(metric: str) -> None:
    nothing = np.zeros((5, 3), dtype=bool)
    assert np.isnan(bootstrap_interval(nothing, nothing[None], metric=metric, resamples=20)).all()


def test_two_seeds_that_cannot_tell_say_so() -> None:
    # Two seeds that disagree wholly: a t of one degree of freedom times a large error.
    targets = np.ones((30, 4), dtype=bool)
    found = np.arange(4) < np.array([[4], [0]])
    variant = np.repeat(found[:, None], 30, axis=1)
    baseline = np.zeros_like(variant)
    result = compare(baseline=baseline, variant=variant, targets=targets, metric="f1_micro")
    assert result.difference == 0.5
    assert result.interval == (-1.0, 1.0)  # no difference of F1 is larger
    assert result.detectable is not None and result.detectable > 1
    assert "-100.00 to +100.00" in explain(result)
    assert "2 seeds cannot tell any difference that there can be" in explain(result)


def test_standard_error_equals_the_two_way_analysis_of_variance() -> None:
    data = study(np.random.default_rng(14), rows=40, seeds=3, seed_noise=0.6)
    table = np.array(
        [
            f1_rows(data["targets"], variant) - f1_rows(data["targets"], baseline)
            for variant, baseline in zip(data["variant"], data["baseline"], strict=True)
        ]
    )  # (S, N)
    by_row, by_seed = table.mean(0), table.mean(1)
    leftover = table - by_row - by_seed[:, None] + table.mean()
    rows = by_row.var(ddof=1) / 40
    seeds = by_seed.var(ddof=1) / 3
    both = (leftover**2).sum() / (2 * 39) / (3 * 40)
    assert seeds > 1.5 * both
    result = compare(**data, metric="f1_samples", resamples=50_000)
    variance = rows + seeds - both
    assert result.standard_error == pytest.approx(np.sqrt(variance), rel=0.01)
    degrees = variance**2 / (seeds**2 / 2 + rows**2 / 39)
    assert result.degrees == pytest.approx(degrees, rel=0.04)


def test_seeds_that_answer_alike_leave_only_row_noise() -> None:
    data = one_seed(7, 100)
    three = {name: data[name].repeat(3, axis=0) for name in ("baseline", "variant")}
    alone = compare(**data, metric="f1_micro")
    together = compare(**three, targets=data["targets"], metric="f1_micro")
    assert together.standard_error == pytest.approx(alone.standard_error)
    assert together.p_value == pytest.approx(alone.p_value)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_variants_show_no_difference(metric: str) -> None:
    data = study(np.random.default_rng(8), rows=60, seeds=3, seed_noise=0.2)
    data["variant"] = data["baseline"]
    result = compare(**data, metric=metric, resamples=200)
    assert (result.difference, result.p_value, result.interval) == (0, 1, (0, 0))
    assert (result.detectable, result.changed) == (None, 0)
    assert verdict(result) == "no difference shown"
    assert "the answers differ on 0 of 60 test rows" in explain(result)


def test_a_handful_of_rows_is_no_evidence() -> None:
    # Four rows of 200, all in the variant's favour: row-swapping gives 2/16 at the least.
    targets = np.ones((200, 1), dtype=bool)
    variant = targets[None].copy()
    baseline = variant.copy()
    baseline[:, :4] = False
    result = compare(baseline=baseline, variant=variant, targets=targets, metric="f1_samples")
    assert result.changed == 4
    assert result.p_value == 0.125
    # All rows in its favour, without any noise between them.
    result = compare(baseline=~variant, variant=variant, targets=targets, metric="f1_samples")
    assert result.p_value < 1e-50
    assert verdict(result) == "better"


@pytest.mark.parametrize("metric", METRICS)
def test_a_large_difference_is_found_both_ways(metric: str) -> None:
    data = study(np.random.default_rng(9), rows=400, seeds=3, seed_noise=0.1, better=1.0)
    result = compare(**data, metric=metric, resamples=1000)
    assert verdict(result) == "better"
    assert result.p_value < 0.01
    assert 0 < result.interval[0] < result.difference < result.interval[1]
    data["baseline"], data["variant"] = data["variant"], data["baseline"]
    back = compare(**data, metric=metric, resamples=1000)
    assert verdict(back) == "worse"
    assert back.difference == -result.difference
    assert back.p_value == pytest.approx(result.p_value)


def test_the_same_arguments_give_the_same_figures() -> None:
    data = study(np.random.default_rng(10), rows=80, seeds=3, seed_noise=0.2)
    first = compare(**data, metric="f1_macro", resamples=500, seed=1)
    assert first == compare(**data, metric="f1_macro", resamples=500, seed=1)
    assert first != compare(**data, metric="f1_macro", resamples=500, seed=2)
    as_numbers = {name: array.astype(np.uint8) for name, array in data.items()}
    assert first == compare(**as_numbers, metric="f1_macro", resamples=500, seed=1)


def row_only_p(data: dict[str, np.ndarray], metric: str, seed: int) -> float:
    """What a paired bootstrap that knows nothing of seeds would say."""
    systems = np.concatenate([data["baseline"], data["variant"]])
    seeds = len(data["baseline"])
    drawn = resampled_scores(data["targets"], systems, metric=metric, resamples=300, seed=seed)
    observed = scores(data["targets"], systems, metric)
    error = (drawn[:, seeds:].mean(1) - drawn[:, :seeds].mean(1)).std()
    return 2 * stats.norm.sf(abs(observed[seeds:].mean() - observed[:seeds].mean()) / error)


@pytest.mark.parametrize(
    ("metric", "seeds", "seed_noise"),
    [
        ("f1_micro", 1, 0.0),
        ("f1_micro", 3, 0.0),
        ("f1_micro", 3, 0.2),
        ("f1_micro", 5, 0.2),
        ("f1_samples", 3, 0.1),
        ("f1_macro", 3, 0.1),
    ],
)
def test_no_difference_comes_out_significant_about_one_time_in_twenty(
    metric: str, seeds: int, seed_noise: float
) -> None:
    trials = 400
    false, naive = 0, 0
    for trial in range(trials):
        random = np.random.default_rng([11, trial])
        data = study(random, rows=200, seeds=seeds, seed_noise=seed_noise)
        result = compare(**data, metric=metric, resamples=300, seed=trial)
        false += result.p_value < 0.05
        if seed_noise == 0.2:
            naive += row_only_p(data, metric, trial) < 0.05
    # 3 % to 6 %, see `compare`; a true rate in it fails less than once in a thousand.
    assert stats.binom.ppf(0.001, trials, 0.03) <= false <= stats.binom.ppf(0.999, trials, 0.06)
    if seed_noise == 0.2:
        assert naive > stats.binom.ppf(0.999, trials, 0.06)


@pytest.mark.parametrize(("seed", "better", "among"), [(12, 0.33, 1), (14, 0.43, 6)])
def test_the_detectable_difference_is_found_four_times_in_five(
    seed: int, better: float, among: int
) -> None:
    """Alone, and among comparisons in all the others of which there is nothing to find."""
    truth = study(np.random.default_rng(seed), rows=200_000, seeds=1, seed_noise=0, better=better)
    base, variant = (
        scores(truth["targets"], truth[name], "f1_micro")[0] for name in ("baseline", "variant")
    )
    found, detectable = [], []
    for trial in range(200):
        random = np.random.default_rng([seed, trial])
        data = study(random, rows=300, seeds=1, seed_noise=0, better=better)
        options = {"metric": "f1_micro", "resamples": 300, "seed": trial, "comparisons": among}
        results = [compare(**data, **options)]
        for _ in range(among - 1):
            none = study(random, rows=300, seeds=1, seed_noise=0)
            results.append(compare(**none, **options))
        p_value = holm([result.p_value for result in results])[0]
        found.append(verdict(results[0], p_value) == "better")
        detectable.append(results[0].detectable)
    assert np.mean(detectable) == pytest.approx(variant - base, rel=0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.09)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        # Smallest first: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 not below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.04], [0.04]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_equals_hand_worked(raw: list[float], adjusted: list[float]) -> None:
    assert holm(raw) == pytest.approx(adjusted)


def comparison(**changes: object) -> Comparison:
    example = Comparison(
        difference=0.02,
        interval=(0.004, 0.036),
        p_value=0.03,
        detectable=0.023,
        standard_error=0.008,
        degrees=20.0,
        seeds=3,
        rows=300,
        changed=90,
        alpha=0.05,
    )
    return replace(example, **changes)


def test_verdicts() -> None:
    assert verdict(comparison()) == "better"
    assert verdict(comparison(difference=-0.02)) == "worse"
    assert verdict(comparison(), p_value=0.06) == "no difference shown"
    assert verdict(comparison(alpha=0.01)) == "no difference shown"
    assert verdict(comparison(p_value=0.05)) == "no difference shown"


def test_explanations() -> None:
    assert explain(comparison()) == (
        "better: +2.00 F1 points (95 % interval +0.40 to +3.60, p = 0.03)"
    )
    several = explain(comparison(), p_value=0.09)
    assert several.startswith("no difference shown: +2.00 F1 points")
    assert "p = 0.09 corrected for several comparisons" in several
    assert several.endswith("; the smallest difference this study could have seen is 2.30 points")
    assert explain(comparison(comparisons=3), p_value=0.09).endswith(
        "; the smallest difference this study could have seen, after correction for 3 comparisons,"
        " is 2.30 points"
    )
    assert explain(comparison(seeds=1)).endswith(
        "; one seed each, so the noise of training was not measured"
    )


@pytest.mark.parametrize(
    ("p_value", "shown", "found"),
    [
        (0.0496, "0.0496", "better"),
        (0.049996, "0.049996", "better"),
        (0.0504, "0.05", "no difference shown"),
        (0.0123, "0.012", "better"),
        (2e-36, "2e-36", "better"),
        (1.0, "1", "no difference shown"),
    ],
)
def test_a_p_value_is_not_rounded_against_its_verdict(
    p_value: float, shown: str, found: str
) -> None:
    said = explain(comparison(p_value=p_value))
    assert f", p = {shown})" in said and said.startswith(found)
    corrected = explain(comparison(), p_value=p_value)
    assert f" p = {shown} corrected" in corrected and corrected.startswith(found)


def test_a_tiny_difference_has_the_sign_that_it_has_in_the_table() -> None:
    said = explain(comparison(difference=-0.00001, interval=(-0.00002, 0.00001), p_value=0.5))
    assert "+0.00 F1 points (95 % interval +0.00 to +0.00" in said


def test_summary_over_seeds() -> None:
    assert summarise([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.1))
    assert summarise([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="no scores"):
        summarise([])


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown metric 'f1'.*f1_micro, f1_samples, f1_macro"):
        scores(TARGETS, ANSWERS[None], "f1")
    with pytest.raises(ValueError, match=r"\(4, 3\) must be \(N, L\) and \(S, N, L\)"):
        scores(TARGETS, ANSWERS, "f1_micro")
    with pytest.raises(ValueError, match="nothing to score"):
        scores(TARGETS[:0], ANSWERS[None, :0], "f1_micro")
    two = ANSWERS[None].repeat(2, axis=0)
    with pytest.raises(ValueError, match=r"pair up: baseline \(1, 4, 3\), variant \(2, 4, 3\)"):
        compare(baseline=ANSWERS[None], variant=two, targets=TARGETS, metric="f1_micro")
    with pytest.raises(ValueError, match="at least two test rows"):
        compare(baseline=two[:, :1], variant=two[:, :1], targets=TARGETS[:1], metric="f1_micro")


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_shown_where_no_label_occurs(metric: str) -> None:
    targets, answers = np.zeros((5, 3), dtype=bool), np.zeros((2, 5, 3), dtype=bool)
    assert np.isnan(bootstrap_interval(targets, answers, metric=metric, resamples=50)).all()
    one = compare(baseline=answers, variant=~answers, targets=targets, metric=metric, resamples=50)
    assert (one.difference, one.p_value) == (0.0, 1.0)
    assert verdict(one) == "no difference shown"


def test_ten_thousand_resamples_take_seconds_and_little_memory() -> None:
    random = np.random.default_rng(13)
    targets = random.random((3000, 20)) < 0.15
    baseline, variant = targets ^ (random.random((2, 3, 3000, 20)) < 0.07)
    start = time.perf_counter()
    compare(baseline=baseline, variant=variant, targets=targets, metric="f1_macro")
    assert time.perf_counter() - start < 20
    tracemalloc.start()
    compare(baseline=baseline, variant=variant, targets=targets, metric="f1_macro")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20
