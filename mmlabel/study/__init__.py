"""Studies: variants of the configuration, each run with several seeds, and what they show.

A study is a file of conf/study (`definition`). Its runs have folders named after the settings that
decide their result (`plan`), so that a run which has finished is found again, by this study or any
other. What the runs show (`summary`) comes with intervals and tests (`evidence`), as tables and a
page (`output`) and in wandb (`wandb_run`).
"""
