"""The probabilities of labels, of the numbers by which a model's answers are decided."""

from typing import TypeVar

import numpy as np

Numbers = TypeVar("Numbers", float, np.ndarray)


def marginals(decided_by: Numbers, *, model: str | None) -> Numbers:
    """What a model takes for the probabilities of labels, 0..1.

    Thresholds are compared with other numbers where model=decoder: there they are half of the
    probability, and 0.5 more for a label of the answer (see `LabelDecoder.forward`). The answer is
    the best set of labels that was found, and one of them may have less than one half.

    Args:
        decided_by: what thresholds are compared with, 0..1: the sigmoid of a network's logits,
            prob_N of a run's predictions.csv.
        model: name of the kind of model, as in the settings; None: not known, of old records.

    >>> marginals(0.2, model="fusion"), marginals(0.25, model="decoder")
    (0.2, 0.5)
    >>> marginals(np.array([0.125, 0.625]), model="decoder").tolist()
    [0.25, 0.25]
    """
    if model != "decoder":
        return decided_by
    return 2 * decided_by - (decided_by >= 0.5)
