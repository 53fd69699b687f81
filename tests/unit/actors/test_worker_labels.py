"""What labels a worker must have: comparators, weights, and the form in which definitions keep them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.worker_labels import COMPARATORS, DesiredLabel, desired_labels, labels_from, weight_of
from tests.unit.actors.matching_model import label


@pytest.mark.parametrize(
    ("comparator", "met"),
    [
        ("EQUAL", (False, True, False)),
        ("NOT_EQUAL", (True, False, True)),
        ("GREATER_THAN", (False, False, True)),
        ("GREATER_THAN_OR_EQUAL", (False, True, True)),
        ("LESS_THAN", (True, False, False)),
        ("LESS_THAN_OR_EQUAL", (True, True, False)),
    ],
)
def test_a_comparator_compares_the_value_of_the_worker_with_the_one_asked_for(comparator, met):
    wish = label("memory", 8, comparator)
    assert tuple(wish.is_met({"memory": value}) for value in (7, 8, 9)) == met


@pytest.mark.parametrize("comparator", sorted(set(COMPARATORS) - {"EQUAL", "NOT_EQUAL"}))
def test_ordering_is_for_integers_only(comparator):
    assert not label("memory", 8, comparator).is_met({"memory": "8"})
    assert not label("memory", "8", comparator).is_met({"memory": 8})
    assert not label("memory", "a", comparator).is_met({"memory": "a"})


def test_a_text_is_not_the_number_that_it_spells():
    assert not label("memory", 8).is_met({"memory": "8"})
    assert label("memory", 8, "NOT_EQUAL").is_met({"memory": "8"})
    assert label("zone", "eu").is_met({"zone": "eu"})


@pytest.mark.parametrize("comparator", sorted(COMPARATORS))
def test_an_absent_label_meets_nothing(comparator):
    assert not label("memory", 8, comparator).is_met({"zone": "eu"})


def test_weights_of_what_is_met_add_up_and_a_required_one_excludes():
    wishes = (
        label("zone", "eu", weight=30),
        label("disk", "ssd", weight=-5),
        label("memory", 8, "GREATER_THAN", weight=7, required=True),
    )
    assert weight_of(wishes, {"zone": "eu", "disk": "ssd", "memory": 9}) == 32
    assert weight_of(wishes, {"memory": 9}) == 7
    assert weight_of(wishes, {"zone": "eu", "memory": 8}) is None
    assert weight_of(wishes, {"zone": "eu"}) is None
    assert weight_of((), {"zone": "eu"}) == 0


def test_labels_of_a_definition_come_in_one_order_with_their_defaults():
    kept = {
        "zone": {"value": "eu", "comparator": "NOT_EQUAL", "weight": 5, "required": True},
        "memory": {"value": 8},
    }
    assert desired_labels(kept) == (
        DesiredLabel("memory", 8, "EQUAL", 100, False),
        DesiredLabel("zone", "eu", "NOT_EQUAL", 5, True),
    )
    assert desired_labels(dict(reversed(kept.items()))) == desired_labels(kept)


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_stored_labels_keep_texts_and_integers_apart(labels):
    import json

    assert dict(labels_from(json.dumps(labels))) == labels
