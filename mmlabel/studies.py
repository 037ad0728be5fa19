"""Studies: variants of the configuration, each run with several seeds, and what they show.

A study is a file of conf/study and nothing else. Its runs are named after the settings that decide
their result, so that a run which has finished is found again, by this study or any other.
"""

import csv
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mmlabel import __version__
from mmlabel.cache import atomic_write, file_digest, fingerprint
from mmlabel.cli import CONF, flatten
from mmlabel.data.annotations import Annotations
from mmlabel.errors import UserError, nearest
from mmlabel.evidence import (
    METRICS,
    Comparison,
    bootstrap_interval,
    compare,
    explain,
    holm,
    summarise,
    verdict,
)
from mmlabel.report import (
    Score,
    StudyReport,
    VariantSummary,
    markdown_table,
    result_rows,
    verdicts,
    write_results_csv,
    write_study_report,
)
from mmlabel.report import write_index as write_index_page
from mmlabel.run_folder import RunRecord, read_run

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

METHOD = (
    "Intervals of scores: bias-corrected and accelerated bootstrap over the test rows (Efron & "
    "Tibshirani 1993), of these trained models. Differences: paired on the same test rows and "
    "seeds; their variance adds that of a paired bootstrap over rows (Koehn 2004) and that between "
    "seeds (Bouthillier et al. 2021), held against Student's t with the degrees of freedom of "
    "Welch (1947) and Satterthwaite (1946). p values are corrected for the number of variants "
    "(Holm 1979); intervals of differences are not. Seconds are the median run's, as the first one "
    "may have had features to compute."
)

# Settings that say how a run is recorded or how fast it is read, and do not change its result.
RECORDING = ("name", "study", "report", "cache_dir", "logger", "data.workers", "data.download")


# --------------------------------------------------------------------------------- a study's file


@dataclass(frozen=True)
class Variant:
    """One line of a study's table.

    Attributes:
        name: the key in the study's file.
        label: for people.
        overrides: what makes it differ, as train.py takes it.
        published: the figure published for it, in the study's metric.
        published_columns: published figures for the study's extra columns, and for seconds.
    """

    name: str
    label: str
    overrides: list[str]
    published: float | None
    published_columns: dict[str, float]


@dataclass(frozen=True)
class Study:
    """A study's file.

    Attributes:
        name: of the file.
        title, question: for people.
        baseline: the variant with which the others are compared.
        variants: in the order of the table.
        metric: "test/" and one of `evidence.METRICS`.
        published_label: heads the column of published figures.
        seeds: how many, unless the command says otherwise.
        fixed: overrides that every variant gets; the command line can replace them.
        columns: further columns of the table, keys of `COLUMNS`.
        notes: what a reader of the results must know.
    """

    name: str
    title: str
    question: str
    baseline: str
    variants: list[Variant]
    metric: str = "test/f1_micro"
    published_label: str = "Published"
    seeds: int = 3
    fixed: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Collection:
    """A file that names other studies, to be run one after the other."""

    name: str
    title: str
    question: str
    studies: list[Study]


def study_names(folder: Path = CONF / "study") -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_study(name: str, folder: Path = CONF / "study") -> Study | Collection:
    """Read a study's file.

    Raises UserError if there is none, or for a key that is unknown, missing or of a wrong type.
    """
    path = folder / f"{name}.yaml"
    if name not in study_names(folder):
        raise UserError(f'there is no study "{name}"{nearest(name, study_names(folder))}')
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold title, question, baseline and variants")
    if "studies" in content:
        _check_keys(str(path), content, {"title": str, "question": str, "studies": list}, ())
        parts = [load_study(part, folder) for part in content["studies"]]
        if nested := [part.name for part in parts if isinstance(part, Collection)]:
            raise UserError(f"{path}: studies: {nested[0]} is itself a list of studies")
        return Collection(name, content["title"], content["question"], parts)
    return _study(name, str(path), content)


STUDY_KEYS = {
    "title": str,
    "question": str,
    "baseline": (str, int),
    "variants": dict,
    "metric": str,
    "published_label": str,
    "seeds": int,
    "fixed": list,
    "columns": list,
    "notes": list,
}
VARIANT_KEYS = {
    "label": str,
    "overrides": list,
    "published": (int, float, type(None)),
    "published_columns": dict,
}


def _study(name: str, path: str, content: dict) -> Study:
    _check_keys(path, content, STUDY_KEYS, ("title", "question", "baseline", "variants"))
    variants = []
    for key, value in content["variants"].items():
        where = f"{path}: variant {key}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: must hold label and overrides")
        _check_keys(where, value, VARIANT_KEYS, ("label", "overrides"))
        _check_overrides(where, value["overrides"])
        published = value.get("published_columns", {})
        _check_names(f"{where}: published_columns", published, [*COLUMNS, "seconds"])
        variants.append(
            Variant(str(key), value["label"], value["overrides"], value.get("published"), published)
        )
    options = {key: value for key, value in content.items() if key in _field_names(Study)}
    options |= {"name": name, "baseline": str(content["baseline"]), "variants": variants}
    study = Study(**options)
    _check_overrides(f"{path}: fixed", study.fixed)
    _check_names(f"{path}: columns", study.columns, COLUMNS)
    _check_names(f"{path}: metric", [study.metric], [f"test/{metric}" for metric in METRICS])
    _check_names(f"{path}: baseline", [study.baseline], [variant.name for variant in variants])
    if study.seeds < 1:
        raise UserError(f"{path}: seeds: must be 1 or more, not {study.seeds}")
    return study


def _field_names(kind: type) -> set[str]:
    return {item.name for item in fields(kind)}


def _check_keys(where: str, content: dict, types: dict, required: Sequence[str]) -> None:
    _check_names(where, content, types)
    for key in required or types:
        if key not in content:
            raise UserError(f"{where}: {key} is missing")
    for key, value in content.items():
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key}: {value!r} is of the wrong type")


def _check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f'{where}: unknown "{name}"{nearest(str(name), known)}')


def _check_overrides(where: str, overrides: Iterable[object]) -> None:
    for override in overrides:
        if not isinstance(override, str) or "=" not in override:
            raise UserError(f"{where}: {override!r} is no override (OPTION=VALUE)")
        if override_key(override) in ("seed", "study"):
            raise UserError(f"{where}: {override}: a study sets this itself")


# ------------------------------------------------------------------------------------- its runs


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        variant: whose run it is.
        seed: of the run.
        overrides: all that the run is given, as train.py takes it.
        folder: of the run, named after the settings that decide its result.
        settings: the resolved configuration.
    """

    variant: Variant
    seed: int
    overrides: list[str]
    folder: Path
    settings: dict

    @property
    def title(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"


def override_key(override: str) -> str:
    """The option or group that an override sets: "+a.b=1" -> "a.b"."""
    return override.lstrip("+~").split("=", 1)[0].split("@")[0]


def compared_keys(study: Study) -> set[str]:
    """The options and groups in which the variants differ."""
    return {override_key(item) for variant in study.variants for item in variant.overrides}


def job_overrides(study: Study, variant: Variant, overrides: Sequence[str]) -> list[str]:
    """A variant's overrides without seed: fixed ones, the command line's, its own.

    Of two that set the same option the later one counts; Hydra would not accept both.
    """
    merged = {override_key(item): item for item in [*study.fixed, *overrides, *variant.overrides]}
    return list(merged.values())


def plan(
    study: Study,
    *,
    seeds: int,
    overrides: Sequence[str],
    runs: Path,
    settings_of: Callable[[list[str]], dict],
    data_key: Callable[[dict], str],
) -> list[Job]:
    """Every run of the study, those that have finished included.

    Args:
        study: what to run.
        seeds: how many seeds; they are 0, 1, ...
        overrides: the command line's, for every variant.
        runs: the folder that holds the runs of all studies.
        settings_of: the resolved configuration that overrides give.
        data_key: stands for the content of the data that a configuration names.

    Raises:
        UserError: an override sets what the variants differ in, or two variants are the same.
    """
    for key in sorted({override_key(item) for item in overrides} & compared_keys(study)):
        raise UserError(f'{key} is what the study "{study.name}" compares: leave it out')
    jobs, owners = [], {}
    for variant in study.variants:
        given = job_overrides(study, variant, overrides)
        names = [f"study.name={study.name}", f"study.variant={variant.name}"]
        settings = settings_of(given)
        data = data_key(settings)
        for seed in range(seeds):
            settings = settings | {"seed": seed}
            folder = runs / run_key(settings, data)
            jobs.append(Job(variant, seed, [*given, f"seed={seed}", *names], folder, settings))
            owner = owners.setdefault(folder, variant.name)
            if owner != variant.name:
                raise UserError(
                    f'study "{study.name}": variants {owner} and {variant.name} have the same'
                    " settings"
                )
    return jobs


def run_key(settings: dict, data: str) -> str:
    """Changes with everything that a run's result depends on: settings, data, files they name."""
    flat = {
        key: value
        for key, value in flatten(settings).items()
        if not any(key == part or key.startswith(f"{part}.") for part in RECORDING)
    }
    files = {
        key: file_digest(Path(value).expanduser())
        for key, value in flat.items()
        if isinstance(value, str) and Path(value).expanduser().is_file()
    }
    return fingerprint(__version__, flat, files, data)


def finished(folder: Path) -> bool:
    """Whether a run has left its results there; train.py writes them last, and whole."""
    return (folder / "results.json").is_file() and (folder / "predictions.csv").is_file()


def failure(folder: Path) -> str:
    """Why the run in `folder` has no results."""
    try:
        return json.loads((folder / "failed.json").read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, LookupError):
        return "it ended without a result: see the log in its folder, if there is one"


def commands(study: Study, *, seeds: int, overrides: Sequence[str]) -> list[str]:
    """The `python train.py -m` commands that make the same runs as the study.

    One if the variants differ in a single option, else one for each variant.
    """
    varied = [variant.overrides for variant in study.variants]
    keys = {items[0].split("=", 1)[0] for items in varied if len(items) == 1}
    values = [items[0].split("=", 1)[1] for items in varied if len(items) == 1]
    same_option = len(values) == len(varied) and len(keys) == 1
    if same_option and not any(set(value) & set(",()[]{}'\"") for value in values):
        first = job_overrides(study, study.variants[0], overrides)[: -len(varied[0])]
        lines = [[*first, f"{keys.pop()}={','.join(values)}"]]
    else:
        lines = [job_overrides(study, variant, overrides) for variant in study.variants]
    seed = f"seed={','.join(map(str, range(seeds)))}"
    return [shlex.join(["python", "train.py", "-m", *line, seed]) for line in lines]


def seconds_needed(jobs: Sequence[Job], pending: Sequence[Job], runs: Path) -> float | None:
    """How long the pending runs will take one after the other, judging by those that have finished.

    A run counts as long as the median of its variant's, of its study's or of all, whichever is the
    first to be known; None if nothing has finished.
    """
    known: dict[str, list[float]] = {}
    for job in jobs:
        if finished(job.folder):
            known.setdefault(job.variant.name, []).append(_seconds(job.folder))
    others = [time for times in known.values() for time in times]
    others = others or [_seconds(path.parent) for path in runs.glob("*/results.json")]
    if not others and pending:
        return None
    return sum(median(known.get(job.variant.name, others)) for job in pending)


def _seconds(folder: Path) -> float:
    return _results(folder)["seconds"]["total"]


def _results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------- what they show


def _training_loss(run: RunRecord, epoch: int) -> float | None:
    losses = {row["epoch"]: row.get("train/loss") for row in run.history}
    return losses.get(epoch)


def _loss_fall(run: RunRecord) -> float | None:
    first, later = _training_loss(run, 0), _training_loss(run, 4)
    return None if first is None or later is None else 100 * (1 - later / first)


# Further columns that a study may ask for: heading, and the figure of one run. Seconds are in every
# table, so what is published of them stands alone.
COLUMNS: dict[str, tuple[str, Callable[[RunRecord], float | None]]] = {
    "loss_first": ("Training loss, epoch 1", lambda run: _training_loss(run, 0)),
    "loss_fifth": ("Training loss, epoch 5", lambda run: _training_loss(run, 4)),
    "loss_fall": ("Fall of the loss, %", _loss_fall),
    "val_f1": ("Validation micro-F1", lambda run: run.results["scores"].get("val/f1_micro")),
    "epochs": ("Epochs", lambda run: run.results["epochs"]),
}


def study_report(
    study: Study,
    jobs: Sequence[Job],
    *,
    command: str,
    annotations: Annotations | None,
    resamples: int = 10_000,
) -> StudyReport:
    """What the finished runs among `jobs` show; the others are listed as failed.

    Args:
        study: whose runs they are.
        jobs: see `plan`.
        command: that makes the same runs.
        annotations: for the page's gallery.
        resamples: how many resamples of the test rows.

    Raises:
        UserError: a finished run cannot be read.
    """
    runs: dict[str, dict[int, RunRecord]] = {variant.name: {} for variant in study.variants}
    failed = []
    for job in jobs:
        if finished(job.folder):
            runs[job.variant.name][job.seed] = read_run(job.folder)
        else:
            failed.append((" ".join(job.overrides), failure(job.folder)))
    compared = comparisons(study, runs, resamples=resamples)
    adjusted = dict(zip(compared, holm([c.p_value for c in compared.values()]), strict=True))
    notes = list(study.notes)
    if not runs[study.baseline]:
        notes.append("No run of the baseline has finished, so nothing is compared.")
    variants = []
    for variant in study.variants:
        summary = _summary(study, variant, list(runs[variant.name].values()), resamples)
        if variant.name in compared:
            comparison, p_value = compared[variant.name], adjusted[variant.name]
            summary = replace(
                summary,
                verdict=verdict(comparison, p_value),
                explanation=explain(comparison, p_value if len(compared) > 1 else None),
                difference=comparison.difference,
                difference_interval=comparison.interval,
                p_value=p_value,
            )
        elif summary.runs and variant.name != study.baseline:
            summary = replace(summary, verdict="not compared", explanation=NOT_COMPARED)
        variants.append(summary)
    return StudyReport(
        title=study.title,
        question=study.question,
        baseline=study.baseline,
        variants=variants,
        metric=study.metric,
        published_label=study.published_label,
        command=command,
        method=METHOD,
        notes=notes,
        failed=failed,
        annotations=annotations,
    )


NOT_COMPARED = "not compared: the baseline has no finished run on the same test rows and seeds"


def comparisons(
    study: Study, runs: Mapping[str, Mapping[int, RunRecord]], *, resamples: int = 10_000
) -> dict[str, Comparison]:
    """Each variant against the baseline on the seeds that both have, where test rows agree.

    Args:
        study: whose runs they are.
        runs: variant -> seed -> run.
        resamples: how many resamples of the test rows.
    """
    found = {}
    for variant in study.variants:
        ours, base = runs[variant.name], runs[study.baseline]
        seeds = sorted(ours.keys() & base.keys())
        if variant.name == study.baseline or not seeds:
            continue
        pairs = [(base[seed], ours[seed]) for seed in seeds]
        if not all(_same_rows(base[seeds[0]], run) for pair in pairs for run in pair):
            continue
        found[variant.name] = compare(
            baseline=np.stack([run.answers for run, _ in pairs]),
            variant=np.stack([run.answers for _, run in pairs]),
            targets=pairs[0][0].predictions.targets,
            metric=study.metric.removeprefix("test/"),
            resamples=resamples,
        )
    return found


def _same_rows(one: RunRecord, other: RunRecord) -> bool:
    ours, theirs = one.predictions, other.predictions
    return ours.ids == theirs.ids and np.array_equal(ours.targets, theirs.targets)


def _summary(
    study: Study, variant: Variant, runs: list[RunRecord], resamples: int
) -> VariantSummary:
    """A variant's line without the comparison."""
    scores = {}
    if runs:
        order = dict.fromkeys([study.metric.removeprefix("test/"), *METRICS])
        scores = {f"test/{metric}": _score(runs, metric, resamples) for metric in order}

    def typical(figure: Callable[[RunRecord], float | None]) -> float | None:
        values = [value for run in runs if (value := figure(run)) is not None]
        return median(values) if values else None

    extra = {}
    for column in study.columns:
        heading, figure = COLUMNS[column]
        values = [value for run in runs if (value := figure(run)) is not None]
        extra[heading] = fmean(values) if values else None
        if any(column in other.published_columns for other in study.variants):
            extra[f"{heading} ({study.published_label})"] = variant.published_columns.get(column)
    if any("seconds" in other.published_columns for other in study.variants):
        extra[f"Seconds ({study.published_label})"] = variant.published_columns.get("seconds")
    return VariantSummary(
        name=variant.name,
        label=variant.label,
        runs=runs,
        scores=scores,
        published=variant.published,
        parameters=typical(lambda run: run.results["parameters"]),
        megabytes=typical(lambda run: run.results["megabytes"]),
        seconds=typical(lambda run: run.results["seconds"]["total"]),
        extra=extra,
    )


def _score(runs: list[RunRecord], metric: str, resamples: int) -> Score:
    mean, deviation = summarise([run.results["scores"][f"test/{metric}"] for run in runs])
    low, high = bootstrap_interval(
        runs[0].predictions.targets,
        np.stack([run.answers for run in runs]),
        metric=metric,
        resamples=resamples,
    )
    return Score(mean, deviation, low, high)


# ------------------------------------------------------------------------------- what is written


def write_study(folder: Path, report: StudyReport, *, jobs: Sequence[Job], command: str) -> None:
    """Write results.csv, runs.csv, table.md and report.html into `folder`.

    Args:
        folder: of the study.
        report: what its runs show.
        jobs: all its runs, for runs.csv, which says where each is.
        command: of sweep.py, for the header of results.csv.
    """
    write_results_csv(folder / "results.csv", report, _header(report, command))
    with atomic_write(folder / "runs.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "status", "folder", report.metric, "overrides"])
        for job in jobs:
            done = finished(job.folder)
            score = _results(job.folder)["scores"][report.metric] if done else ""
            status = "finished" if done else "failed"
            where = os.path.relpath(job.folder, folder)
            row = [job.variant.name, job.seed, status, where, score, " ".join(job.overrides)]
            writer.writerow(row)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(markdown_page(report), encoding="utf-8")
    write_study_report(folder, report)


def _header(report: StudyReport, command: str) -> list[str]:
    """What results.csv says about itself: title, commands, data, versions, machine."""
    lines = [f"{report.title}. {report.question}", f"Made by: {command}"]
    lines += ["The same runs:", *(f"  {line}" for line in report.command.splitlines())]
    runs = [run.results for variant in report.variants for run in variant.runs]
    if runs:
        first = runs[0]
        rows = ", ".join(f"{count} {split}" for split, count in first["rows"].items())
        versions = ", ".join(f"{name} {value}" for name, value in first["versions"].items())
        lines += [f"Data: {first['settings']['data']['name']}, rows: {rows}"]
        lines += [f"Versions: {versions}", f"Machine: {first['machine']}"]
    return [*lines, report.method]


def markdown_page(report: StudyReport, level: int = 1) -> str:
    """Title, question, table, verdicts in words, failures and method, in Markdown."""
    parts = [f"{'#' * level} {report.title}", report.question, markdown_table(report).strip()]
    parts.append("\n".join(f"- {line}" for line in verdicts(report)))
    notes = [*report.notes, *run_notes(report)]
    parts += ["\n".join(f"- Note: {note}" for note in notes)] if notes else []
    failed = [f"- failed: `{overrides}`: {error}" for overrides, error in report.failed]
    parts += ["\n".join(failed)] if failed else []
    parts += [report.method, f"```\n{report.command}\n```"]
    return "\n\n".join(parts) + "\n"


def run_notes(report: StudyReport) -> list[str]:
    """What runs had to go without, each once, with the variants it holds for."""
    found: dict[str, list[str]] = {}
    for variant in report.variants:
        for note in dict.fromkeys(n for run in variant.runs for n in run.results.get("notes", [])):
            found.setdefault(note, []).append(variant.label)
    everywhere = len([variant for variant in report.variants if variant.runs])
    return [
        note if len(labels) == everywhere else f"{note} ({', '.join(labels)})"
        for note, labels in found.items()
    ]


def print_study(report: StudyReport) -> None:
    """The table and the verdicts on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    metric = report.metric
    table = Table(title=report.title, title_justify="left", box=box.SIMPLE_HEAD)
    extra = list(dict.fromkeys(name for variant in report.variants for name in variant.extra))
    heads = ["variant", metric, report.published_label, "difference", "p", "verdict", "runs"]
    for heading in [*heads, "parameters", "MB", "seconds", *extra]:
        table.add_column(
            heading, justify="left" if heading in ("variant", "verdict") else "right", no_wrap=True
        )
    for row in result_rows(report):
        score = row[metric] + (f" ± {row[f'{metric}_std']}" if row[f"{metric}_std"] else "")
        cells = [row["label"], score, row["published"], row["difference"], row["p_value"]]
        cells += [row[name] for name in ("verdict", "runs", "parameters", "megabytes", "seconds")]
        table.add_row(*cells, *(row[name] for name in extra))
    # Whole lines even into a file or a narrow terminal: a figure cut short would be worthless.
    console = Console(soft_wrap=True, width=1000)
    console.print(table)
    for line in [*verdicts(report), *report.notes, *run_notes(report)]:
        console.print(line, markup=False)


def write_index(folder: Path, collection: Collection, reports: Mapping[str, StudyReport]) -> None:
    """Write index.html, which leads to the studies' pages beside `folder`, and table.md."""
    write_index_page(folder, title=collection.title, question=collection.question, reports=reports)
    tables = [f"# {collection.title}\n\n{collection.question}\n"]
    tables += [markdown_page(report, level=2) for report in reports.values()]
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text("\n".join(tables), encoding="utf-8")


def log_to_wandb(
    study: Study, report: StudyReport, *, settings: dict, folder: Path, workspace: bool
) -> None:
    """Log a study's table and page as a run of their own in the study's wandb group.

    Args:
        study: that was run.
        report: what it shows.
        settings: of one of its runs; without wandb in them nothing is logged.
        folder: with the study's page.
        workspace: also save a view that compares the variants; where that cannot be, say why.
    """
    if settings["logger"]["wandb"] is None:
        if workspace:
            log.warning("wandb.workspace: no view was saved, as wandb is off (logger=csv)")
        return
    import wandb

    from mmlabel.tracking import start_wandb

    rows = result_rows(report)
    run = start_wandb(
        settings["logger"]["wandb"],
        flat={"study": study.name, "variant": "summary"},
        folder=folder,
        name=f"{study.name}: summary",
        group=study.name,
        tags=[study.name, "summary"],
    )
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
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
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
