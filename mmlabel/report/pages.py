"""From a page's parts to its file: templates, style, script and the policy that guards them."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmlabel.cache import atomic_write
from mmlabel.report.tables import grouped, metric_name, sentence_case
from mmlabel.run_folder import RunRecord

ROLES = {"train": "train on", "val": "select on", "test": "test on"}


class Section(NamedTuple):
    """A part of a page, which its list of contents leads to; without a body it is left out."""

    id: str
    heading: str
    body: Markup


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmlabel.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"grouped": grouped, "metric": metric_name, "heading": sentence_case}
    return environment


def render(template: str, **values: object) -> Markup:
    """A template of the package, filled in; values that are no `Markup` are escaped."""
    return Markup(_environment().get_template(template).render(values))


def write_page(path: Path, *, title: str, header: Markup, sections: Sequence[Section]) -> Path:
    """Write a page that is complete in itself and return its path."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = render(
        "page.html",
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=title,
        style=_asset("page.css"),
        script=script,
        header=header,
        sections=[section for section in sections if section.body],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return path


@cache
def _asset(name: str) -> Markup:
    folder = resources.files("mmlabel.report") / "assets"
    return Markup((folder / name).read_text(encoding="utf-8").strip())


def row_counts(run: RunRecord) -> list[str]:
    """How many rows the run was trained, selected and tested on, in words."""
    rows = run.results.get("rows", {})
    return [f"{n:,} rows to {verb}" for split, verb in ROLES.items() if (n := rows.get(split))]


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def notes_of(runs: Sequence[RunRecord]) -> list[str]:
    """What the runs had to go without, each once."""
    return list(dict.fromkeys(note for run in runs for note in run.results.get("notes", [])))
