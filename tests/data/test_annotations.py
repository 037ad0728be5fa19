"""The rows of a data set, whichever source they come from."""

from pathlib import Path

import numpy as np

from mmlabel.data.annotations import REPORT_LABELS, Annotations, choose_captions


def test_report_labels():
    assert len(REPORT_LABELS) == 20
    assert [number for number, name in enumerate(REPORT_LABELS) if not name] == [0, 12]
    assert (REPORT_LABELS[1], REPORT_LABELS[8], REPORT_LABELS[13]) == (
        "person",
        "truck",
        "stop sign",
    )
    assert REPORT_LABELS[19] == "horse"


def three_rows(**changed) -> Annotations:
    rows = {
        "ids": ["2.jpg", "4.jpg", "14.jpg"],
        "captions": ["a", "b, c", ""],
        "targets": np.array([[0, 1], [1, 1], [0, 0]], dtype=np.uint8),
        "label_names": ["cat", "dog"],
        "pictures": [Path("2.jpg"), Path("4.jpg"), Path("14.jpg")],
    }
    return Annotations(**{**rows, **changed})


def test_take():
    annotations = three_rows(label_order=np.array([[9, 0], [1, 0], [9, 9]], dtype=np.int8))
    taken = annotations.take(np.array([1, 0]))
    assert taken.ids == ["4.jpg", "2.jpg"] and taken.captions == ["b, c", "a"]
    assert taken.targets.tolist() == [[1, 1], [0, 1]]
    assert taken.label_order.tolist() == [[1, 0], [9, 0]]
    assert taken.pictures == [Path("4.jpg"), Path("2.jpg")]
    assert taken.num_labels == 2 and len(annotations.take([])) == 0


def test_the_fingerprint_changes_with_rows_captions_targets_and_names():
    annotations = three_rows()
    assert annotations.fingerprint == three_rows().fingerprint == three_rows().fingerprint
    others = [
        annotations.take([0, 1]),
        three_rows(captions=["a", "b, d", ""]),
        three_rows(targets=1 - annotations.targets),
        three_rows(label_names=["cat", "cow"]),
    ]
    assert len({annotations.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert three_rows(pictures=[Path("x")] * 3).fingerprint == annotations.fingerprint


def test_known_labels_travel_with_their_rows():
    known = np.array([[True, False], [True, True], [False, True]])
    annotations = three_rows(known=known, notes=("a note",))
    assert annotations.take([2, 0]).known.tolist() == [[False, True], [True, False]]
    assert annotations.take([2, 0]).notes == ()
    assert annotations.fingerprint != three_rows().fingerprint
    assert annotations.fingerprint != three_rows(known=~known).fingerprint


def test_choosing_captions():
    captions = [["a", "b", "c"], [], ["", "d", " "], ["", ""]]
    chosen = {tuple(map(tuple, choose_captions(captions, several="one", seed=s))) for s in range(9)}
    assert {first for first, *_ in chosen} == {("a",), ("b",), ("c",)}
    assert {tuple(others) for _, *others in chosen} == {(("",), ("d",), ("",))}
    every = choose_captions(captions, several="all", seed=4)
    assert [first for first, *_ in every] == [
        first for (first,) in choose_captions(captions, several="one", seed=4)
    ]
    assert [sorted(of_picture) for of_picture in every] == [["a", "b", "c"], [""], ["d"], [""]]
    # More pictures change none of the choices before them.
    assert choose_captions([*captions, ["e"]], several="all", seed=4)[:4] == every
