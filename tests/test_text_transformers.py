"""Runs whose captions a pretrained text transformer reads: trained, or frozen under the BiLSTM."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resumed_runs import history, run, run_killed_in_epoch
from tiny_text_model import write_text_model

import mmlabel
from mmlabel.cli import load_settings, refuse_unused
from mmlabel.data.caption_states import RowStore
from mmlabel.data.row_store import StoreUnavailable
from mmlabel.errors import UserError
from mmlabel.export.__main__ import main as export
from mmlabel.features import main as features
from mmlabel.models.text_model import TextTransformer
from mmlabel.no_effect import without_effect
from mmlabel.settings import read_settings
from mmlabel.training import train

BOTH = ("transformer", "contextual")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_text_model(tmp_path / "text")


def chosen(kind: str, folder: Path) -> list[str]:
    group = "caption" if kind == "transformer" else "embedding"
    return [f"{group}={kind}", f"{group}.model={folder}", f"{group}.max_length=32"]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("transformer", ["model=ensemble", "model.fusion=gated"]),
        ("transformer", ["model=decoder", "decoder.caption=true"]),
        ("contextual", ["model=fusion"]),
        ("contextual", ["model=ensemble", "callbacks.ema=0.9"]),
    ],
)
def test_a_checkpoint_needs_nothing_beside_it(
    kind: str, model: list[str], folder: Path, tmp_path: Path, settings_of: Callable
):
    given = [*model, *chosen(kind, folder), "trainer.max_epochs=1"]
    results = run(settings_of, tmp_path / "run", *given)
    assert str(folder) in results["pretrained"]["embedding"]
    assert "words" not in results["megabytes_by_part"]
    shutil.rmtree(folder)
    best = tmp_path / "run" / "best.ckpt"
    found = run(settings_of, tmp_path / "2", *given, "train=false", f"ckpt_path={best}")
    assert found["scores"] == pytest.approx(results["scores"], abs=2e-3)
    predictor = mmlabel.load(best)
    assert predictor.looks_at_captions and predictor.settings.captions is None


@pytest.mark.parametrize("kind", BOTH)
def test_a_resumed_run_is_as_if_uninterrupted(
    kind: str, folder: Path, tmp_path: Path, settings_of: Callable
):
    given = ["model=caption_only", *chosen(kind, folder), "patience=null"]
    whole = run(settings_of, tmp_path / "whole", *given)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 1, *given)
    shutil.rmtree(folder)
    resumed = run(settings_of, tmp_path / "resumed", *given, f"ckpt_path={last}")
    assert resumed["scores"] == whole["scores"] and resumed["epochs"] == 2
    assert history(tmp_path / "resumed") == history(tmp_path / "whole")
    predictor = mmlabel.load(tmp_path / "whole" / "best.ckpt")
    one = predictor.predict(caption="a red circle")
    several = predictor.predict(caption=["", "a red circle", "two blue stars and a square"])
    assert several[1].probabilities == pytest.approx(one.probabilities, abs=1e-6)
    assert several[0].probabilities != several[1].probabilities != several[2].probabilities


def test_a_contextual_run_asks_the_transformer_once(
    folder: Path, tmp_path: Path, settings_of: Callable, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    asked, forward = [], TextTransformer.forward

    def counting(self, tokens, lengths):
        asked.append(len(tokens))
        return forward(self, tokens, lengths)

    monkeypatch.setattr(TextTransformer, "forward", counting)
    given = ["model=caption_only", *chosen("contextual", folder), f"cache_dir={tmp_path / 'cache'}"]
    first = run(settings_of, tmp_path / "1", *given)
    assert asked[0] == 1  # to see that it reads captions
    computed = sum(asked[1:])
    assert 0 < computed <= 60 + 24 + 24
    asked.clear()
    again = run(settings_of, tmp_path / "2", *given)
    assert asked == [1] and again["scores"] == first["scores"]
    assert features(["list", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "bert" in capsys.readouterr().out
    # Without a disk for the states it goes on, and says so.

    def full(*_, **__):
        raise StoreUnavailable("no room")

    monkeypatch.setattr(RowStore, "open", full)
    live = run(settings_of, tmp_path / "3", *given)
    assert sum(asked) > 2 * computed and "no room; the text transformer runs" in caplog.text
    assert live["scores"] == pytest.approx(first["scores"], abs=2e-3)


def test_the_transformer_learns_at_its_own_rate_and_is_counted(
    folder: Path, tmp_path: Path, settings_of: Callable
):
    given = ["model=caption_only", *chosen("transformer", folder), "caption.unfreeze=1"]
    with pytest.raises(UserError, match=r"max_megabytes=0.02: .* has 0\.\d MB"):
        run(settings_of, tmp_path / "1", *given, "max_megabytes=0.02", "model.head.hidden=2")
    results = run(settings_of, tmp_path / "2", *given, "optimizer=sgd", "caption.lr_scale=0.25")
    state = torch.load(tmp_path / "2" / "last.ckpt", weights_only=True)
    rest, own = state["optimizer_states"][0]["param_groups"]
    assert own["lr_scale"] == 0.25 and own["max_lr"] == pytest.approx(rest["max_lr"] / 4)
    assert len(own["params"]) == 16  # a layer's
    parts = results["megabytes_by_part"]
    weights = [v for k, v in state["state_dict"].items() if ".transformer." in k]
    expected = sum(value.numel() * value.element_size() for value in weights) / 1e6
    assert parts["text transformer"] == pytest.approx(expected, rel=0.05)  # and position numbers
    assert parts["tokenizer"] > 1e-3


@pytest.mark.parametrize(
    "model", [["model=caption_only"], ["model=ensemble", "caption.unfreeze=1", "callbacks.ema=0.9"]]
)
def test_half_precision_is_scored_as_it_is_kept(
    model: list[str], folder: Path, tmp_path: Path, settings_of: Callable
):
    given = [*model, *chosen("transformer", folder), "patience=null"]
    whole = run(settings_of, tmp_path / "whole", *given)
    halved = run(settings_of, tmp_path / "half", *given, "caption.storage=float16")
    # Training knows nothing of it.
    assert history(tmp_path / "half") == history(tmp_path / "whole")
    assert halved["scores"]["val/loss"] == pytest.approx(whole["scores"]["val/loss"], rel=1e-3)
    assert halved["scores"]["val/loss"] != whole["scores"]["val/loss"]
    saved = [torch.load(tmp_path / name / "best.ckpt", weights_only=True)["state_dict"]
             for name in ("whole", "half")]  # fmt: skip
    for name, value in saved[1].items():
        text = ".transformer.model." in name and value.is_floating_point()
        assert value.dtype == (torch.float16 if text else saved[0][name].dtype), name
        assert torch.equal(value, saved[0][name].half() if text else saved[0][name]), name
    sizes = [results["megabytes_by_part"] for results in (whole, halved)]
    # But for the numbers of positions, which are whole ones.
    text = [own.pop("text transformer") for own in sizes]
    assert text[1] == pytest.approx(text[0] / 2, rel=0.05) and sizes[0] == sizes[1]
    best = f"ckpt_path={tmp_path / 'half' / 'best.ckpt'}"
    again = run(settings_of, tmp_path / "again", "train=false", best)
    assert again["scores"] == pytest.approx(halved["scores"], abs=1e-6)
    assert again["megabytes"] == halved["megabytes"]
    with pytest.raises(UserError, match="what a prediction needs has"):
        limit = f"max_megabytes={halved['megabytes'] - 0.01:.3f}"
        run(settings_of, tmp_path / "x", *given, "caption.storage=float16", limit)
    more = f"max_megabytes={halved['megabytes'] + 0.01:.3f}"
    run(settings_of, tmp_path / "y", *given, "caption.storage=float16", more)


@pytest.mark.parametrize("experiment", ["best_text", "best_connected"])
def test_experiments_run_with_random_weights(
    experiment: str, folder: Path, made: Path, cache: Path, tmp_path: Path
):
    settings = load_settings([
        f"experiment={experiment}", f"caption.model={folder}", "caption.max_length=32",
        "data=usyd", f"data.root={made}", "data.image_size=[64,96]", "data.batch_size=16",
        "backbone.weights=none", "trainer.max_epochs=1", "logger=csv", f"cache_dir={cache}",
        "features.engine=torch",
    ])  # fmt: skip
    results = train(settings, tmp_path)
    assert results["epochs"] == 1 and 13 < results["megabytes"] < 40  # without MiniLM's 45
    assert mmlabel.load(tmp_path / "best.ckpt").predict(made / "data" / "0.jpg", "a cat")


def test_it_is_not_exported_and_says_so(
    folder: Path, tmp_path: Path, settings_of: Callable, capsys: pytest.CaptureFixture
):
    given = ["model=caption_only", *chosen("transformer", folder), "trainer.max_epochs=1"]
    run(settings_of, tmp_path / "run", *given)
    best = str(tmp_path / "run" / "best.ckpt")
    assert export([best, "--format", "torch", "--out", str(tmp_path / "out")]) == 1
    assert "cannot be exported, as the runner has no tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["caption=transformer", "lstm.layers=2"], "no effect with caption=transformer, which"),
        (["caption=transformer", "embedding=learned"], "does not use embedding"),
        (["caption=transformer", "captions.lemmas=none"], "does not use captions"),
        (["embedding=contextual", "captions.min_count=2"], "no effect with embedding=contextual"),
        (["model=image_only", "caption=transformer"], "no effect with model=image_only"),
    ],
)
def test_options_without_effect_are_refused(given: list[str], message: str):
    with pytest.raises(UserError, match=message):
        refuse_unused(given, without_effect(load_settings(given)))


def test_only_what_is_in_use_is_there():
    trained = load_settings(["caption=transformer"])
    assert trained.captions is trained.embedding is trained.lstm is None
    frozen = load_settings(["embedding=contextual", "embedding.group_by_length=true"])
    assert frozen.captions is None and frozen.lstm is not None and frozen.group_by_length
    for settings in (trained, frozen):
        assert read_settings(settings.plain()) == settings
    assert load_settings([]).text_transformer is None
