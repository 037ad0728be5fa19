"""The model card of an exported model."""

from collections.abc import Mapping
from pathlib import Path

from mmlabel import __version__
from mmlabel.errors import UserError
from mmlabel.evidence import METRICS, RESAMPLES_OF_A_RUN, bootstrap_interval
from mmlabel.models.backbone_table import BACKBONES
from mmlabel.report.tables import fixed, markdown_cell
from mmlabel.run_folder import BEST, LAST, RunRecord, finished, read_run
from mmlabel.score_table import SCORES
from mmlabel.settings import Settings
from mmlabel.wording import count, named

# How the runner is used, by what the model looks at: on a command line and in Python.
USE = {
    ("image", "caption"): ("PICTURE --caption TEXT", '"picture.jpg", "a dog on a bench"'),
    ("image",): ("PICTURE", '"picture.jpg"'),
    ("caption",): ("--caption TEXT", 'caption="a dog on a bench"'),
}


def card(
    settings: Settings,
    *,
    checkpoint: Path,
    labels: list[str],
    pretrained: Mapping[str, str],
    made: list[str],
    notes: list[str],
) -> str:
    """MODEL.md: what the model is for, what it was trained on, how well it does, its limits.

    Args:
        settings: of the run.
        checkpoint: its file; if it is the one that a finished run has tested, its scores are given
            with intervals.
        labels: that it answers.
        pretrained: where the weights of its parts come from, in words.
        made: sentences on how the export was made and proved.
        notes: what it goes without.
    """
    run = _run(checkpoint.parent)
    scored = run if run is not None and checkpoint.name == _tested(run) else None
    command, call = USE[settings.inputs]
    parts = [
        "# Model card",
        f"Which of {count(len(labels), 'label')} a picture has: {named(labels)}. It looks at"
        f" {_halves(settings)}. Made by mmlabel {__version__}.",
        "## How to use it\n\n"
        f"`python run.py {command}`, or in Python\n"
        f'`from run import Model; Model("FOLDER").predict({call})`.\n'
        "`run.py` needs numpy, Pillow and the runtime; `python run.py --check` compares with what\n"
        "the training code answered to made-up rows.",
        "## Data\n\n" + _data(settings, run),
        "## Scores\n\n" + _scores(scored),
        "## Export\n\n" + "\n".join(f"- {line}" for line in [*made, *notes]),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(settings)),
        "## Licences\n\n" + "\n".join(f"- {line}" for line in _licences(settings, pretrained)),
    ]
    return "\n\n".join(parts) + "\n"


def _run(folder: Path) -> RunRecord | None:
    try:
        return read_run(folder) if finished(folder) else None
    except UserError:
        return None


def _tested(run: RunRecord) -> str:
    """The checkpoint whose scores a run has; the other one in its folder has other weights."""
    return LAST if run.results.get("best_epoch", 0) is None else BEST


def _halves(settings: Settings) -> str:
    if settings.inputs == ("image", "caption"):
        return "pictures and their captions"
    return "pictures alone" if settings.inputs == ("image",) else "captions alone"


def _data(settings: Settings, run: RunRecord | None) -> str:
    data = settings.data
    file = getattr(data, "file", None)
    name = f"data={data.name}" + (f" ({Path(file).name})" if file else "")
    if run is None:
        return f"{name}. How many rows is in the run's folder, which was not beside the checkpoint."
    rows = ", ".join(f"{number:,} {split}" for split, number in run.results["rows"].items())
    return f"{name}: {rows} rows, labels as the data set gives them."


def _scores(run: RunRecord | None) -> str:
    if run is None or not len(run.predictions.ids):
        return "Not known: this is not the checkpoint that a finished run beside it has tested."
    lines = ["| score | test | 95 % interval |", "| --- | ---: | ---: |"]
    for metric in METRICS:
        low, high = bootstrap_interval(
            run.predictions.targets,
            run.answers[None],
            metric=metric,
            resamples=RESAMPLES_OF_A_RUN,
        )
        score = run.results["scores"][f"test/{metric}"]
        interval = " to ".join(filter(None, (fixed(low, 4), fixed(high, 4)))) or "–"
        lines.append(f"| {SCORES[metric].title} | {score:.4f} | {interval} |")
    labels = ["| label | test rows | F1 |", "| --- | ---: | ---: |"]
    for number, label in run.results["labels"].items():
        name = markdown_cell(label["name"] or number)
        labels.append(f"| {name} | {label['support']:,} | {label['f1']:.3f} |")
    said = "Intervals: BCa bootstrap over the test rows, of this one trained model; none where"
    said += " every resample has the same score."
    return "\n".join([*lines, "", said, "", *labels])


def _limits(settings: Settings) -> list[str]:
    limits = [
        "It knows pictures like those of its data; nothing is known of its answers to others.",
        "It answers each label by itself and never says that it does not know.",
    ]
    if "caption" in settings.inputs:
        similar = settings.captions is not None and settings.captions.unknown_words == "similar"
        unknown = "Words that the training captions lack are"
        if similar:
            unknown += " read as the ones there that are spelt most like them, and where none are,"
        limits.append(
            f"{unknown} all the same word to it; captions in other languages are made of nothing"
            " else."
        )
    if settings.inputs == ("image", "caption"):
        limits.append("It was trained with captions: without one its answers are less sure.")
    return limits


def _licences(settings: Settings, pretrained: Mapping[str, str]) -> list[str]:
    lines = ["mmlabel: MIT. The network's own weights carry what its training data allow."]
    backbone = settings.backbone
    if backbone is not None:
        names = [backbone.model_name or backbone.name]
        names += [backbone.beside] if backbone.beside else []
        sources = pretrained.get("backbone", "").split("; ")
        for number, name in enumerate(names):
            row = BACKBONES.get(name)
            library, known_as = ("timm", name) if row is None else (row.library, row.model_name)
            source = sources[number] if len(sources) == len(names) else "; ".join(sources)
            lines.append(f"{name} ({source}): {_licence_of(library, known_as)}")
    words = pretrained.get("embedding", "not used")
    if words != "not used":
        glove = "; GloVe's vectors are in the public domain (PDDL)" if "glove" in words else ""
        lines.append(f"word vectors: {words}{glove}")
    return lines


def _licence_of(library: str, name: str) -> str:
    terms = "trained on ImageNet, whose terms of use are for research"
    if library == "torchvision":
        return f"torchvision's, BSD-3-Clause, {terms}"
    from mmlabel.models.weights import timm_config

    licence = getattr(timm_config(name), "license", None) or "see its page"
    return f"timm's, {licence}, {terms if 'in1k' in str(timm_config(name).tag) else 'see its page'}"
