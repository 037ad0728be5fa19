"""The page on which a model is tried; what it shows comes from the server that sends it."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmlabel.report.pages import asset, policy, render
from mmlabel.wording import count

if TYPE_CHECKING:
    from mmlabel.predictor import Predictor

_SCRIPT = asset("demo.js")
# Nothing is sent anywhere but to the page's own server.
POLICY = f"{policy(_SCRIPT)}; connect-src 'self'; frame-ancestors 'none'"


def demo_page(predictor: "Predictor", checkpoint: Path, *, most_bytes: int) -> str:
    """The page of a model, in HTML; `most_bytes` of a picture may be sent."""
    return render(
        "demo.html",
        title=f"Try {checkpoint.parent.name or checkpoint.name}",
        facts=[
            f"model={predictor.settings.model.name}",
            count(len(predictor.label_names), "label"),
        ],
        checkpoint=str(checkpoint),
        most_bytes=most_bytes,
        pictures=predictor.looks_at_pictures,
        captions=predictor.looks_at_captions,
        of_sets=predictor.settings.model.name == "decoder",
        style=asset("page.css"),
        own_style=asset("demo.css"),
        script=_SCRIPT,
    )
