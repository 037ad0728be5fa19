"""A study in wandb: its table and page as a run of its own, and a view that compares its runs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mmlabel.report import StudyReport, result_rows
from mmlabel.study.definition import Study
from mmlabel.training_options import Wandb

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)


def log_to_wandb(
    study: Study, report: StudyReport, *, options: Wandb | None, folder: Path, workspace: bool
) -> None:
    """Log a study's table and page as a run of their own in the study's wandb group.

    Args:
        study: that was run.
        report: what it shows.
        options: `logger.wandb` of its runs; None logs nothing.
        folder: with the study's page.
        workspace: also save a view that compares the variants; where that cannot be, say why.
    """
    if options is None:
        if workspace:
            log.warning("wandb.workspace: no view was saved, as wandb is off (logger=csv)")
        return
    import wandb

    from mmlabel.tracking import wandb_logger

    rows = result_rows(report)
    run = wandb_logger(
        options,
        config={"study": study.name, "variant": "summary"},
        folder=folder,
        name=f"{study.name}: summary",
        group=study.name,
        tags=[study.name, "summary"],
    ).experiment
    table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    page = wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)
    run.log({"study/results": table, "study/report": page})
    for row in rows:
        if row[report.metric]:
            run.summary[f"{report.metric}/{row['variant']}"] = float(row[report.metric])
    if workspace:
        log.info("wandb.workspace: %s", save_workspace(run, study))
    run.finish()


def save_workspace(run: "wandb.Run", study: Study) -> str:
    """Save a view of wandb's that compares the study's variants; its address, or why there is none.

    The view groups the study's runs by variant, which averages over seeds.
    """
    if run.offline:
        return "no view was saved, as that takes a server and nobody is logged in to one"
    try:
        import wandb_workspaces.reports.v2 as panels  # pyright: ignore[reportMissingImports]
        import wandb_workspaces.workspaces as workspaces  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "no view was saved: it takes pip install wandb-workspaces"
    view = workspaces.Workspace(
        entity=run.entity,
        project=run.project,
        name=f"Study {study.name}",
        sections=[
            workspaces.Section(
                name=study.title,
                panels=[
                    panels.BarPlot(title=study.metric, metrics=[study.metric]),
                    panels.LinePlot(x="epoch", y=["val/f1_micro"], title="val/f1_micro"),
                    panels.LinePlot(x="epoch", y=["train/loss"], title="train/loss"),
                ],
                is_open=True,
            )
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=f"Config('study') = '{study.name}' and Config('variant') != 'summary'",
            groupby=[workspaces.Config("variant")],
        ),
    )
    try:
        return view.save().url
    except Exception as error:  # of the network or the server: the study itself is done
        return f"no view was saved: {error}"
