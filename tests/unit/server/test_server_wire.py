"""Requests at the door."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from keyd.errors import InvalidRequestError, KeydError
from keyd.keyfields import NewKey
from keyd.model import (
    Binding,
    Context,
    Encoding,
    Freeze,
    HashAlgorithm,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Scheme,
    SignRequest,
    VersionState,
)
from keyd.server.limits import Limits
from keyd.server.wire import audit, fields, keys, pages, signing, tokens
from keyd.v1 import audit_pb2, keys_pb2, signing_pb2, tokens_pb2

LIMITS = Limits(max_message_bytes=1000, max_batch_items=3)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SHA256 = signing_pb2.HASH_ALGORITHM_SHA256


def a_request(**changes: object) -> signing_pb2.SignRequest:
    message = signing_pb2.SignRequest(key="acme/root", message=b"m")
    for name, value in changes.items():
        if name == "digest":
            message.digest.CopyFrom(value)  # type: ignore[arg-type]
        elif name == "context":
            message.context.CopyFrom(value)  # type: ignore[arg-type]
        else:
            setattr(message, name, value)
    return message


def test_a_full_request_is_read_field_by_field() -> None:
    message = a_request(
        key="acme/root/versions/12",
        digest=signing_pb2.Digest(algorithm=SHA256, value=bytes(32)),
        expected_public_key=b"spki",
        expected_keyid="ab" * 32,
        context=signing_pb2.SigningContext(repository="acme", role="root"),
        encoding=signing_pb2.SIGNATURE_ENCODING_DER,
        scheme="ecdsa-sha2-nistp256",
        reason="release 1.2\nsee ticket 7",
        dry_run=True,
    )

    request = signing.sign_request(message, LIMITS)

    assert request == SignRequest(
        key="acme/root",
        version=12,
        digest=request.digest,
        expected_public_key=b"spki",
        expected_keyid="ab" * 32,
        context=Context("acme", "root"),
        encoding=Encoding.DER,
        scheme=Scheme.ECDSA_P256_SHA256,
        reason="release 1.2\nsee ticket 7",
        dry_run=True,
    )
    assert request.digest is not None
    assert (request.digest.algorithm, request.digest.value) == (HashAlgorithm.SHA256, bytes(32))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (a_request(key=""), "key"),
        (a_request(key="Acme/Root"), "key"),
        (a_request(key="../etc/passwd"), "key"),
        (a_request(key="a" * 129), "key"),
        (a_request(key="a/" * 4_000_000), "key"),
        (a_request(key="acme/root\x00"), "key"),
        (a_request(key="acme/r\u043e\u043et"), "key"),  # Cyrillic o
        (a_request(key="acme/root/versions/12345678901"), "key"),
        (signing_pb2.SignRequest(key="acme/root"), "message"),
        (a_request(message=b""), "message"),
        (a_request(message=bytes(1001)), "message"),
        (a_request(digest=signing_pb2.Digest(value=bytes(32))), "digest.algorithm"),
        (a_request(digest=signing_pb2.Digest(algorithm=SHA256, value=bytes(31))), "digest"),
        (a_request(digest=signing_pb2.Digest(algorithm=9, value=bytes(32))), "digest.algorithm"),  # type: ignore[arg-type]
        (a_request(expected_public_key=bytes(4097)), "expected_public_key"),
        (a_request(expected_keyid="AB"), "expected_keyid"),
        (a_request(expected_keyid="a" * 129), "expected_keyid"),
        (a_request(context=signing_pb2.SigningContext(repository="a\nb")), "context.repository"),
        (a_request(context=signing_pb2.SigningContext(role="\u202egpj")), "context.role"),
        (a_request(encoding=7), "encoding"),
        (a_request(scheme="rot13"), "scheme"),
        (a_request(reason="x" * 1001), "reason"),
        (a_request(reason="\x1b[2J"), "reason"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_cannot_be_meant_names_its_field(
    message: signing_pb2.SignRequest, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as e:
        signing.sign_request(message, LIMITS)

    assert e.value.facts["field"] == field
    assert len(e.value.message) < 500


@given(st.binary(max_size=200))
def test_no_bytes_get_past_the_door_as_anything_but_a_request_or_its_error(raw: bytes) -> None:
    message = signing_pb2.SignBatchItem()
    try:
        message.ParseFromString(raw)
    except Exception:  # noqa: BLE001 - what is no message never gets here
        return

    assert isinstance(signing.batch_item(message, LIMITS), SignRequest | KeydError)


def test_an_items_error_is_its_own() -> None:
    assert isinstance(
        signing.batch_item(signing_pb2.SignBatchItem(reference="a"), LIMITS), InvalidRequestError
    )
    assert isinstance(
        signing.batch_item(
            signing_pb2.SignBatchItem(reference="ü" * 129, request=a_request()), LIMITS
        ),
        InvalidRequestError,
    )
    assert isinstance(
        signing.batch_item(
            signing_pb2.SignBatchItem(reference="ü" * 128, request=a_request()), LIMITS
        ),
        SignRequest,
    )


@pytest.mark.parametrize("items", [0, 4])
def test_a_batch_of_none_or_too_many_is_refused_whole(items: int) -> None:
    message = signing_pb2.SignBatchRequest(items=[signing_pb2.SignBatchItem()] * items)

    with pytest.raises(InvalidRequestError) as e:
        signing.check_batch(message, LIMITS)

    assert e.value.facts["field"] == "items"


@pytest.mark.parametrize("value", ["", "a", "ci 42/x", "~" * 128])
def test_a_request_id_may_be_printable_ascii(value: str) -> None:
    assert fields.check_request_id(value) == value


@pytest.mark.parametrize("value", [" a", "a ", "ü", "a\nb", "a" * 129, "a\x7f"])
def test_a_request_id_that_could_forge_a_log_line_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError) as e:
        fields.check_request_id(value)

    assert e.value.facts["field"] == "request_id"


def test_a_new_key_is_read_whole() -> None:
    message = keys_pb2.CreateKeyRequest(
        name="acme/root",
        token="online",
        algorithm="rsa-3072",
        scheme="rsassa-pss-sha256",
        bindings=[keys_pb2.Binding(repository="acme", role="root")] * 2,
        labels={"team": "release"},
        rotation_period_s=60,
        reason="first",
    )

    assert keys.new_key(message) == NewKey(
        "acme/root",
        "online",
        KeyAlgorithm.RSA_3072,
        Scheme.RSA_PSS_SHA256,
        frozenset({Binding("acme", "root")}),
        {"team": "release"},
        60,
        "first",
    )


@pytest.mark.parametrize(
    "name", ["acme/root/versions/2", "a/versions/02", "a/versions/1/versions/2"]
)
def test_a_new_key_cannot_take_the_name_of_a_version(name: str) -> None:
    message = keys_pb2.CreateKeyRequest(name=name, algorithm="ed25519")

    with pytest.raises(InvalidRequestError) as e:
        keys.new_key(message)

    assert e.value.facts["field"] == "name"


def test_an_unknown_algorithm_names_those_there_are() -> None:
    with pytest.raises(InvalidRequestError, match="ecdsa-p256, ecdsa-p384, ed25519"):
        keys.new_key(keys_pb2.CreateKeyRequest(name="a", algorithm="dsa"))


def test_a_version_may_be_named_either_way_but_not_two_ways() -> None:
    by_number = keys_pb2.KeyVersionRequest(name="a/b", version=3)
    by_name = keys_pb2.KeyVersionRequest(name="a/b/versions/3")

    assert keys.version_change(by_number) == keys.version_change(by_name)
    for wrong in (
        keys_pb2.KeyVersionRequest(name="a/b"),
        keys_pb2.KeyVersionRequest(name="a/b", version=-1),
        keys_pb2.KeyVersionRequest(name="a/b/versions/3", version=2),
    ):
        with pytest.raises(InvalidRequestError) as e:
            keys.version_change(wrong)
        assert e.value.facts["field"] == "version"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (keys_pb2.AdoptKeyRequest(token="t", name="a"), "object_id"),
        (keys_pb2.AdoptKeyRequest(token="t", object_id=b"1"), "name"),
        (keys_pb2.AdoptKeyRequest(name="a", object_id=b"1"), "token"),
        (keys_pb2.AdoptKeyRequest(token="t", name="a", object_id=bytes(256)), "object_id"),
        (keys_pb2.AdoptKeyRequest(token="t", name="a", all_labelled=True), "name"),
        (keys_pb2.AdoptKeyRequest(token="t", object_id=b"1", all_labelled=True), "object_id"),
    ],
)
def test_an_adoption_names_one_object_or_all(message: keys_pb2.AdoptKeyRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as e:
        keys.check_adoption(message)

    assert e.value.facts["field"] == field


def a_key(state: VersionState, number: int = 2, **changes: object) -> Key:
    version = KeyVersion(
        key="a",
        number=number,
        state=state,
        origin=Origin.GENERATED,
        token_serial="S",
        object_id=b"\1",
        public_key=b"",
        keyids={},
        created_at=NOW,
        created_by="socket:admin",
        destroy_after=NOW if state is VersionState.DESTROY_SCHEDULED else None,
    )
    return Key(
        "a",
        "online",
        KeyAlgorithm.ED25519,
        Scheme.ED25519,
        NOW,
        "socket:admin",
        active_version=1,
        versions=(version,),
    )


@pytest.mark.parametrize("state", [s for s in VersionState if s is not VersionState.DESTROYABLE])
def test_every_state_has_its_name_on_the_wire(state: VersionState) -> None:
    before = NOW - timedelta(seconds=1)

    message = keys.key_message(a_key(state), None, before)

    name = keys_pb2.KeyVersionState.Name(message.versions[0].state)
    assert name == f"KEY_VERSION_STATE_{state}"
    assert message.versions[0].staged == (state is VersionState.ENABLED)


def test_a_version_whose_waiting_time_is_over_shows_as_destroyable() -> None:
    message = keys.key_message(a_key(VersionState.DESTROY_SCHEDULED), None, NOW)

    assert message.versions[0].state == keys_pb2.KEY_VERSION_STATE_DESTROYABLE


def test_a_freeze_is_a_line_that_says_who_and_why() -> None:
    line = keys.freeze_line(Freeze("", "uri:spiffe://acme/alice", "key leaked?", NOW))

    assert line == (
        "all keys: frozen by uri:spiffe://acme/alice since 2026-03-01T00:00:00Z: key leaked?"
    )


def test_a_pin_leaves_its_message_and_no_error_quotes_it() -> None:
    message = tokens_pb2.UnlockRequest(token="online", pin="s3cret")

    pin = tokens.pin(message)

    assert pin is not None
    assert pin.reveal() == "s3cret"
    assert "s3cret" not in str(message)
    with pytest.raises(InvalidRequestError) as e:
        tokens.pin(tokens_pb2.UnlockRequest(pin="s3cret\0"))
    assert "s3cret" not in str(e.value) + str(e.value.facts)


def test_an_empty_pin_means_the_configured_source() -> None:
    assert tokens.pin(tokens_pb2.UnlockRequest(token="online")) is None


def test_an_entry_filter_is_read_whole() -> None:
    message = audit_pb2.ListEntriesRequest(
        key="acme/root/versions/3",
        principal="dns:ci.acme",
        action="sign",
        decision="refused",
        digest="ab",
        keyid="cd",
        request_id="r",
        until=Timestamp(seconds=1_772_323_200),
        descending=True,
        start_index=7,
        signature_sha256="ef",
    )

    wanted = audit.entry_filter(message)

    assert (wanted.key, wanted.version, wanted.outcome) == ("acme/root", 3, "refused")
    assert wanted.until == NOW
    assert wanted.since is None
    assert (wanted.start_index, wanted.descending) == (7, True)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (audit_pb2.ListEntriesRequest(decision="maybe"), "decision"),
        (audit_pb2.ListEntriesRequest(digest="XY"), "digest"),
        (audit_pb2.ListEntriesRequest(start_index=-1), "start_index"),
        (audit_pb2.ListEntriesRequest(until=Timestamp(seconds=10**13)), "until"),
        (audit_pb2.ListEntriesRequest(until=Timestamp(nanos=-5)), "until"),
        (audit_pb2.ListEntriesRequest(principal="a\tb"), "principal"),
    ],
)
def test_a_filter_that_cannot_match_names_its_field(
    message: audit_pb2.ListEntriesRequest, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as e:
        audit.entry_filter(message)

    assert e.value.facts["field"] == field


def test_a_page_token_leads_on_and_only_within_its_own_request() -> None:
    request = keys_pb2.ListKeysRequest(token="online", page_size=2)
    token = pages.to_token(request, "acme/root")
    other_size = keys_pb2.ListKeysRequest(token="online", page_size=9, page_token=token)
    other_filter = keys_pb2.ListKeysRequest(token="spare", page_token=token)

    assert pages.parse_token(other_size, token) == "acme/root"
    with pytest.raises(InvalidRequestError) as e:
        pages.parse_token(other_filter, token)
    assert e.value.facts["field"] == "page_token"


@given(st.text(max_size=600))
def test_a_forged_page_token_is_an_error_and_nothing_else(token: str) -> None:
    request = keys_pb2.ListKeysRequest()

    try:
        cursor = pages.parse_token(request, token)
    except InvalidRequestError:
        return
    assert cursor is None
    assert token == ""


@pytest.mark.parametrize("size", [-1, 1001])
def test_a_page_size_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequestError):
        pages.page_size(size, 1000)


def test_a_page_ends_before_it_is_too_large_but_always_gets_further() -> None:
    entries = [audit_pb2.Entry(index=n, body=bytes(100)) for n in range(10)]

    assert len(list(pages.fill_page(entries, 10, 350))) == 3
    assert len(list(pages.fill_page(entries, 2, 10**6))) == 2
    assert len(list(pages.fill_page(entries, 10, 1))) == 1
