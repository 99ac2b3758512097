"""What a call with an argument of the wrong kind has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def assert_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """By just this error, in one line that holds the message."""
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
