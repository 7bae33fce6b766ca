"""A token's configuration that cannot work does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyd.device.settings import TokenConfig
from keyd.errors import ConfigError, InvalidRequestError

MODULE = Path("/usr/lib/module.so")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"label": None}, "give its label or its serial"),
        ({"hosts": 0}, "hosts is 0"),
        ({"hosts": 33}, "hosts is 33"),
        ({"token_timeout_s": 0}, "token_timeout"),
        ({"queue_limit": 0}, "queue_limit"),
        ({"pin_source": "file:"}, "pin_source must be"),
        ({"pin_source": "environment:PIN"}, "pin_source must be"),
    ],
)
def test_what_cannot_work_is_told(fields: dict[str, Any], why: str) -> None:
    values: dict[str, Any] = {"name": "main", "module": MODULE, "label": "main"}

    with pytest.raises(ConfigError) as wrong:
        TokenConfig(**(values | fields))

    assert why in wrong.value.message
    assert wrong.value.facts["token"] == "main"


def test_a_pin_written_where_its_source_belongs_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as wrong:
        TokenConfig("main", MODULE, label="main", pin_source="31415926")

    assert "31415926" not in wrong.value.message


def test_a_name_that_is_unsafe_in_a_path_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        TokenConfig("../main", MODULE, label="main")
