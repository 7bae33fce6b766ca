"""What docs/docker-content-trust.md shows is what keyd reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from keyd.config import NotaryListenerSection, parse_config
from keyd.model import Action, Context, Principal, Statement
from keyd.policy import parse_policy

PAGE = Path(__file__).parents[3] / "docs" / "docker-content-trust.md"
_REST = """
[log]
origin = "keyd.example.org/prod"
token = "online"
[[token]]
name = "online"
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "online"
"""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of one kind."""
    return re.findall(rf"```{kind} [a-z-]+\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_configuration_is_one_that_starts() -> None:
    config = parse_config(blocks("toml")[0] + _REST)

    (listener,) = config.listeners
    assert isinstance(listener, NotaryListenerSection)
    assert config.notary[0].place().token == "online"
    trust = json.loads("{" + blocks("json")[0] + "}")["trust_service"]
    assert listener.address.endswith(f":{trust['port']}")
    assert trust["type"] == "remote"


def test_the_policy_lets_a_notary_server_do_its_work_and_nothing_else() -> None:
    policy = parse_policy(blocks("toml")[1], "policy.toml")
    server, name = Principal("dns:notary-server", "mtls"), "notary/docker.io/acme/app/timestamp"

    def allows(action: Action, kind: str = "timestamp", key: str = name) -> bool:
        statement, context = Statement(kind), Context("docker.io/acme/app", kind)
        return policy.decide(server, action, key, statement=statement, context=context).allowed

    assert all(map(allows, (Action.CREATE, Action.SIGN, Action.LIST)))
    assert not any(map(allows, (Action.DESTROY, Action.ROTATE, Action.ROLE, Action.BIND)))
    assert not allows(Action.SIGN, "targets")
    assert not allows(Action.CREATE, key="acme/root")
