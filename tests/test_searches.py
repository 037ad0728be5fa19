"""The sweep of wandb's that comes with the project sets options that exist."""

import yaml

from mmlabel.help import CONF
from mmlabel.settings import Settings, option_names


def test_the_wandb_sweep_sets_options_that_exist():
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    assert set(sweep["parameters"]) <= set(option_names())
    assert sweep["metric"] == {"name": Settings.model_fields["monitor"].default, "goal": "maximize"}
