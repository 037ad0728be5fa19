"""Axes and names of charts."""

import pytest

from mmlabel.report.svg import Scale, wrapped


@pytest.mark.parametrize("last", [1, 2, 3, 4, 7, 10, 23, 99])
def test_ticks_of_epochs_are_whole(last: int):
    ticks = Scale(-0.02 * last, 1.02 * last, 0, 100).ticks(whole=True)
    assert ticks == [round(tick) for tick in ticks]
    assert ticks[0] == 0 and ticks[-1] <= 1.02 * last and 2 <= len(ticks) <= 6
    assert len({b - a for a, b in zip(ticks, ticks[1:], strict=False)}) == 1


def test_names_take_two_lines_before_they_are_cut():
    assert wrapped("Caption only", 20) == ["Caption only"]
    assert wrapped("CNN encoder and RNN decoder", 20) == ["CNN encoder and RNN", "decoder"]
    long = wrapped("CNN encoder and RNN decoder, with the caption and more", 20)
    assert len(long) == 2 and long[1].endswith("…") and max(map(len, long)) <= 20
    assert wrapped("", 20) == [""]
