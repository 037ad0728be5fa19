"""The sections of a run's page about its labels: scores, curves, confusions, threshold."""

import numpy as np
from markupsafe import Markup

from mmlabel.report.charts import Series, line_chart, precision_recall_chart
from mmlabel.report.gallery import label_name
from mmlabel.report.label_scores import (
    PrecisionRecall,
    calibration_error,
    precision_recall,
    taken_for,
)
from mmlabel.report.pages import chart_row, render
from mmlabel.run_folder import RunRecord

MOST_CURVES = 30  # small charts on a page
MOST_CONFUSED = 20  # labels in the table of confusions
MOST_PAIRS = 12
MOST_LISTED = 1000  # labels in the table of scores
MOST_COMPARED = 1000  # labels with each other, which is quadratic


def label_columns(run: RunRecord) -> list[int]:
    """Columns of the predictions whose label occurs in the test rows, commonest first."""
    support = run.predictions.targets.sum(axis=0)
    return [int(k) for k in np.argsort(-support, kind="stable") if support[k]]


def _curve(run: RunRecord, column: int) -> PrecisionRecall:
    predictions = run.predictions
    known = predictions.known[:, column]
    return precision_recall(predictions.targets[known, column], predictions.probs[known, column])


def label_table(run: RunRecord) -> Markup:
    """Support, F1, precision, recall and average precision of each label that occurs."""
    column = {number: k for k, number in enumerate(run.predictions.labels)}
    lines, used = [], run.thresholds.tolist()
    labels = sorted(run.results["labels"].items(), key=lambda item: -item[1]["support"])
    for number, label in labels[:MOST_LISTED]:
        k = column[int(number)]
        curve = _curve(run, k)
        lines.append(
            {
                "name": label["name"] or number,
                **{name: label[name] for name in ("support", "precision", "recall", "f1")},
                "ap": curve.average_precision,
                "used": used[k],
                "best": curve.best_threshold,
            }
        )
    return render("run/labels.html", lines=lines, left_out=len(labels) - len(lines))


def label_curves(run: RunRecord, names: dict[int, str]) -> Markup:
    """A small precision-recall chart of each of the commonest labels."""
    targets, answers = run.predictions.targets, run.answers
    columns = label_columns(run)
    charts, threshold = [], run.thresholds
    for k in columns[:MOST_CURVES]:
        curve, number = _curve(run, k), run.predictions.labels[k]
        hits, answered = int((targets[:, k] & answers[:, k]).sum()), int(answers[:, k].sum())
        used, words = None, "it is never answered"
        recall, precision = curve.drawn()
        if answered:
            used = hits / int(targets[:, k].sum()), hits / answered
            words = f"precision {used[1]:.3f}, recall {used[0]:.3f}"
        charts.append(
            precision_recall_chart(
                id=f"pr-{number}",
                heading=f"{label_name(names, number)}: {curve.average_precision:.2f}",
                # From no answer at all, where precision is taken to be 1.
                recall=[0.0, *recall.tolist()],
                precision=[1.0, *precision.tolist()],
                used=used,
                share=float(targets[run.predictions.known[:, k], k].mean()),
                description=f"Average precision {curve.average_precision:.3f}. At the threshold "
                f"used, {threshold[k]:g}: {words}.",
            )
        )
    shown = f" The {MOST_CURVES} commonest of {len(columns)}." if len(columns) > len(charts) else ""
    return chart_row(
        *charts,
        words="Precision (upwards) by recall (to the right) on the test rows, commonest label "
        "first, with the average precision beside its name. The square is the threshold used; the "
        f"dotted line is what guessing would reach.{shown}",
        css="small-charts",
    )


def confusions(run: RunRecord, names: dict[int, str]) -> Markup:
    """Which label is answered where which was missed; nothing if no two go together."""
    targets, answers = run.predictions.targets, run.answers
    mistaken = (targets != answers).sum(axis=0)
    compared = np.sort(np.argsort(-mistaken, kind="stable")[:MOST_COMPARED])
    counts = taken_for(targets[:, compared], answers[:, compared])
    if not counts.any():
        return Markup("")
    missing = (targets & ~answers)[:, compared]
    missed = missing.sum(axis=0)
    alone = missing[~(answers & ~targets).any(axis=1)].sum(axis=0)
    words = [label_name(names, run.predictions.labels[k]) for k in compared]
    places = np.argwhere(counts)
    pairs = sorted(places.tolist(), key=lambda ij: (-counts[ij[0], ij[1]], ij))[:MOST_PAIRS]
    involved = np.argsort(-(counts.sum(axis=0) + counts.sum(axis=1)), kind="stable")
    kept = sorted(int(k) for k in involved[:MOST_CONFUSED] if counts[k].any() or counts[:, k].any())
    return render(
        "run/confusions.html",
        pairs=[
            {
                "missed": words[i],
                "answered": words[j],
                "rows": int(counts[i, j]),
                "of": int(missed[i]),
            }
            for i, j in pairs
        ],
        labels=[words[j] for j in kept],
        lines=[
            {
                "name": words[i],
                "missed": int(missed[i]),
                "alone": int(alone[i]),
                "counts": [int(counts[i, j]) for j in kept],
                "largest": max(1, int(counts.max())),
            }
            for i in kept
        ],
        left_out=int(((counts.sum(axis=0) + counts.sum(axis=1)) > 0).sum()) - len(kept),
        not_compared=int((mistaken > 0).sum() - (mistaken[compared] > 0).sum()),
    )


def thresholds(run: RunRecord) -> Markup:
    """Precision, recall and F1 by threshold, and whether probabilities mean what they say."""
    known = run.predictions.known
    targets, probs = run.predictions.targets[known], run.predictions.probs[known]
    if not targets.any():
        return Markup("")
    steps = np.linspace(0.02, 0.98, 49)
    hits = np.array([(targets & (probs >= t)).sum() for t in steps])
    answered = np.array([(probs >= t).sum() for t in steps])
    precision, recall = hits / np.maximum(answered, 1), hits / targets.sum()
    f1 = 2 * hits / (answered + targets.sum())
    some = answered > 0
    threshold = run.results["threshold"]
    one = None if isinstance(threshold, list) else threshold
    used = "" if one is None else f" Dotted: the threshold used, {one:g}."
    of_file = ""
    if run.is_of_decoder:
        of_file = (
            " Thresholds of model=decoder are of prob_N in predictions.csv: half of a label's"
            " probability, and 0.5 more for one of the best set of labels that was found."
        )
    curves = line_chart(
        id="threshold-curve",
        heading="Precision and recall by threshold",
        note=f"Micro-averaged on the test rows.{used} F1 is highest at {steps[f1.argmax()]:.2f}. "
        f"To choose a threshold, use the validation rows.{of_file}",
        series=[
            Series("F1", steps.tolist(), f1.tolist(), 0),
            Series("precision", steps[some].tolist(), precision[some].tolist(), 1),
            Series("recall", steps.tolist(), recall.tolist(), 2),
        ],
        x_label="threshold",
        y_label="share",
        reference=one,
    )
    return chart_row(curves, _calibration(targets, run.probabilities[known]))


def _calibration(targets: np.ndarray, probs: np.ndarray) -> Markup:
    """Reliability diagram over all decisions (DeGroot & Fienberg, 1983)."""
    bins = np.minimum((probs * 10).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    kept = counts >= 10
    said = np.bincount(bins, probs, 10)[kept] / counts[kept]
    true = np.bincount(bins, targets, 10)[kept] / counts[kept]
    return line_chart(
        id="calibration",
        heading="Calibration",
        note="How often a label is there when the model gives it that probability; on the diagonal "
        "the probabilities mean what they say. Tenths with fewer than 10 decisions are left out. "
        f"Expected calibration error over all decisions: {calibration_error(targets, probs):.4f} "
        "(ten bins; Naeini et al., 2015).",
        series=[
            Series("observed", said.tolist(), true.tolist(), 0),
            Series("perfect", (0.0, 1.0), (0.0, 1.0), 14),
        ],
        x_label="probability given",
        y_label="share that is true",
    )
