"""A study of one option; its runs are random answers, the worse the higher it is."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml
from fake_runs import write_fake_run

from mmlabel.cli import load_settings
from mmlabel.models.options import Fusion
from mmlabel.settings import Settings, read_settings
from mmlabel.study.definition import Study
from mmlabel.study.plan import Configurations, Job, plan

VALID = {
    "title": "T",
    "question": "Q?",
    "baseline": "a",
    "columns": ["loss_fall"],
    "variants": {
        "a": {"label": "A", "overrides": ["model.head.dropout=0.1"], "published": 0.8},
        "b": {
            "label": "B",
            "overrides": ["model.head.dropout=0.2"],
            "published_columns": {"loss_fall": 40.0, "seconds": 99},
        },
        "c": {"label": "C", "overrides": ["model.head.dropout=0.4"]},
    },
}


def write_study_file(folder: Path, content: object, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(
        content if isinstance(content, str) else yaml.safe_dump(content)
    )
    return folder


def nothing(overrides: list[str]) -> set[str]:
    """No override is without effect."""
    return set()


@cache
def settings_of(overrides: tuple[str, ...]) -> Settings:
    """The settings of a run with these overrides."""
    return load_settings(overrides)


def complete(recorded: dict) -> dict:
    """Recorded settings as this version reads them."""
    return read_settings(recorded).plain()


def planned(
    study: Study,
    runs: Path,
    *,
    seeds: int = 3,
    overrides: tuple[str, ...] = (),
    complete: Callable[[dict], dict] = complete,
    unused: Callable[[list[str]], set[str]] = nothing,
    pictures: str | None = None,
) -> list[Job]:
    """The study's runs, with data that need not be there."""
    configurations = Configurations(
        settings_of=lambda overrides: settings_of(tuple(overrides)),
        complete=complete,
        unused=unused,
        data_key=lambda settings: "data",
        read=lambda settings: {} if pictures is None else {"pictures": pictures},
    )
    return plan(study, seeds=seeds, overrides=overrides, runs=runs, configurations=configurations)


def finish(
    job: Job,
    *,
    rows: int = 60,
    seconds: float = 10.0,
    inputs: dict[str, str] | None = None,
    **recorded: object,
) -> None:
    """Write what the job's run would leave; `recorded` stands in its results.json, too."""
    assert isinstance(job.settings.model, Fusion)
    write_fake_run(
        job.folder,
        seed=job.seed,
        noise=job.settings.model.head.dropout,
        rows=rows,
        settings=job.settings.plain(),
        seconds=seconds,
        inputs=inputs,
        **recorded,
    )
