"""A study of one option, `noise`, whose runs are random answers; see fake_runs."""

from pathlib import Path

import yaml
from fake_runs import write_fake_run

from mmlabel.study.definition import Study
from mmlabel.study.plan import Configurations, Job, plan

VALID = {
    "title": "T",
    "question": "Q?",
    "baseline": "a",
    "columns": ["loss_fall"],
    "variants": {
        "a": {"label": "A", "overrides": ["noise=0.1"], "published": 0.8},
        "b": {
            "label": "B",
            "overrides": ["noise=0.2"],
            "published_columns": {"loss_fall": 40.0, "seconds": 99},
        },
        "c": {"label": "C", "overrides": ["noise=0.4"]},
    },
}
DEFAULTS = {"lr": "0.01", "report": "true"}


def write_study_file(folder: Path, content: object, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(
        content if isinstance(content, str) else yaml.safe_dump(content)
    )
    return folder


def nothing(overrides: list[str]) -> set[str]:
    """No override is without effect."""
    return set()


def planned(
    study: Study,
    runs: Path,
    *,
    seeds: int = 3,
    overrides: tuple[str, ...] = (),
    defaults: dict[str, object] = DEFAULTS,
    unused=nothing,
) -> list[Job]:
    """The study's runs in a program that has these options besides `noise`."""

    def settings_of(overrides: list[str]) -> dict:
        values = dict(item.split("=") for item in overrides)
        return defaults | values | {"data": {"name": "fake"}, "noise": float(values["noise"])}

    def differing(settings: dict) -> dict[str, object]:
        return {k: v for k, v in settings.items() if k != "data" and defaults.get(k) != v}

    configurations = Configurations(
        settings_of=settings_of,
        differing=differing,
        complete=lambda recorded: defaults | recorded,
        unused=unused,
        data_key=lambda settings: "data",
    )
    return plan(study, seeds=seeds, overrides=overrides, runs=runs, configurations=configurations)


def finish(job: Job, *, rows: int = 60, seconds: float = 10.0) -> None:
    """Write what the job's run would leave."""
    write_fake_run(
        job.folder,
        seed=job.seed,
        noise=job.settings["noise"],
        rows=rows,
        settings=job.settings,
        seconds=seconds,
    )
