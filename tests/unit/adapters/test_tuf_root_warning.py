"""keydctl tuf init asks before root hangs on one hardware key."""

from __future__ import annotations

import dataclasses

import click
import pytest

from keyd.cli.settings import Settings
from keyd.cli.tuf import ask_about_root
from keyd.cli.tufkeys import Session
from keyd.client import Client
from keyd.client.types import Key
from keyd.errors import PolicyDeniedError
from keyd.model import KeyAlgorithm, Scheme, TokenState, TokenStatus
from tests.tuf_repositories import utc_now

YUBIKEY = TokenStatus("t", TokenState.READY, model="YubiKey YK5", manufacturer="Yubico")
SOFTHSM = dataclasses.replace(YUBIKEY, model="SoftHSM v2", manufacturer="SoftHSM project")


class FakeClient(Client):
    """Two tokens of a kind; None: this caller may not see tokens. Keys ending in -b: on t2."""

    def __init__(self, token: TokenStatus | None) -> None:
        self.token = token

    def get_key(self, name: str) -> Key:
        on = "t2" if name.endswith("-b") else "t"
        return Key(name, on, KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256, utc_now(), "me")

    def list_tokens(self) -> list[TokenStatus]:
        if self.token is None:
            raise PolicyDeniedError("denied")
        return [self.token, dataclasses.replace(self.token, name="t2")]


def session(token: TokenStatus | None) -> Session:
    return Session(Settings(), [FakeClient(token)])


@pytest.mark.parametrize("keys", [("acme/root",), ("acme/root-a", "acme/root-c")])
@pytest.mark.parametrize("token", [YUBIKEY, None], ids=["hardware", "not told"])
def test_root_on_one_hardware_token_is_warned_about_and_confirmed(
    token: TokenStatus | None, keys: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.UsageError, match="--yes"):
        ask_about_root(session(token), keys, yes=False)

    assert "no client can follow" in capsys.readouterr().err


def test_yes_goes_on_with_the_warning(capsys: pytest.CaptureFixture[str]) -> None:
    ask_about_root(session(YUBIKEY), ("acme/root",), yes=True)

    assert "second --root key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "keys"),
    [(SOFTHSM, ("acme/root",)), (YUBIKEY, ("acme/root-a", "acme/root-b"))],
    ids=["software token", "two tokens"],
)
def test_nothing_is_asked_where_nothing_hangs_on_one_device(
    token: TokenStatus, keys: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    ask_about_root(session(token), keys, yes=False)

    assert capsys.readouterr().err == ""
