"""Mistakes are told where the user made them."""

from __future__ import annotations

from typing import Any

import pytest

import merganser as mg
from merganser.errors import on_users_line
from tests.flows import source


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on": "key"}, r"join\(\) missing 1 required keyword-only argument: 'within'"),
        ({"on": "key", "withn": "1 minute"}, r"join\(\) got an unexpected keyword argument 'withn'"),
    ],
)
def test_a_wrong_argument_is_told_on_the_users_line(arguments: dict[str, Any], says: str) -> None:
    flow = mg.Flow("f")
    stream = flow.read(source([]))
    with pytest.raises(mg.FlowError, match=says) as told:
        stream.join(stream, **arguments)
    assert "test_errors.py:" in str(told.value)


def test_an_error_of_the_same_kind_from_within_is_not_taken_for_one() -> None:
    @on_users_line
    def verb(number: Any) -> int:
        return len(number)

    with pytest.raises(TypeError, match="has no len"):
        verb(1)
