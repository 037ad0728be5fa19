"""From a page's parts to its file: templates, style, script and the policy that guards them."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmlabel.cache import atomic_write
from mmlabel.report.tables import grouped, metric_name, sentence_case
from mmlabel.run_folder import RunRecord
from mmlabel.settings import flatten
from mmlabel.wording import count

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
    environment.filters["breakable"] = breakable
    return environment


def breakable(name: str) -> Markup:
    """A name that a narrow cell breaks after its signs, where it would break it within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[=./])(?=.)", name))


def render(template: str, **values: object) -> Markup:
    """A template of the package, filled in; values that are no `Markup` are escaped."""
    return Markup(_environment().get_template(template).render(values))


def write_page(path: Path, *, title: str, header: Markup, sections: Sequence[Section]) -> Path:
    """Write a page that is complete in itself and return its path."""
    script = asset("page.js")
    page = render(
        "page.html",
        policy=policy(script),
        title=title,
        style=asset("page.css"),
        script=script,
        header=header,
        sections=[section for section in sections if section.body],
    )
    with atomic_write(path) as temporary:
        # A path may hold bytes that are no UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="surrogateescape", newline="\n")
    return path


def policy(script: str) -> str:
    """What a page allows itself: this script, and nothing that is loaded from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@cache
def asset(name: str) -> Markup:
    """A style or a script, to stand in a page."""
    folder = resources.files("mmlabel.report") / "assets"
    return Markup((folder / name).read_text(encoding="utf-8").strip())


def chart_row(
    *charts: Markup, words: str = "", key: Sequence[tuple[Markup, str]] = (), css: str = "charts"
) -> Markup:
    """Charts side by side below what is said of them all; nothing if there is none."""
    kept = [chart for chart in charts if chart]
    return render("charts.html", charts=kept, words=words, key=key, css=css) if kept else Markup("")


def about(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Data set, date, commit, machine and seeds of the runs, as far as they are known."""
    results = [run.results for run in runs]

    def distinct(name: str) -> str:
        return "; ".join(dict.fromkeys(str(one[name]) for one in results if one.get(name)))

    dates = sorted(datetime.fromisoformat(one["date"]) for one in results if one.get("date"))
    days = dict.fromkeys(f"{date:%Y-%m-%d %H:%M %Z}".strip() for date in (*dates[:1], *dates[-1:]))
    seeds = dict.fromkeys(str(one.get("settings", {}).get("seed", "")) for one in results)
    facts = {
        "Data set": data_set(runs),
        "Finished": " to ".join(days),
        "Commit": re.sub(r"\b([0-9a-f]{12})[0-9a-f]+", r"\1", distinct("commit")),
        "Machine": distinct("machine"),
        "Seed" if len(seeds) == 1 else "Seeds": ", ".join(sorted(seeds)),
    }
    return {name: value for name, value in facts.items() if value}


def data_set(runs: Sequence[RunRecord]) -> str:
    """The name of the data that the runs read, and the file in it if it is known."""
    names: dict[str, None] = {}
    for run in runs:
        data = run.results.get("settings", {}).get("data", {})
        file = data.get("file") or data.get("instances")
        names[f"{data.get('name', '')}{f' ({Path(file).name})' if file else ''}"] = None
    return "; ".join(filter(None, names))


def flat(settings: Mapping) -> dict[str, str]:
    """{"lstm": {"layers": 1}} -> {"lstm.layers": "1"}."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in flatten(settings).items()
    }


def row_counts(runs: Sequence[RunRecord]) -> list[str]:
    """How many rows the runs were trained, selected and tested on, in words."""
    facts = []
    for split, verb in ROLES.items():
        counts = [run.results.get("rows", {}).get(split) or 0 for run in runs]
        if most := max(counts, default=0):
            fewest = f"{min(counts):,} to " if min(counts) < most else ""
            facts.append(f"{fewest}{count(most, 'row')} to {verb}")
    return facts


def before_the_threshold(runs: Sequence[RunRecord]) -> str:
    """What is to be said of the scores of epochs where the threshold was not found yet, or ""."""
    asked = [run.results.get("settings", {}).get("threshold") for run in runs]
    if not any(isinstance(one, str) for one in asked):
        return ""
    return "F1 by epoch is of answers at 0.5 where the threshold was found after training."


def notes_of(runs: Sequence[RunRecord]) -> list[str]:
    """What the runs had to go without, each once."""
    return list(dict.fromkeys(note for run in runs for note in run.results.get("notes", [])))
