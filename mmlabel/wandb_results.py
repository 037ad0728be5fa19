"""What a run in wandb shows beside its history: tables and curves of the test split, artifacts."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlabel.data.annotations import Annotations
from mmlabel.data.pictures import BadPicture, thumbnail
from mmlabel.report.gallery import label_name, label_names
from mmlabel.report.label_scores import precision_recall
from mmlabel.run_folder import BEST, PAGE, PREDICTIONS, RunRecord, read_run
from mmlabel.settings import Settings
from mmlabel.spreadsheet import separator_of
from mmlabel.training_options import Wandb

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

MOST_CURVES = 12  # labels: more lines cannot be told apart
POINTS = 50  # of a curve
THUMBNAIL = 224  # px, of a table's pictures
ONLINE_ROWS = 50


def log_results(
    run: "Run", chosen: Wandb, settings: Settings, *, folder: Path, annotations: Annotations
) -> None:
    """Log a finished run's scores of labels, predictions, page, checkpoint and data, if chosen.

    What is large is left out of an offline run unless it is asked for.

    Args:
        run: in wandb, not ended yet.
        chosen: the options.
        settings: of the run.
        folder: of the run, whose files are written.
        annotations: of the data set.
    """
    online = not run.offline
    if (folder / PREDICTIONS).is_file():
        record = read_run(folder)
        names = label_names([record], annotations)
        if chosen.labels:
            _log_labels(run, record, names)
        rows = (ONLINE_ROWS if online else 0) if chosen.predictions is None else chosen.predictions
        if rows:
            _log_predictions(run, record, annotations, names, rows=rows, upright=settings.upright)
    if _wanted(chosen.page, online) and (folder / PAGE).is_file():
        _log_page(run, folder)
    if _wanted(chosen.checkpoint, online) and (folder / BEST).is_file():
        _log_checkpoint(run, settings, folder)
    if _wanted(chosen.data, online):
        _log_data(run, settings)


def _wanted(choice: bool | None, online: bool) -> bool:
    return online if choice is None else choice


def _log_labels(run: "Run", record: RunRecord, names: dict[int, str]) -> None:
    """A row for each label that occurs, commonest first; F1 as bars; precision by recall."""
    import wandb

    predictions, scores = record.predictions, record.results["labels"]
    columns = ["label", "test rows", "F1", "precision", "recall", "average precision"]
    lines, curves = [], []
    for k in np.argsort(-predictions.targets.sum(axis=0), kind="stable").tolist():
        number = predictions.labels[k]
        known = predictions.known[:, k]
        if (score := scores.get(str(number))) is None or not predictions.targets[known, k].any():
            continue
        curve = precision_recall(predictions.targets[known, k], predictions.probs[known, k])
        name = label_name(names, number)
        figures = [score[key] for key in ("support", "f1", "precision", "recall")]
        lines.append([name, *figures, curve.average_precision])
        places = np.linspace(0, len(curve.recall) - 1, min(POINTS, len(curve.recall))).astype(int)
        curves.append((name, curve.recall[places].tolist(), curve.precision[places].tolist()))
    if not lines:
        return
    table = wandb.Table(columns=[*columns], data=lines)
    shown = curves[:MOST_CURVES]
    run.log(
        {
            # The bars bring their table with them, which has all of the columns.
            "test/f1_by_label": wandb.plot.bar(table, "label", "F1", title="F1 by label, test"),
            "test/precision_recall": wandb.plot.line_series(
                xs=[recall for _, recall, _ in shown],
                ys=[precision for _, _, precision in shown],
                keys=[name for name, _, _ in shown],
                title="Precision by recall, test",
                xname="recall",
            ),
        }
    )


def _log_predictions(
    run: "Run",
    record: RunRecord,
    annotations: Annotations,
    names: dict[int, str],
    *,
    rows: int,
    upright: bool,
) -> None:
    """Test pictures with caption, truth, answer and probabilities, evenly over the file."""
    import wandb

    predictions, answers = record.predictions, record.answers
    probabilities = record.probabilities
    count = min(rows, len(predictions.ids))
    columns = ["id", "picture", "caption", "truth", "answer", "right", "probabilities"]
    table = wandb.Table(columns=[*columns])
    labels = [label_name(names, number) for number in predictions.labels]
    separator = separator_of(labels)

    def listed(which: np.ndarray) -> str:
        return separator.join(labels[k] for k in which.nonzero()[0])

    for row in np.linspace(0, len(predictions.ids) - 1, count).astype(int).tolist():
        caption, picture = annotations.caption_and_picture(predictions.ids[row])
        truth, answer = predictions.targets[row], answers[row]
        concerned = np.flatnonzero(truth | answer)
        table.add_data(
            predictions.ids[row],
            picture and _thumbnail(picture, upright=upright),
            caption,
            listed(truth),
            listed(answer),
            bool((truth == answer).all()),
            json.dumps(
                {labels[k]: round(float(probabilities[row, k]), 4) for k in concerned},
                ensure_ascii=False,
            ),
        )
    run.log({"test/predictions": table})


def _thumbnail(path: Path, *, upright: bool) -> object:
    import wandb

    try:
        small = thumbnail(path, THUMBNAIL, upright=upright)
    except BadPicture:
        return None
    return wandb.Image(small, file_type="jpg")


def _log_page(run: "Run", folder: Path) -> None:
    """report.html, as it is: it has its own style, and loads nothing."""
    import wandb

    page = wandb.Html((folder / PAGE).read_text(encoding="utf-8"), inject=False)
    run.log({"report": page})


def _log_checkpoint(run: "Run", settings: Settings, folder: Path) -> None:
    """best.ckpt as an artifact, which wandb calls "best" and "latest"."""
    import wandb

    metadata = {"monitor": settings.monitor, "seed": settings.seed, "model": settings.model.name}
    artifact = wandb.Artifact(f"{run.id}-checkpoint", type="model", metadata=metadata)
    artifact.add_file(str(folder / BEST))
    run.log_artifact(artifact, aliases=["best", "latest"])


def _log_data(run: "Run", settings: Settings) -> None:
    """The data set by its place, of which nothing is copied, as what the run has used."""
    import wandb

    data = settings.data
    place = getattr(data, "root", None) or getattr(data, "file", None)
    if place is None:  # drawn from a seed, which the config tells
        return
    artifact = wandb.Artifact(f"data-{data.name}", type="dataset", metadata=data.model_dump())
    path = Path(os.path.expanduser(place)).absolute()
    if path.is_dir():  # of which wandb would list all files
        with artifact.new_file("place.txt", encoding="utf-8") as file:
            file.write(path.as_uri())
    else:
        artifact.add_reference(path.as_uri(), checksum=False)
    if run.offline:  # what was used can be said online alone
        run.log_artifact(artifact)
    else:
        run.use_artifact(artifact)


def say_where(run: "Run") -> None:
    """Where the run is to be seen, or how it gets there."""
    if run.offline:
        folder = Path(run.dir).parent
        log.info("wandb is offline; this run is sent with: wandb sync %s", folder)
    elif run.url:
        log.info("wandb: %s", run.url)
