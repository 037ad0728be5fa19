"""The options of Lightning's Trainer that are not declared in `settings.py`."""

import ast
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

from mmlabel.errors import UserError, nearest

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
    known = _signature()
    for name in given:
        if name in OWN:
            hint = f": use {OWN[name]}" if OWN[name] else ", it is set by train.py: leave it out"
            raise UserError(f"trainer.{name} cannot be set{hint}")
        if name not in known:
            options = [f"trainer.{option}" for option in {*known, *declared} - OWN.keys()]
            hint = nearest(f"trainer.{name}", options)
            raise UserError(f'there is no option "trainer.{name}"{hint}')


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
