"""`python -m mmlabel.export CHECKPOINT --format FORMAT --out DIR`: a model for another runtime."""

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mmlabel.cache import temporary_beside
from mmlabel.commands import Parser, check_place, path_of, run_command
from mmlabel.errors import UserError, not_utf_8
from mmlabel.large_imports import import_large
from mmlabel.progress import say
from mmlabel.terminal import printable

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations
    from mmlabel.predictor import Predictor

HELP = """\
Write a folder that labels pictures without mmlabel: the network, the numbers of words, label names
and thresholds, a model card (MODEL.md) and a runner of one file (run.py) that needs numpy, Pillow
and the runtime alone.

  python -m mmlabel.export outputs/…/best.ckpt --format onnx --out model
  python model/run.py picture.jpg --caption "a dog on a bench"

Each export is compared with the checkpoint on made-up rows, and with --check on real test rows of
its data; `python run.py --check` repeats the first where the model is used. Packages that write a
format: pip install -e '.[export]'."""

FORMATS = ("onnx", "openvino", "torch")
GRAPHS = {"model.onnx", "model.onnx.data", "model.xml", "model.bin", "model.pt2"}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
# By which probabilities may differ from the checkpoint's.
CLOSE = {"float32": 1e-4, "float16": 2e-2, "int8": 0.2}
ROWS = 200  # on which an export is compared, unless the command says how many
MUCH = 1.0  # points of micro-F1 that an export should not lose


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: export(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.export", description=HELP)
    add = parser.add_argument
    add("checkpoint", type=path_of, help="best.ckpt of a run")
    add("--format", choices=FORMATS, required=True)
    add(
        "--out",
        type=path_of,
        required=True,
        metavar="DIR",
        help="a new folder, or an earlier export",
    )
    add(
        "--precision",
        choices=list(CLOSE),
        default="float32",
        help="of the weights on disk (onnx, openvino); float16 halves the folder, int8 leaves some"
        " third of it and always checks; both are computed in single (default: %(default)s)",
    )
    add(
        "--check",
        nargs="?",
        type=int,
        const=ROWS,
        metavar="ROWS",
        help=f"compare on so many test rows of the checkpoint's data ({ROWS} without a number)",
    )
    return parser


def export(options: argparse.Namespace) -> None:
    """Write the folder; raises UserError for what cannot be exported, or does not prove right."""
    out: Path = options.out
    if options.format == "torch" and options.precision != "float32":
        raise UserError(f"--precision {options.precision} is for --format onnx and openvino")
    if options.check is not None and options.check < 1:
        raise UserError(f"--check {options.check}: give how many rows, 1 or more")
    replaces = _is_export(out)
    if out.exists() and not (replaces or _is_empty(out)):
        raise UserError(f"--out {out} holds other files: give a new folder")
    if problem := not_utf_8(out):  # which torch and onnxruntime do not take
        raise UserError(f"--out {out} {problem}, or cd to it and give a relative path")
    check_place(out, f"--out {out}")
    # Torch is not needed to say what is wrong with the options.
    import_large("mmlabel.lean_torchmetrics", "mmlabel.predictor")
    from mmlabel.export.card import USE
    from mmlabel.predictor import Predictor

    # A graph computes in single precision, whatever the features were that it was trained on.
    predictor = Predictor(options.checkpoint, device="cpu", precision="float32")
    _check_kind(predictor)
    if predictor.uncalibrated:
        raise UserError(f"{predictor.uncalibrated}; let the run finish (ckpt_path=last.ckpt)")
    rows = _real_rows(predictor, options)
    if replaces:
        say(printable(f"{out} holds an earlier export, which is replaced once this one is whole"))
    try:
        # What fails or is interrupted leaves nothing, and an earlier export as it was.
        temporary = temporary_beside(out)
        try:
            temporary.mkdir()
            said = _write(predictor, options, temporary, rows)
            megabytes = _move(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    for line in said:
        print(printable(line))
    command, _ = USE[predictor.settings.inputs]
    print(f"{out}: {megabytes:.1f} MB; python {shlex.quote(str(out / 'run.py'))} {command}")


def _move(made: Path, out: Path) -> float:
    """Put the files of a whole export in the place of an earlier one's; returns their megabytes.

    Of two calls that come to this at once, the second one's are there in the end, and no other.
    """
    out.mkdir(exist_ok=True)
    with _turn(out):
        (out / "model.json").unlink(missing_ok=True)  # without it there is no model
        files = [path for path in made.iterdir() if path.is_file()]
        for name in GRAPHS - {path.name for path in files}:
            (out / name).unlink(missing_ok=True)  # of an earlier export in another format
        for path in sorted(files, key=lambda path: path.name == "model.json"):
            os.replace(path, out / path.name)
        return sum(path.stat().st_size for path in out.iterdir()) / 1e6


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here; the lock is the folder's own, and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):  # a system, or a file system, without such locks
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _real_rows(predictor: "Predictor", options: argparse.Namespace) -> "Annotations | None":
    """The test rows on which the export is to be compared, if it is."""
    from mmlabel.export.proof import rows_of

    int8 = options.precision == "int8"
    if options.check is None and not int8:
        return None
    try:
        return rows_of(predictor, "test", rows=options.check or ROWS)
    except UserError as error:
        option, instead = ("--check", "leave it out")
        if int8:
            option, instead = ("--precision int8", "take float16 without --check")
        raise UserError(
            f"{option} compares on test rows of the checkpoint's data, which are not to be had:"
            f" {error}. Put the data back, or {instead}"
        ) from error


def _write(
    predictor: "Predictor",
    options: argparse.Namespace,
    folder: Path,
    rows: "Annotations | None",
) -> list[str]:
    """All files of an export that proves right; returns what is to be said of it."""
    from mmlabel.export.proof import load_runner, prove, write_made_up_rows

    notes = [*predictor.weights_notes, *_write_model(predictor, options, folder)]
    precision = predictor.settings.frozen_precision
    if precision != "float32":
        notes.append(
            f"trained on features computed in {precision}; here they are in single precision, so"
            " that answers differ a little from mmlabel's"
        )
    write_made_up_rows(folder / "check.json", predictor)
    try:
        difference = load_runner(folder).check(folder)
    except Exception as error:  # runtimes raise kinds of their own, the reason in the last line
        reason = [type(error).__name__, *str(error).split("\n")]
        raise UserError(
            f"{RUNTIMES[options.format]} does not run the {options.format} model"
            f" ({[line for line in reason if line.strip()][-1].strip()}). Nothing is written; try"
            " another --format or --precision"
        ) from error
    _must_be_close(difference, options, "made-up rows")
    made = [_how(options), f"made-up rows: probabilities differ by {difference:.1g} at most"]
    if rows is not None:
        proof = prove(folder, predictor, rows)
        if options.precision != "int8":
            _must_be_close(proof.difference, options, "real rows")
        made.append(str(proof))
        if proof.lost > MUCH:
            made.append(
                f"careful: {options.precision} loses {proof.lost:.1f} points of micro-F1 on these"
                " rows"
            )
    (folder / "MODEL.md").write_text(
        _card(predictor, options, made, notes), encoding="utf-8", errors="surrogateescape"
    )
    return [*made[1:], *notes]


def _must_be_close(difference: float, options: argparse.Namespace, rows: str) -> None:
    if not difference <= CLOSE[options.precision]:
        raise UserError(
            f"the {options.format} model answers otherwise than the checkpoint: probabilities of"
            f" {rows} differ by {difference:.2g}. Nothing is written; try another --format"
        )


def _is_export(folder: Path) -> bool:
    """Whether an earlier call has left its files there; other programs have a model.json, too."""
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return about["format"] in FORMATS and (folder / "run.py").is_file()
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _check_kind(predictor: "Predictor") -> None:
    if predictor.settings.text_transformer is not None:
        raise UserError(
            "a model whose captions a text transformer reads cannot be exported, as the runner has"
            " no tokenizer for it; python -m mmlabel.predict and mmlabel.load take its checkpoint,"
            " and caption=bilstm embedding=glove can be exported"
        )
    model = predictor.settings.model.name
    if model not in ("fusion", "ensemble", "image_only", "caption_only"):
        reason = "answers one label after the other" if model == "decoder" else "needs its detector"
        raise UserError(
            f"model={model} {reason} and cannot be exported; fusion, ensemble, image_only and"
            " caption_only can"
        )


def _write_model(predictor: "Predictor", options: argparse.Namespace, folder: Path) -> list[str]:
    """Network, words, runner and model.json; returns what the model goes without."""
    from mmlabel.data.captions import MOST_WORDS
    from mmlabel.export.graph import FILES, Format, Inputs, write_graph
    from mmlabel.export.words import spellings

    assert options.format in get_args(Format)
    settings = predictor.settings
    size, crop = _seen(predictor)
    network = Inputs(
        predictor.network, numbers=predictor.label_numbers, halves=settings.inputs
    ).eval()
    write_graph(
        network,
        folder,
        form=options.format,
        size=size,
        precision=options.precision,
    )
    numbers, problem = spellings(predictor.vocabulary)
    (folder / "words.json").write_text(
        json.dumps(numbers, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    shutil.copyfile(str(resources.files("mmlabel.export") / "runner.py"), folder / "run.py")
    about = {
        "format": options.format,
        "file": FILES[options.format],
        "inputs": settings.inputs,
        "size": size,
        "crop": crop,
        "upright": settings.data.upright,
        # Words that an unknown one may be spelt like, in the order of their numbers from 2.
        "similar": predictor.vocabulary.similar and list(predictor.vocabulary.similar.words),
        "max_length": min(
            MOST_WORDS, settings.captions and settings.captions.max_length or MOST_WORDS
        ),
        "labels": predictor.label_names,
        "thresholds": [float(f"{value:.9g}") for value in predictor.thresholds],
        "close": CLOSE[options.precision],
    }
    (folder / "model.json").write_text(
        json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    if problem is None:
        return []
    return [f"spellings that the data lack are not brought to a known word ({problem})"]


def _seen(predictor: "Predictor") -> tuple[tuple[int, int], str]:
    """Height and width of what the network sees of a picture, and how it is cut."""
    view = predictor.look.size
    assert view is not None  # a detector's, which is not exported
    # One number is the side of a square cut from the middle, two are a whole picture's.
    return ((view, view), "center") if isinstance(view, int) else (view, "none")


def _how(options: argparse.Namespace) -> str:
    runtime = RUNTIMES[options.format]
    return (
        f"{options.format}, weights in {options.precision}; tried with {runtime} {version(runtime)}"
    )


def _card(
    predictor: "Predictor", options: argparse.Namespace, made: list[str], notes: list[str]
) -> str:
    from mmlabel.export.card import card

    return card(
        predictor.settings,
        checkpoint=options.checkpoint,
        labels=predictor.label_names,
        pretrained=predictor.pretrained,
        made=made,
        notes=notes,
    )


if __name__ == "__main__":
    sys.exit(main())
