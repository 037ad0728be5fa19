"""The trials of a search: drawn by Optuna, kept in a database, given up where they fall behind."""

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from mmlabel.cli import load_settings
from mmlabel.errors import UserError
from mmlabel.repeating import has_changed
from mmlabel.run_folder import empty, finished, read_results, write_failure
from mmlabel.search.space import Parameters, Range, as_override, write_experiment
from mmlabel.study.inputs import differing_inputs
from mmlabel.training import train
from mmlabel.wording import count

try:
    import optuna
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState
    from sqlalchemy.pool import NullPool
except ImportError:
    raise UserError("a search needs Optuna: pip install -e '.[search]'") from None

if TYPE_CHECKING:
    from optuna import Study, Trial

log = logging.getLogger("mmlabel")

DATABASE = "trials.db"
AT_RANDOM = 8  # trials before Optuna learns from those before
_FAILED = "failed"  # marks a trial of which that is known
_READ = "read"  # what the search's data are known by


class Prune(Callback):
    """Tells a trial the monitored score of each epoch, and ends the run if it falls behind.

    Attributes:
        pruned: whether it has.
    """

    def __init__(self, trial: "Trial", monitor: str) -> None:
        self.trial = trial
        self.monitor = monitor
        self.pruned = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # An epoch without validation (check_val_every_n_epoch) has none.
        if not pl_module.validated:
            return
        score = trainer.callback_metrics[self.monitor].item()
        if math.isfinite(score):
            self.trial.report(score, trainer.current_epoch)
            self.pruned = self.trial.should_prune()
            trainer.should_stop = trainer.should_stop or self.pruned


Direction = Literal["minimize", "maximize"]


def run_trials(
    folder: Path,
    parameters: Parameters,
    *,
    trials: int,
    overrides: Sequence[str],
    own: Sequence[str],
    monitor: str,
    direction: Direction,
    seed: int,
    read: Mapping[str, str],
) -> None:
    """Run trials until there are so many, those of earlier calls counted.

    Args:
        folder: has, or is given, the database, a folder for each trial, and experiment/found.yaml.
        parameters: what is chosen.
        trials: how many.
        overrides: of every trial, and of the best one's experiment.
        own: of every trial alone.
        monitor: the score.
        direction: "minimize" or "maximize".
        seed: of what is drawn.
        read: digests of the data.

    Raises UserError where the folder holds another search, or one on other data, and where the
    first trial fails.
    """
    study = _open(folder, parameters, overrides=overrides, direction=direction, seed=seed)
    for name, digest in (study.user_attrs.get(_READ) or {}).items():
        if digest != read.get(name):
            raise _not_comparable(folder, f"{has_changed(name)} since: restore it")
    study.set_user_attr(_READ, dict(read))
    while (done := _done(study)) < trials:
        trial = study.ask()
        chosen = {name: _draw(trial, name, allowed) for name, allowed in parameters.items()}
        given = [as_override(name, value) for name, value in chosen.items()]
        run = _folder(folder, trial.number)
        try:
            score, pruned = _run(trial, run, [*overrides, *given, *own], monitor)
        except Exception as error:
            trial.set_user_attr(_FAILED, str(error))
            study.tell(trial, state=TrialState.FAIL)
            write_failure(run, error)
            if not _scored(study):
                raise  # the next one would fail as well
            log.error("trial %d of %d failed: %s", done + 1, trials, error)
            continue
        if name := _read_otherwise(study, folder):
            study.tell(trial, state=TrialState.FAIL)
            why = f"trial {trial.number} has not read the same {name}: restore what was read"
            raise _not_comparable(folder, why)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, score)
        ended = "given up" if pruned else f"{monitor} {score:.4f}"
        log.info("trial %d of %d: %s with %s", done + 1, trials, ended, " ".join(given))
        best = study.best_trial
        found = f"the best of {count(done + 1, 'trial')}: {monitor} {best.value:.4f}"
        command = _command(folder)
        write_experiment(folder, overrides, best.params, f"{found}\n  {command}")
    best = study.best_trial
    shown = " ".join(as_override(name, value) for name, value in best.params.items())
    print(f"the best of {count(_done(study), 'trial')}: {monitor} {best.value:.4f} with {shown}")
    print(f"{_command(folder)}   trains and tests it")


def _not_comparable(folder: Path, why: str) -> UserError:
    return UserError(
        f"--out {folder} holds a search whose trials cannot be compared with further ones, as"
        f" {why}, or give another folder"
    )


def _command(folder: Path) -> str:
    """The command that trains and tests the best trial."""
    return f"python train.py --config-dir {shlex.quote(str(folder))} experiment=found"


def _run(trial: "Trial", folder: Path, overrides: list[str], monitor: str) -> tuple[float, bool]:
    """Train; returns the score, and whether the run was given up."""
    prune = Prune(trial, monitor)
    empty(folder)  # what an interrupted run has left
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(overrides)
    results = train(settings, folder, overrides=overrides, group="search", callbacks=[prune])
    score = results["scores"].get(monitor)
    if score is None or not math.isfinite(score):
        raise UserError(f"{monitor} is {score}")
    return score, prune.pruned


def _read_otherwise(study: "Study", folder: Path) -> str | None:
    """What trials have read differently, word vectors for instance; None: nothing."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False)
    runs = [
        run
        for trial in trials
        if trial.state in (*ended, TrialState.RUNNING)
        and finished(run := _folder(folder, trial.number))
    ]
    return next(iter(differing_inputs({run: read_results(run) for run in runs})), None)


def _folder(search: Path, trial: int) -> Path:
    return search / "trials" / f"{trial:03d}"


def database(folder: Path) -> RDBStorage:
    """The trials of a folder; the file is open only while something is read or written.

    One that is left open to the garbage collector is a warning of Python 3.13.
    """
    url = f"sqlite:///{folder / DATABASE}"
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def _open(
    folder: Path,
    parameters: Parameters,
    *,
    overrides: Sequence[str],
    direction: Direction,
    seed: int,
) -> "Study":
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        storage=database(folder),
        study_name="search",
        direction=direction,
        load_if_exists=True,
    )
    search = {
        "options": list(overrides),
        "parameters": {
            name: allowed.model_dump() if isinstance(allowed, Range) else allowed
            for name, allowed in parameters.items()
        },
    }
    for name, value in search.items():
        if study.user_attrs.get(name, value) != value:
            raise UserError(
                f"--out {folder} holds a search with other {name} ({study.user_attrs[name]}):"
                " give the same, or another folder"
            )
        study.set_user_attr(name, value)
    # A run that was killed is tried again; it does not count.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    # Were the seed the same in every call, what is drawn at random would be.
    seed += len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=AT_RANDOM)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=AT_RANDOM, n_warmup_steps=2)
    return study


def _done(study: "Study") -> int:
    """How many trials have ended by themselves; while none has a score, failed ones do not count.

    So that there is a best one when there are as many as asked for.
    """
    if not _scored(study):
        return 0
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state in ended or _FAILED in trial.user_attrs for trial in trials)


def _scored(study: "Study") -> bool:
    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _draw(trial: "Trial", name: str, allowed: "list[Any] | Range") -> Any:
    if not isinstance(allowed, Range):
        return trial.suggest_categorical(name, allowed)
    if isinstance(allowed.low, int) and isinstance(allowed.high, int):
        return trial.suggest_int(name, allowed.low, allowed.high, log=allowed.log)
    return trial.suggest_float(name, allowed.low, allowed.high, log=allowed.log)
