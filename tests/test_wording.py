"""Numbers, lists and hints in messages."""

import doctest

import pytest

from mmlabel import errors, wording
from mmlabel.errors import nearest
from mmlabel.wording import count, listed, named, other_labels


@pytest.mark.parametrize("module", [wording, errors])
def test_the_examples(module):
    found = doctest.testmod(module)
    assert found.attempted >= 3 and not found.failed


def test_one_and_several():
    assert [count(n, "row") for n in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
    assert [count(n, "row has", "rows have") for n in (1, 3)] == ["1 row has", "3 rows have"]


def test_long_lists_are_cut_and_say_so():
    names = [f"n{number}" for number in range(5000)]
    assert listed(names, most=3) == "n0, n1, n2 and 4,997 more"
    assert len(nearest("x", names)) < 300 and nearest("x", names).endswith(" and 4,960 more")
    assert len(other_labels(names, ["n3"])) < 100


def test_all_that_begin_so_are_suggested():
    lites = [f"efficientnet_lite{size}" for size in (0, 1, 2)]
    said = '; did you mean "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2"?'
    assert nearest("efficientnet_lite", [*lites, "resnet18"]) == said
    assert nearest("efficientnet_lite3", [*lites, "resnet18"]).count('"') == 2
    many = [f"vit_base_{number}" for number in range(30)]
    assert nearest("vit_base", many).endswith(" and 20 more?")


def test_how_labels_differ():
    assert other_labels(["a", "b"], ["a"]) == "has b"
    assert other_labels(["a"], ["", "a", "c"]) == "lacks c"
    assert other_labels(["", "a"], ["a"]) == "has them under other numbers: 0 is none, not a"
    assert other_labels(["a", ""], ["a"]) == "has another number of them: 2, not 1"
    assert other_labels(["a", "wine, old"], ["a"]) == 'has "wine, old"'


def test_names_with_commas_are_told_apart():
    assert named(["a", "b"]) == "a, b" and named([]) == ""
    assert named(["blue, wine", "old"]) != named(["blue", "wine, old"])
    assert named(['a "b"', "c"]) == r'"a \"b\"", c'
