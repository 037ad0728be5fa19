"""A run's folder: the names of its files, who writes them, and the only place that reads them.

config.yaml      the resolved settings
metrics.csv      the history, see `mmlabel.lightning.history`
predictions.csv  the test split: ImageID, target_N and prob_N of each label number N
results.json     the record, see `mmlabel.record.describe`; written after the files above
report.html      the page
failed.json      why there are no results
train.log        what the run said; Hydra's, as .hydra/ is
best.ckpt, last.ckpt
"""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from mmlabel.cache import atomic_write, file_digest, is_temporary
from mmlabel.errors import UserError
from mmlabel.marginals import marginals
from mmlabel.spreadsheet import from_cell, to_cell
from mmlabel.wording import other_labels, quoted

# torch is imported where it is needed: a sweep that has nothing to run does without it.
if TYPE_CHECKING:
    from torch import Tensor

    from mmlabel.data.annotations import Annotations
    from mmlabel.data.prepare import PreparedData
    from mmlabel.lightning.classifier import Classifier

CONFIG, HISTORY, PREDICTIONS = "config.yaml", "metrics.csv", "predictions.csv"
BEST, LAST = "best.ckpt", "last.ckpt"
RESULTS, PAGE, SUMS = "results.json", "report.html", "SHA256SUMS"
FAILED, LOCK = "failed.json", ".lock"


# ---------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Predictions:
    """The test split of one run, in file order.

    Attributes:
        ids: N image ids, of the rows of which any target is known.
        labels: K label numbers, one per column.
        targets: (N, K) bool; false where it is not known.
        probs: (N, K) float, 0..1: what thresholds are compared with, prob_N in the file.
        known: (N, K) bool: which of the targets are.
    """

    ids: list[str]
    labels: list[int]
    targets: np.ndarray
    probs: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class RunResults:
    """The results of a finished run, which need not have been tested.

    Attributes:
        folder: where they were read from.
        results: results.json, see `mmlabel.record.describe`.
    """

    folder: Path
    results: dict

    @property
    def label_names(self) -> dict[int, str]:
        """Name of each label number that occurs among the test rows; {} in some older records."""
        return {int(n): label["name"] for n, label in self.results.get("labels", {}).items()}

    @property
    def command(self) -> str:
        """The command line that makes the same run, as a shell takes it."""
        given = [*self.results.get("sources", []), *(self.results.get("overrides") or [])]
        return shlex.join(["python", "train.py", *given])


@dataclass(frozen=True)
class RunRecord(RunResults):
    """What a finished run left in its folder; see `read_run`.

    Attributes:
        history: metrics.csv, one dict per epoch, without the cells that were empty; [] without it.
        predictions: predictions.csv.
    """

    history: list[dict[str, float]]
    predictions: Predictions

    @property
    def thresholds(self) -> np.ndarray:
        """(K,) float: the number of `predictions.probs` from which on each label is answered."""
        threshold = np.asarray(self.results["threshold"], dtype=float)
        if threshold.ndim:  # one for each label number
            return threshold[self.predictions.labels]
        return np.full(len(self.predictions.labels), threshold)

    @property
    def answers(self) -> np.ndarray:
        """(N, K) bool: the labels whose number in `predictions.probs` reaches the run's threshold.

        None where the target is not known, so that such a label is neither right nor wrong.
        """
        return reached(self.predictions.probs, self.thresholds) & self.predictions.known

    @property
    def is_of_decoder(self) -> bool:
        """Whether a label decoder answered, whose `predictions.probs` are no probabilities."""
        return self._model == "decoder"

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) float, 0..1: what the model takes for the probabilities of labels."""
        return marginals(self.predictions.probs, model=self._model)

    @property
    def _model(self) -> str | None:
        return self.results.get("settings", {}).get("model", {}).get("name")

    def other_rows(self, other: "RunRecord") -> str | None:
        """How another run's test rows differ from these, in words; None if they are the same."""
        ours, theirs = self.predictions, other.predictions
        if ours.labels != theirs.labels:
            numbers = [[str(number) for number in one.labels] for one in (theirs, ours)]
            return f"of the labels, it {other_labels(*numbers)}"
        names = self.label_names
        for number, name in other.label_names.items():
            if names.get(number, name) != name:
                return f"its label {number} is {quoted(name)}, not {quoted(names[number])}"
        if ours.ids != theirs.ids:
            known = set(theirs.ids)
            missing = [id for id in ours.ids if id not in known]
            if not missing and len(ours.ids) == len(theirs.ids):
                return "they stand in another order"
            which = [f"{missing[0]} is not among them"] if missing else []
            if len(ours.ids) != len(theirs.ids):
                which.insert(0, f"it has {len(theirs.ids):,}, not {len(ours.ids):,}")
            return ", and ".join(which)
        changed = (ours.targets != theirs.targets) | (ours.known != theirs.known)
        if changed.any():
            return f"the labels of {ours.ids[int(changed.any(axis=1).argmax())]} have changed"
        return None


def reached(probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Where probabilities reach thresholds, as a run itself has compared them: in single precision.

    There 0.35 is less than the decimal, and a probability may be just that.
    """
    return probs.astype(np.float32) >= thresholds.astype(np.float32)


def read_run(folder: Path) -> RunRecord:
    """Read results.json, predictions.csv and, if the run has trained, metrics.csv.

    Raises:
        UserError: a file is missing, has changed since the run, or cannot be understood.
    """
    folder = Path(folder)
    if name := damage(folder):
        raise UserError(f"{folder / name} is not as the run wrote it; run it again")
    try:
        return RunRecord(
            folder=folder,
            results=_read_results(folder / RESULTS, "scores", "threshold"),
            history=_by_epoch(_read_history(folder / HISTORY)),
            predictions=_read_predictions(folder / PREDICTIONS),
        )
    except FileNotFoundError as error:
        if (folder / SUMS).exists() and not (folder / PREDICTIONS).exists():
            raise UserError(
                f"{folder} was not tested (test=false): python train.py train=false"
                f" ckpt_path={folder / BEST} tests it, in a folder of its own, and python -m"
                " mmlabel.compare --validation compares such runs to choose one"
            ) from None
        raise UserError(f"{error.filename} is missing: has the run in {folder} finished?") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder} holds no readable run ({error}); run it again") from error


def read_results(folder: Path) -> dict:
    """results.json alone, for what needs no predictions.

    Raises:
        UserError: it is missing or cannot be understood.
    """
    path = folder / RESULTS
    try:
        return _read_results(path, "scores", "settings", "seconds")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: has the run finished?") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run it again") from error


def _read_results(path: Path, *needed: str) -> dict:
    results = json.loads(path.read_text(encoding="utf-8"))
    if missing := [key for key in needed if key not in results]:
        raise ValueError(f"{path.name} lacks {missing[0]}")
    return results


def read_history(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.csv as they were logged, without empty cells; [] if there is none.

    Raises:
        UserError: it cannot be understood.
    """
    path = folder / HISTORY
    try:
        return _read_history(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it to go on without") from error


def _read_history(path: Path) -> list[dict[str, float]]:
    # A run that only evaluated a checkpoint has no epochs.
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        lines = [
            {name: float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file, strict=True)
        ]
    if not all({"epoch", "step"} <= line.keys() for line in lines):
        raise ValueError(f"{path.name}: a line without epoch or step")
    return lines


def _by_epoch(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Loggers write training and validation figures of an epoch on lines of their own."""
    epochs: dict[float, dict[str, float]] = {}
    for line in lines:
        epochs.setdefault(line["epoch"], {}).update(line)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _read_predictions(path: Path) -> Predictions:
    ids, lines = [], []
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        for row in rows:
            # A row at a time: as text, 20,000 columns take thirty times the memory.
            ids.append(from_cell(row[0]))
            lines.append(np.array([text or "nan" for text in row[1:]], dtype=np.float64))
    labels = [int(name.removeprefix("target_")) for name in header if name.startswith("target_")]
    width = len(labels)
    if header != ["ImageID", *(f"{kind}_{n}" for kind in ("target", "prob") for n in labels)]:
        raise ValueError(f"{path.name}: columns are not ImageID, target_N..., prob_N...")
    values = np.array(lines).reshape(len(lines), 2 * width)  # nan: an empty cell, not known
    targets, probs = values[:, :width], values[:, width:]
    if np.isnan(probs).any():
        raise ValueError(f"{path.name}: a probability is missing")
    known = ~np.isnan(targets)
    kept = known.any(axis=1)
    return Predictions(
        ids=[id for id, some in zip(ids, known, strict=True) if some.any()],
        labels=labels,
        targets=targets[kept] > 0.5,
        probs=probs[kept],
        known=known[kept],
    )


def finished(folder: Path) -> bool:
    """Whether a run has left all of its files there and they are as it wrote them."""
    return (folder / SUMS).is_file() and damage(folder) is None


def damage(folder: Path) -> str | None:
    """The first file of a finished run that is not as it was written; None if the run is whole.

    Of a run that has not finished nothing is known: None.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return SUMS
    found = [re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+)", line) for line in lines]
    digests = {match[2]: match[1] for match in found if match}
    if len(digests) != len(lines) or RESULTS not in digests:
        return SUMS
    for name, digest in digests.items():
        try:
            if file_digest(folder / name) != digest:
                return name
        except OSError:
            return name
    return None


def is_of_a_run(path: Path) -> bool:
    """Whether a file is one that the run in its folder has written, or would write.

    What is written over such a file destroys a finished run, and goes when another is taken up.
    """
    own = (CONFIG, HISTORY, PREDICTIONS, RESULTS, PAGE, SUMS, FAILED, BEST, LAST)
    return path.name in own and any((path.parent / name).exists() for name in (SUMS, LOCK))


def failed(folder: Path) -> bool:
    """Whether a run has said there why it has no results."""
    return (folder / FAILED).is_file()


def failure(folder: Path) -> str:
    """Why the run in `folder` has no results."""
    try:
        return json.loads((folder / FAILED).read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, LookupError, TypeError):
        return "it ended without a result: see the log in its folder, if there is one"


# ---------------------------------------------------------------------------------------- writing


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes of this project out of a folder, which is made if there is none.

    The lock dies with its process, however that ends.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is writing to {folder}: wait for it, or choose another folder"
        ) from None
    except NotImplementedError:
        pass  # a file system without locks: nobody can be kept out
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder for a new run.

    What an unfinished run has left there would pass for this one's and is removed, but for
    checkpoints and the history, to resume from: see `remove_former`.

    Raises:
        UserError: as `hold`, or the folder holds a finished run.
    """
    ours = (folder / LOCK).exists()
    with hold(folder):
        if (folder / SUMS).exists():
            raise UserError(f"{folder} holds a finished run: choose another folder")
        for name in (CONFIG, PREDICTIONS, RESULTS, PAGE, FAILED) if ours else ():
            (folder / name).unlink(missing_ok=True)
        for path in folder.iterdir() if ours else ():
            if is_temporary(path):  # a run was killed while it wrote
                path.unlink(missing_ok=True)
        yield


def remove_former(folder: Path, *, trained: bool, keep: Path | None) -> None:
    """Remove another run's checkpoints and history, before a run that does not go on with them.

    Args:
        folder: of the run.
        trained: whether the run trains, and so begins with a last.ckpt of its own.
        keep: the checkpoint that the run reads, which may be one of these files.
    """
    for name in (BEST, HISTORY) if trained else (BEST, HISTORY, LAST):
        path = folder / name
        if keep is None or path.resolve() != keep.resolve():
            path.unlink(missing_ok=True)


def empty(folder: Path) -> None:
    """Remove all that a run has left in its folder, if it is there; raises as `hold`."""
    if not folder.exists():
        return
    with hold(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def write_run(
    folder: Path,
    results: dict,
    *,
    prepared: "PreparedData",
    classifier: "Classifier",
    page: "Callable[[Path, Annotations], object] | None",
) -> None:
    """Write a run's files, the checksums last.

    Args:
        folder: of the run.
        results: see `mmlabel.record.describe`.
        prepared: what it read.
        classifier: as evaluated last; of a test split that was not looked at there are no
            predictions.
        page: writes report.html, given the folder and the test rows; None: there is none.
    """
    from omegaconf import OmegaConf

    with atomic_write(folder / CONFIG) as temporary:
        content = OmegaConf.to_yaml(OmegaConf.create(results["settings"]))
        temporary.write_text(content, encoding="utf-8")
    tested, rows = classifier.evaluated.get("test"), None
    if tested:
        rows = prepared.annotations.take(prepared.rows["test"][tested.rows.numpy()])
        write_predictions(
            folder / PREDICTIONS,
            ids=rows.ids,
            probabilities=tested.probabilities,
            targets=tested.targets,
            known=tested.known,
            label_names=classifier.label_names,
        )
    write_json(folder / RESULTS, results)
    if rows is not None and page is not None:
        page(folder, rows)
    seal(folder)


def seal(folder: Path) -> None:
    """Write the checksums of a run's files, which makes it a finished one."""
    files = [folder / name for name in (CONFIG, HISTORY, PREDICTIONS, RESULTS, PAGE)]
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files if path.is_file()]
    with atomic_write(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def write_failure(folder: Path, error: BaseException) -> None:
    """Say in `folder`, which must be this process's, why the run has no results.

    Where that cannot be written (a full disk, which may be the reason), the error itself has to do.
    """
    with suppress(OSError):
        write_json(folder / FAILED, {"status": "failed", "error": str(error)})


def write_predictions(
    path: Path,
    *,
    ids: Sequence[str],
    probabilities: "Tensor",
    targets: "Tensor",
    label_names: Sequence[str],
    known: "Tensor | None" = None,
) -> None:
    """A row per image: ImageID, target_N for each label number N with a name, then prob_N.

    Ids that a spreadsheet would take for formulas are written as `spreadsheet.to_cell` says.

    Args:
        probabilities: (n, num_labels); written with enough digits to be read back unchanged.
        targets: (n, num_labels).
        known: (n, num_labels) bool; targets that are not are left empty. None: all are.
    """
    numbers = [number for number, name in enumerate(label_names) if name]
    header = ["ImageID", *(f"{kind}_{n}" for kind in ("target", "prob") for n in numbers)]
    truth = targets[:, numbers].long().numpy()
    told = None if known is None else known[:, numbers].numpy()
    probs = probabilities[:, numbers].numpy()

    def cells(row: int) -> Iterator[str | int]:
        """A row at a time: as text, 20,000 columns take thirty times the memory."""
        yield to_cell(ids[row])
        if told is None:
            yield from truth[row].tolist()
        else:
            pairs = zip(truth[row].tolist(), told[row].tolist(), strict=True)
            yield from (t if k else "" for t, k in pairs)
        yield from (f"{p:.9g}" for p in probs[row].tolist())

    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(cells(row) for row in range(len(ids)))


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
