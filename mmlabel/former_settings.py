"""Settings that earlier versions recorded, as this version reads them."""

from collections.abc import Mapping
from typing import Any

# What runs did before an option existed, where that is not the option's default.
TRAINED_UNDER: dict[str, object] = {
    "data.upright": False,
    "captions.max_length": None,
    "features.engine": "torch",
    "backbone.lr_scale": 1.0,
}
# Options of earlier versions: gone, or told by something else now.
_GONE = ("model.inputs", "model.threshold", "model.auxiliary")
# Options that kinds of these groups once had in common, as null where they meant nothing.
_KINDS_APART = ("embedding", "backbone", "model")


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of any version as this one reads them: what they lack is what they ran under."""
    values: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in saved.items()
    }
    for name in _GONE:
        group, _, option = name.partition(".")
        values.get(group, {}).pop(option, None)
    for group in _KINDS_APART:
        if group in values and values[group] is not None:
            values[group] = {k: v for k, v in values[group].items() if v is not None}
    if values.get("lstm") is not None:
        values.setdefault("caption", {"name": "bilstm"})
    embedding = values.get("embedding")
    if embedding is not None and embedding.get("kind") == "learned":
        embedding.pop("frozen", None)
    for name, value in TRAINED_UNDER.items():
        group, _, option = name.rpartition(".")
        if isinstance(values.get(group), dict) or not group:
            (values[group] if group else values).setdefault(option, value)
    return values
