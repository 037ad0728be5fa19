"""The searches that come with the project set options that exist."""

import yaml

from mmlabel.help import CONF, choices
from mmlabel.settings import Settings, option_names


def test_the_wandb_sweep_sets_options_that_exist():
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    assert set(sweep["parameters"]) <= set(option_names())
    assert sweep["metric"] == {"name": Settings.model_fields["monitor"].default, "goal": "maximize"}


def test_the_optuna_search_sets_options_that_exist():
    assert "optuna" in choices("hparams_search")
    search = yaml.safe_load((CONF / "hparams_search" / "optuna.yaml").read_text())
    assert set(search["hydra"]["sweeper"]["params"]) <= set(option_names())
    assert search["test"] is False
