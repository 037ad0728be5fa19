"""The options of Lightning's Trainer that are not declared in `settings.py`."""

import ast
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

from mmlabel.errors import UserError
from mmlabel.options import nearest_option

# What train.py sets itself.
OWN = {
    "callbacks": "callbacks=NAME",
    "logger": "logger=NAME",
    "default_root_dir": "hydra.run.dir=DIR",
    "enable_progress_bar": None,
    "enable_checkpointing": None,
    "enable_model_summary": "callbacks.model_summary=true",
    "num_sanity_val_steps": None,
    "use_distributed_sampler": None,
    "plugins": None,
    "limit_predict_batches": None,
    "barebones": None,
    "inference_mode": None,
}


def check_trainer_options(given: Mapping[str, object], declared: Collection[str]) -> None:
    """Raise UserError for an option that Lightning's Trainer does not have or train.py sets."""
    for name in given:
        if said := problem(name, declared):
            raise UserError(said)


def problem(name: str, declared: Collection[str]) -> str | None:
    """What is wrong with trainer.NAME, where Lightning's Trainer has no such option to be set."""
    if name in OWN:
        hint = f": use {OWN[name]}" if OWN[name] else ", it is set by train.py: leave it out"
        return f"trainer.{name} cannot be set{hint}"
    known = _signature()
    if name in known:
        return None
    options = [f"trainer.{option}" for option in sorted({*known, *declared} - OWN.keys())]
    name = f"trainer.{name}"
    return f'there is no option "{name}"{nearest_option(name, options)}'


def _signature() -> set[str]:
    """The arguments of Lightning's Trainer, read from its source: importing it takes seconds."""
    spec = find_spec("pytorch_lightning")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "trainer" / "trainer.py").read_text(encoding="utf-8")
    (trainer,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Trainer"
    )
    (init,) = (
        node
        for node in trainer.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return {argument.arg for argument in init.args.kwonlyargs}
