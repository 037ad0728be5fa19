"""Is a difference between two multi-label classifiers real? Intervals, paired tests, verdicts.

Every variant of a study answers the same test rows, once per training seed, so the input is always
`targets (N, L)` and `answers (S, N, L)`, both bool: S seeds, N rows, L labels. Scores are F1 in
0..1; an "F1 point" in the words shown to people is 0.01.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np

from mmlabel.wording import count

METRICS = ("f1_micro", "f1_samples", "f1_macro")

# Of one run's own intervals: so many fix the ends to about 0.001 and keep a sweep's pages cheap.
RESAMPLES_OF_A_RUN = 1000

# 2^22 weights of 8 bytes: 32 MiB at a time, however many rows and resamples there are.
CHUNK = 1 << 22


def scores(targets: np.ndarray, answers: np.ndarray, metric: str) -> np.ndarray:
    """The F1 score of each seed's answers.

    Args:
        targets: (N, L) bool, the truth.
        answers: (S, N, L) bool, one set of answers per seed.
        metric: "f1_micro" (over all decisions), "f1_samples" (mean over rows; 0 for a row without
            targets and answers) or "f1_macro" (mean over the labels that occur in `targets`).

    Returns:
        (S,) float64 in 0..1; 0 where nothing is true and nothing was answered.

    Raises:
        ValueError: on an unknown metric, shapes that do not match, or no rows.
    """
    return _f1(_columns(targets, answers, metric).sum(0), metric, len(targets))


def resample_weights(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row occurs in each bootstrap resample, chunk by chunk.

    Yields arrays (r, rows) float64 that make up `resamples` lines in all; each line is a draw of
    `rows` rows with replacement, so it sums to `rows`. The same arguments give the same draws,
    which is what pairs the systems of a study.
    """
    random = np.random.default_rng(seed)
    size = max(1, CHUNK // rows)
    for start in range(0, resamples, size):
        lines = min(size, resamples - start)
        drawn = random.integers(rows, size=(lines, rows))
        drawn += np.arange(lines)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=lines * rows)
        yield counts.reshape(lines, rows).astype(np.float64)


def resampled_scores(
    targets: np.ndarray, answers: np.ndarray, *, metric: str, resamples: int, seed: int
) -> np.ndarray:
    """`scores` on bootstrap resamples of the test rows, the same resamples for every seed.

    A resample's score needs only sums over its rows, so all resamples are one matrix product.

    Returns:
        (resamples, S) float64 in 0..1.
    """
    columns = _columns(targets, answers, metric)  # (N, S, C)
    rows, seeds, width = columns.shape
    flat = columns.reshape(rows, seeds * width)
    parts = [
        _f1((weights @ flat).reshape(len(weights), seeds, width), metric, rows)
        for weights in resample_weights(rows, resamples, seed)
    ]
    return np.concatenate(parts)  # (R, S)


def bootstrap_interval(
    targets: np.ndarray,
    answers: np.ndarray,
    *,
    metric: str,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the score, averaged over seeds, of these trained models on new rows.

    Bias-corrected and accelerated bootstrap (BCa) over test rows: Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, section 14.3. The spread between seeds is no part of it;
    `summarise` shows that.

    Args:
        targets: (N, L) bool.
        answers: (S, N, L) bool.
        metric: one of `METRICS`.
        level: the interval's coverage, in 0..1.
        resamples: how many resamples of the rows.
        seed: of the resampling.

    Returns:
        Lower and upper end, in 0..1; both NaN if every resample has the same score, of which rows
        that are all answered rightly, for instance, say nothing of how it varies.

    Raises:
        ValueError: as `scores`.
    """
    draws = _unpaired_scores(targets, answers, metric=metric, resamples=resamples, seed=seed)
    draws = draws.mean(1)  # (R,)
    if np.ptp(draws) < 1e-12:
        return math.nan, math.nan
    score = scores(targets, answers, metric).mean()
    bias, acceleration = _bias(draws, score), _acceleration(targets, answers, metric)
    normal = NormalDist()
    quantiles = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + normal.inv_cdf(tail)
        quantiles.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(draws, quantiles)
    return float(low), float(high)


def _unpaired_scores(
    targets: np.ndarray, answers: np.ndarray, *, metric: str, resamples: int, seed: int
) -> np.ndarray:
    """As `resampled_scores`, of resamples that are drawn for these answers alone.

    Rows that add the same to a score are one kind, and how often each kind is drawn is
    multinomial: a million rows are of a few hundred kinds.
    """
    columns = _columns(targets, answers, metric)  # (N, S, C)
    rows, seeds, width = columns.shape
    kinds, counts = np.unique(columns.reshape(rows, -1), axis=0, return_counts=True)  # (K, S C)
    random = np.random.default_rng(seed)
    size = max(1, CHUNK // len(kinds))
    parts = []
    for start in range(0, resamples, size):
        lines = min(size, resamples - start)
        weights = random.multinomial(rows, counts / rows, size=lines).astype(np.float64)
        parts.append(_f1((weights @ kinds).reshape(lines, seeds, width), metric, rows))
    return np.concatenate(parts)  # (R, S)


def _bias(draws: np.ndarray, score: float) -> float:
    """BCa's z0: how far, in standard normal units, the score is from the median resample."""
    close = np.isclose(draws, score, rtol=0, atol=1e-12)
    below = ((draws < score) & ~close).mean() + close.mean() / 2
    return NormalDist().inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))


def _acceleration(targets: np.ndarray, answers: np.ndarray, metric: str) -> float:
    """BCa's a: a sixth of the skewness of the scores with one row left out."""
    columns = _columns(targets, answers, metric)
    rows = len(columns)
    if rows < 2:
        return 0.0
    left_out = _f1(columns.sum(0) - columns, metric, rows - 1).mean(1)  # (N,)
    influence = left_out.mean() - left_out
    spread = (influence**2).sum()
    return float((influence**3).sum() / (6 * spread**1.5)) if spread > 1e-24 else 0.0


def _columns(targets: np.ndarray, answers: np.ndarray, metric: str) -> np.ndarray:
    """What each row adds to the sums from which `_f1` computes the score: (N, S, C) float64."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose from {', '.join(METRICS)}")
    if targets.ndim != 2 or answers.ndim != 3 or answers.shape[1:] != targets.shape:
        raise ValueError(
            f"targets {targets.shape} and answers {answers.shape} must be (N, L) and (S, N, L)"
        )
    if not answers.size:
        raise ValueError(f"nothing to score: answers are {answers.shape}")
    if metric == "f1_macro":
        # A label without a positive has no score, on no resample either.
        occurs = targets.astype(bool).any(0)
        targets, answers = targets[:, occurs], answers[..., occurs]
    truth = np.broadcast_to(targets.astype(bool), answers.shape)
    answers = answers.astype(bool)
    both = truth & answers
    if metric == "f1_macro":
        columns = np.concatenate([both, truth * 1.0 + answers, truth], axis=2)  # (S, N, 3L)
    else:
        hits, size = both.sum(2), truth.sum(2) + answers.sum(2)  # (S, N)
        columns = np.stack([hits, size], axis=2)  # (S, N, 2)
        if metric == "f1_samples":
            columns = _ratio(2 * hits, size)[..., None]  # (S, N, 1)
    return np.ascontiguousarray(columns.swapaxes(0, 1), dtype=np.float64)


def _f1(sums: np.ndarray, metric: str, rows: int) -> np.ndarray:
    """Scores (...) from sums over `rows` rows of `_columns` (..., C)."""
    if metric == "f1_samples":
        return sums[..., 0] / rows
    if metric == "f1_micro":
        return _ratio(2 * sums[..., 0], sums[..., 1])
    hits, size, support = np.split(sums, 3, axis=-1)  # (..., L) each
    occurs = support > 0
    return _ratio((_ratio(2 * hits, size) * occurs).sum(-1), occurs.sum(-1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0 (then above is 0 too)."""
    return above / np.maximum(below, 1)


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline; every F1 is in the score's own unit, 0..1.

    Attributes:
        difference: mean over seeds of (variant's score - baseline's score).
        interval: confidence interval of `difference` at 1 - alpha, within the -1..1 that there is.
        p_value: two-sided; of this comparison alone, see `holm`.
        detectable: the smallest true difference that this study would call significant at `alpha`
            with 80 % power, were it the only one among its `comparisons`; above 1 where it would
            have called none so that there can be, None when the answers do not vary enough to tell.
        standard_error: of `difference`.
        degrees: degrees of freedom of the t distribution used.
        seeds: how many training seeds; with 1, the noise of training was not measured.
        rows: how many test rows.
        changed: test rows that some seed's two systems answer differently.
        alpha: error rate of the interval, of `detectable` and of the verdict.
        comparisons: how many the verdict is corrected for, see `holm`.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    detectable: float | None
    standard_error: float
    degrees: float
    seeds: int
    rows: int
    changed: int
    alpha: float
    comparisons: int = 1


def compare(
    *,
    baseline: np.ndarray,
    variant: np.ndarray,
    targets: np.ndarray,
    metric: str,
    resamples: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
    comparisons: int = 1,
) -> Comparison:
    """Paired test of a variant against the baseline on the same test rows and training seeds.

    The null hypothesis is about the two *recipes*: with other test rows and other training seeds
    the mean difference is 0. Both sources of noise are in the variance of the observed difference
    (Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, 2021), which is
    that of a rows x seeds table with random effects:

        variance = rows + max(0, seeds - both)

    - rows: variance of the mean difference over paired bootstrap resamples of the test rows (Koehn
      2004; Berg-Kirkpatrick et al. 2012; Efron & Tibshirani 1993);
    - seeds: variance of the S differences, one per seed, over S;
    - both: the part of `rows` and `seeds` that is the same noise, rows on which seeds happen to
      disagree; taken off once, as in two-way clustered errors (Cameron, Gelbach & Miller 2011).

    The difference over its standard error is held against Student's t with the degrees of freedom
    of Welch (1947) and Satterthwaite (1946), so three seeds count as three. Shuffling answers
    between the systems row by row (Noreen 1989) or resampling rows alone would ask another
    question, whether these *trained models* differ, and would call a lucky seed an improvement.
    No row-swapping test can give less than 2^(1 - changed), which bounds the p value from below:
    a handful of rows is no evidence, however well they agree.

    Simulated without a difference (200 to 3,000 rows), alpha = 5 % comes out as 5 to 6 % with one
    seed, 2 to 7 % with three and 2 to 6 % with five: least where each seed errs on rows of its own,
    most where whole runs differ more than test rows explain. The far tail is less sure: alpha = 1 %
    is up to 3 % with three seeds, 1 % with five. Two seeds are too few (up to 12 % for 5 %).
    **With one seed** only the noise of rows is measured: the result is about these two trained
    models, not about the recipes.

    Args:
        baseline: (S, N, L) bool, the baseline's answers.
        variant: (S, N, L) bool, the variant's, with seeds and rows in the same order.
        targets: (N, L) bool.
        metric: one of `METRICS`.
        resamples: how many resamples of the rows.
        seed: of the resampling.
        alpha: error rate of the interval, of `detectable` and of the verdict.
        comparisons: how many are made, this one among them, for which `holm` corrects the verdict
            and, with the factor of the smallest p value of so many, `detectable` is corrected.

    Raises:
        ValueError: shapes differ, or fewer than two test rows; and as `scores`.
    """
    if baseline.shape != variant.shape:
        raise ValueError(
            f"answers must pair up: baseline {baseline.shape}, variant {variant.shape}"
        )
    seeds, rows = baseline.shape[0], len(targets)
    if rows < 2:
        raise ValueError("a comparison needs at least two test rows")
    systems = np.concatenate([baseline, variant])  # (2S, N, L)
    observed = scores(targets, systems, metric)  # (2S,)
    drawn = resampled_scores(targets, systems, metric=metric, resamples=resamples, seed=seed)
    differences = observed[seeds:] - observed[:seeds]  # (S,)
    variance, degrees = _variance(differences, drawn[:, seeds:] - drawn[:, :seeds], rows)

    difference = float(differences.mean())
    # Summing in another order leaves 1e-17 where the difference is exactly 0.
    error = math.sqrt(variance) if variance > 1e-24 else 0.0
    difference = difference if abs(difference) > 1e-12 else 0.0
    changed = int((baseline.astype(bool) != variant.astype(bool)).any(axis=(0, 2)).sum())
    p_value = _two_sided(difference, error, degrees)
    margin = _t_quantile(1 - alpha / 2, degrees) * error
    found = _t_quantile(1 - alpha / (2 * comparisons), degrees) + _t_quantile(0.8, degrees)
    return Comparison(
        difference=difference,
        interval=(max(-1.0, difference - margin), min(1.0, difference + margin)),
        p_value=min(1.0, max(p_value, 2.0 ** (1 - changed))),
        detectable=found * error if error else None,
        standard_error=error,
        degrees=degrees,
        seeds=seeds,
        rows=rows,
        changed=changed,
        alpha=alpha,
        comparisons=comparisons,
    )


def _variance(differences: np.ndarray, drawn: np.ndarray, rows: int) -> tuple[float, float]:
    """Variance of the mean of `differences` (S,), and its degrees of freedom; see `compare`.

    `drawn` (R, S) are the differences on resamples of the rows.
    """
    seeds = len(differences)
    # A resample of n rows is less varied than n new rows by (n - 1) / n.
    fair = rows / (rows - 1)
    over_rows = fair * drawn.mean(1).var(ddof=1)
    if seeds == 1:
        return float(over_rows), rows - 1
    over_seeds = differences.var(ddof=1) / seeds
    # What a seed's difference does beyond the mean of all seeds as rows come and go; the mean takes
    # up 1/S of it, hence S - 1.
    apart = drawn - drawn.mean(1, keepdims=True)  # (R, S)
    both = fair * apart.var(axis=0, ddof=1).sum() / (seeds * (seeds - 1))
    variance = over_rows + max(0.0, over_seeds - both)
    spread = over_seeds**2 / (seeds - 1) + over_rows**2 / (rows - 1)
    return float(variance), float(variance**2 / spread) if spread > 0 else rows - 1


def _two_sided(difference: float, error: float, degrees: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(difference) / error))


def _t_quantile(probability: float, degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for having made several comparisons, in the given order.

    Comparing each with alpha keeps the chance of even one false "better" or "worse" in the family
    below alpha, whatever the dependence (Holm, A Simple Sequentially Rejective Multiple Test
    Procedure, 1979). The k-th smallest of m is multiplied by m - k + 1; none falls below an earlier
    one or exceeds 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(comparison: Comparison, p_value: float | None = None) -> str:
    """ "better", "worse" or "no difference shown", for the variant against the baseline.

    Give the `holm`-adjusted `p_value` when the comparison is one of several; without it the
    comparison's own counts.
    """
    p_value = comparison.p_value if p_value is None else p_value
    if p_value >= comparison.alpha:
        return "no difference shown"
    return "better" if comparison.difference > 0 else "worse"


def shown_p(p_value: float, alpha: float = 0.05) -> str:
    """A p value with two digits, or as many as it takes not to be rounded to alpha or above it.

    >>> shown_p(0.0123), shown_p(0.0496), shown_p(0.0504)
    ('0.012', '0.0496', '0.05')
    """
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < alpha) == (p_value < alpha))


def explain(comparison: Comparison, p_value: float | None = None) -> str:
    """The verdict as a sentence, with what the study did not measure.

    Where no difference is shown it tells which one could have been seen. Beside a smaller one that
    is shown, as can be (its power is 80 %), that would be a contradiction.

    Arguments as for `verdict`; figures are in F1 points (0.01).
    """
    # Adding 0 turns the "-0.00" of a tiny negative number into "+0.00".
    difference, low, high = (
        f"{round(100 * share, 2) + 0.0:+.2f}"
        for share in (comparison.difference, *comparison.interval)
    )
    found = verdict(comparison, p_value)
    words = (
        f"{found}: {difference} F1 points"
        f" ({100 * (1 - comparison.alpha):g} % interval {low} to {high}"
    )
    if p_value is None:
        words += f", p = {shown_p(comparison.p_value, comparison.alpha)})"
    else:
        words += f" uncorrected, p = {shown_p(p_value, comparison.alpha)} corrected for several"
        words += " comparisons)"
    if comparison.detectable is None:
        words += f"; the answers differ on {comparison.changed} of"
        words += f" {count(comparison.rows, 'test row')}"
    elif comparison.detectable > 1:
        words += f"; {count(comparison.seeds, 'seed')} cannot tell any difference that there can be"
    elif found == "no difference shown":
        words += "; the smallest difference this study could have seen"
        if comparison.comparisons > 1:
            words += f", after correction for {comparison.comparisons} comparisons,"
        words += f" is {100 * comparison.detectable:.2f} points"
    if comparison.seeds == 1:
        words += "; one seed each, so the noise of training was not measured"
    return words


def summarise(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (ddof = 1) of a score over seeds; None with one seed.

    Raises:
        ValueError: on no values.
    """
    if not len(values):
        raise ValueError("no scores to summarise")
    return fmean(values), stdev(values) if len(values) > 1 else None
