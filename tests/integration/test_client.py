"""The client library against a real grpc server."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd import publickeys
from keyd.client import AsyncClient, Client, EntryFilter, KeyFilter, Retries, Signature
from keyd.client.endpoint import Endpoint
from keyd.client.profiles import Tls
from keyd.errors import (
    BadSignatureError,
    ConfigError,
    DeadlineError,
    DeviceBusyError,
    KeydError,
    KeyNotEnabledError,
    KeyNotFoundError,
    PinRefusedError,
    ServerGoneError,
)
from keyd.model import (
    Binding,
    Context,
    Digest,
    Encoding,
    HashAlgorithm,
    KeyAlgorithm,
    Pin,
    Scheme,
    SignRequest,
)
from keyd.v1 import signing_pb2
from tests.certificates import Issued, issue
from tests.scripted_daemon import ScriptedDaemon, a_daemon_with_keys

MESSAGE = b"release 1.0\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with a_daemon_with_keys(tmp_path) as started:
        yield started


@pytest.fixture
def client(daemon: ScriptedDaemon, tmp_path: Path) -> Iterator[Client]:
    with Client(daemon.endpoint, deadline_s=10, checkpoints=tmp_path / "kept") as made:
        yield made


# ------------------------------------------------------------------------------ honest daemons


@pytest.mark.parametrize("algorithm", [a for a in KeyAlgorithm if a is not KeyAlgorithm.RSA_4096])
def test_a_signature_of_every_kind_is_verified_and_returned(
    daemon: ScriptedDaemon, client: Client, algorithm: KeyAlgorithm
) -> None:
    daemon.add_key("k", algorithm)

    for scheme in algorithm.schemes:
        encoding = Encoding.DER if algorithm.is_ecdsa else None
        signed = client.sign("k", MESSAGE, encoding=encoding, scheme=scheme, reason="release")

        raw = (
            publickeys.to_raw(signed.signature, algorithm)
            if algorithm.is_ecdsa
            else signed.signature
        )
        publickeys.verify(signed.public_key, scheme, raw, MESSAGE)
        assert signed.key_version == "k/versions/1"
        assert signed.log_index == len(daemon.bodies) - 1
        assert signed.unbound
    assert daemon.requests["Sign"].reason == "release"


def test_a_digest_is_signed_in_place_of_its_message(client: Client) -> None:
    digest = Digest.of(HashAlgorithm.SHA256, MESSAGE)

    signed = client.sign("acme/root", digest=digest, encoding=Encoding.RAW)

    assert signed.digest == digest
    publickeys.verify(signed.public_key, signed.scheme, signed.signature, MESSAGE)


def test_the_version_that_holds_the_expected_key_signs(
    daemon: ScriptedDaemon, client: Client
) -> None:
    staged = daemon.add_version("acme/root")

    by_key = client.sign(
        "acme/root", MESSAGE, encoding=Encoding.DER, expected_public_key=staged.public_key
    )
    by_keyid = client.sign(
        "acme/root", MESSAGE, encoding=Encoding.DER, expected_keyid=staged.keyids["notary"]
    )

    assert by_key.key_version == by_keyid.key_version == "acme/root/versions/2"


def test_a_dry_run_brings_no_signature_and_the_context_travels(
    daemon: ScriptedDaemon, client: Client
) -> None:
    signed = client.sign(
        "acme/root",
        MESSAGE,
        encoding=Encoding.DER,
        context=Context("acme", "root"),
        dry_run=True,
    )

    assert (signed.signature, signed.log_index) == (b"", -1)
    assert daemon.requests["Sign"].context.repository == "acme"
    assert daemon.bodies == []


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(of: type) -> dict[str, list[str]]:
        return {
            name: [p for p in inspect.signature(member).parameters if p != "self"]
            for name, member in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


def test_keys_live_their_life_through_the_client(daemon: ScriptedDaemon, client: Client) -> None:
    made = client.create_key(
        "acme/targets",
        KeyAlgorithm.ED25519,
        bindings=[Binding("acme", "targets")],
        labels={"team": "release"},
        rotation_period_s=86_400,
    )
    rotated = client.rotate("acme/targets", expected_newest=1)
    active = client.activate("acme/targets", 2)
    client.disable("acme/targets", 1)
    client.enable("acme/targets", 1)
    scheduled = client.schedule_destroy("acme/targets", 1, wait_s=90_000)
    cancelled = client.cancel_destroy("acme/targets", 1)
    gone = client.destroy("acme/targets", 1)
    updated = client.update("acme/targets", labels={})
    adopted = client.adopt("online", "acme/old", b"\x01")

    assert made.bindings == {Binding("acme", "targets")}
    assert made.labels == {"team": "release"}
    assert rotated.is_staged(2)
    assert not active.is_staged(2)
    assert scheduled.versions[0].destroy_after is not None
    assert cancelled.versions[0].state == "DISABLED"
    assert gone.versions[0].state == "DESTROYED"
    assert updated.labels == {}
    assert updated.bindings == {Binding("acme", "targets")}
    assert adopted.keys[0].versions[0].origin == "adopted-unproven"
    assert adopted.skipped
    assert daemon.requests["RotateKey"].expected_newest_version == 1


def test_lists_walk_through_all_pages_and_ask_only_when_needed(
    daemon: ScriptedDaemon, client: Client
) -> None:
    for n in range(7):
        daemon.add_key(f"many/{n}", KeyAlgorithm.ED25519)

    names = [k.name for k in client.list_keys(KeyFilter(name="many/*"), page_size=3)]
    pages = daemon.asked["ListKeys"]
    first = next(client.list_keys(page_size=1))

    assert names == [f"many/{n}" for n in range(7)]
    assert pages == 3
    assert first.name == "acme/ed"
    assert daemon.asked["ListKeys"] == 4


def test_tokens_freezes_and_the_log_are_reachable(daemon: ScriptedDaemon, client: Client) -> None:
    signed = client.sign("acme/ed", MESSAGE)
    (token,) = client.list_tokens()
    client.unlock("online", Pin("1234"))
    frozen = client.freeze("acme/ed", reason="leak?")
    (entry,) = client.list_entries(
        EntryFilter(signature_sha256=hashlib.sha256(signed.signature).hexdigest())
    )
    proof = client.prove_inclusion(0)
    tail = next(client.tail(0))

    assert token.state == "READY"
    assert daemon.requests["Unlock"].pin == "1234"
    assert frozen == ("acme/ed, socket:tester: leak?",)
    assert entry.index == signed.log_index
    assert proof.entry == tail == entry
    assert client.whoami().principal == "socket:tester"
    assert client.status().health == "SERVING"
    assert client.list_objects("online")[0].registered_as == "acme/root/versions/1"


async def test_the_async_client_signs_lists_and_follows_the_log(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    async with AsyncClient(daemon.endpoint, checkpoints=tmp_path / "kept") as client:
        one = await client.sign("acme/root", MESSAGE, encoding=Encoding.DER)
        many = await asyncio.gather(*(client.sign("acme/ed", bytes([n])) for n in range(20)))
        names = [k.name async for k in client.list_keys(page_size=1)]
        batch = await client.sign_batch([SignRequest("acme/ed", b"x"), SignRequest("no", b"x")])
        tailed = []
        async for entry in client.tail(0):
            tailed.append(entry.index)
            if len(tailed) == 3:
                break
        with pytest.raises(KeyNotFoundError):
            await client.get_key("no")

    assert one.log_index == 0
    assert len({s.signature for s in many}) == 20
    assert names == ["acme/ed", "acme/root"]
    assert isinstance(batch[0], Signature)
    assert isinstance(batch[1], KeyNotFoundError)
    assert tailed == [0, 1, 2]


def test_threads_share_one_connection(daemon: ScriptedDaemon, client: Client) -> None:
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            client.sign("acme/ed", str(n).encode())
        except BaseException as e:  # noqa: BLE001 - the test looks at it
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert errors == []
    assert daemon.asked["Sign"] == 16


# ------------------------------------------------------------------------------------- batches


def test_a_batch_keeps_its_order_over_several_messages(
    daemon: ScriptedDaemon, client: Client
) -> None:
    # 5 MiB each: two do not fit into one message of 8 MiB.
    large = [SignRequest("acme/ed", bytes([n]) * (5 * 1024 * 1024)) for n in range(3)]
    small = [SignRequest("acme/ed", f"{n}".encode()) for n in range(50)]

    outcomes = client.sign_batch([*small, *large])

    assert daemon.asked["SignBatch"] == 3
    for request, outcome in zip([*small, *large], outcomes, strict=True):
        assert isinstance(outcome, Signature)
        assert request.message is not None
        publickeys.verify(outcome.public_key, Scheme.ED25519, outcome.signature, request.message)


def test_one_bad_item_fails_alone_and_a_busy_one_is_asked_for_again(
    daemon: ScriptedDaemon, client: Client
) -> None:
    busy = DeviceBusyError("queue full", retry_after_s=0.01, token="online")
    refused = KeyNotEnabledError("disabled", version="2", state="DISABLED")
    daemon.errors["item"] = [busy, refused]

    outcomes = client.sign_batch([SignRequest("acme/ed", bytes([n])) for n in range(3)])

    assert isinstance(outcomes[0], Signature)
    assert isinstance(outcomes[1], KeyNotEnabledError)
    assert outcomes[1].facts["state"] == "DISABLED"
    assert isinstance(outcomes[2], Signature)
    assert daemon.asked["SignBatch"] == 2


def test_a_batch_nobody_answered_raises_and_an_empty_one_asks_nobody(
    daemon: ScriptedDaemon, client: Client
) -> None:
    daemon.errors["SignBatch"] = [PinRefusedError("no")]

    with pytest.raises(PinRefusedError):
        client.sign_batch([SignRequest("acme/ed", b"x")])
    assert client.sign_batch([]) == []
    assert daemon.asked["SignBatch"] == 1


def test_a_batch_whose_results_are_swapped_is_refused(
    daemon: ScriptedDaemon, client: Client
) -> None:
    """The proxy that mixes up two people's answers."""
    answers: list[signing_pb2.SignResponse] = []

    def swap(answer: signing_pb2.SignResponse) -> None:
        answers.append(signing_pb2.SignResponse.FromString(answer.SerializeToString()))
        if len(answers) > 1:
            answer.CopyFrom(answers[0])

    daemon.lie = swap
    outcomes = client.sign_batch([SignRequest("acme/ed", b"a"), SignRequest("acme/ed", b"b")])

    assert isinstance(outcomes[0], Signature)
    assert isinstance(outcomes[1], BadSignatureError)


# ------------------------------------------------------------------------------ lying daemons

Lie = Callable[[ScriptedDaemon, signing_pb2.SignResponse], None]


def _other_digest(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.digest.value = bytes(32)


def _flipped_signature(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    raw = bytearray(answer.signature)
    raw[-1] ^= 1
    answer.signature = bytes(raw)


def _other_message_signed(daemon: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    """What an attacker wants: a signature over his own bytes under an honest digest."""
    answer.signature = daemon._make(
        answer.key_version, Scheme(answer.scheme), b"", hashlib.sha256(b"malware").digest()
    )


def _own_key(daemon: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    """Signs correctly, with another key than the caller expects."""
    evil = daemon.add_key("acme/evil").versions[0]
    answer.public_key = evil.public_key
    answer.signature = daemon._make(
        "acme/evil/versions/1", Scheme(answer.scheme), b"", answer.digest.value
    )


def _other_name(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.key_version = "acme/root2/versions/1"


def _other_scheme(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.scheme = "ed25519"


def _raw_for_der(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.signature = publickeys.to_raw(answer.signature, KeyAlgorithm.ECDSA_P256)
    answer.encoding = signing_pb2.SIGNATURE_ENCODING_RAW


def _garbage_key(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.public_key = b"garbage"


def _nothing(_: ScriptedDaemon, answer: signing_pb2.SignResponse) -> None:
    answer.signature = b""


@pytest.mark.parametrize(
    "lie",
    [
        _other_digest,
        _flipped_signature,
        _other_message_signed,
        _own_key,
        _other_name,
        _other_scheme,
        _raw_for_der,
        _garbage_key,
        _nothing,
    ],
)
@pytest.mark.parametrize("expectation", ["key", "keyid"])
def test_a_lying_daemon_is_caught(
    daemon: ScriptedDaemon, client: Client, lie: Lie, expectation: str
) -> None:
    version = daemon.keys["acme/root"].versions[0]
    daemon.lie = lambda answer: lie(daemon, answer)

    with pytest.raises(BadSignatureError) as e:
        client.sign(
            "acme/root",
            MESSAGE,
            encoding=Encoding.DER,
            expected_public_key=version.public_key if expectation == "key" else b"",
            expected_keyid=version.keyids["tuf"] if expectation == "keyid" else "",
        )

    assert "do not use this signature" in e.value.hint
    assert daemon.asked["Sign"] == 1


def test_a_daemon_that_signs_with_its_own_version_is_caught(
    daemon: ScriptedDaemon, client: Client
) -> None:
    daemon.add_version("acme/root")

    def other(answer: signing_pb2.SignResponse) -> None:
        answer.key_version = "acme/root/versions/2"

    daemon.lie = other
    with pytest.raises(BadSignatureError):
        client.sign("acme/root/versions/1", MESSAGE, encoding=Encoding.DER)


# ------------------------------------------------------------------------ errors and retries


def test_an_error_keeps_class_facts_hint_and_request_id(
    daemon: ScriptedDaemon, client: Client
) -> None:
    error = KeyNotEnabledError("it is disabled", hint="enable it", next_version=3, state="DISABLED")
    error.request_id = "req-7"
    daemon.errors["GetKey"] = [error]

    with pytest.raises(KeyNotEnabledError) as e:
        client.get_key("acme/root")

    assert e.value.message == "it is disabled"
    assert e.value.hint == "enable it"
    assert e.value.facts == {"next_version": "3", "state": "DISABLED"}
    assert e.value.request_id == "req-7"


def test_a_busy_token_is_waited_for_when_signing(daemon: ScriptedDaemon, client: Client) -> None:
    daemon.errors["Sign"] = [DeviceBusyError("busy", retry_after_s=0.01)] * 2

    assert client.sign("acme/ed", MESSAGE).log_index == 0
    assert daemon.asked["Sign"] == 3


def test_a_token_that_stays_busy_is_given_up_on(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    daemon.errors["Sign"] = [DeviceBusyError("busy", retry_after_s=0.01)] * 9

    with (
        Client(daemon.endpoint, retries=Retries(2), keep_checkpoints=False) as client,
        pytest.raises(DeviceBusyError),
    ):
        client.sign("acme/ed", MESSAGE)
    assert daemon.asked["Sign"] == 3


def test_what_is_not_safe_is_asked_for_once(daemon: ScriptedDaemon, client: Client) -> None:
    busy = DeviceBusyError("busy", retry_after_s=0.01)
    for method in ("CreateKey", "Unlock", "RotateKey"):
        daemon.errors[method] = [busy]

    with pytest.raises(DeviceBusyError):
        client.create_key("new", KeyAlgorithm.ED25519)
    with pytest.raises(DeviceBusyError):
        client.unlock("online", Pin("1234"))
    with pytest.raises(DeviceBusyError):
        client.rotate("acme/root")

    asked = {m: daemon.asked[m] for m in ("CreateKey", "Unlock", "RotateKey")}
    assert asked == {"CreateKey": 1, "Unlock": 1, "RotateKey": 1}


def test_a_wait_beyond_the_deadline_is_not_begun(daemon: ScriptedDaemon, client: Client) -> None:
    daemon.errors["Sign"] = [DeviceBusyError("busy", retry_after_s=30)]

    began = time.monotonic()
    with pytest.raises(DeviceBusyError):
        client.with_deadline(2).sign("acme/ed", MESSAGE)
    assert time.monotonic() - began < 2


def test_a_daemon_that_hangs_ends_in_a_deadline_error(
    daemon: ScriptedDaemon, client: Client
) -> None:
    release = threading.Event()
    daemon.delay = lambda _: release.wait(5)
    try:
        with pytest.raises(DeadlineError) as e:
            client.with_deadline(0.3).whoami()
    finally:
        release.set()

    assert daemon.endpoint in e.value.message


def test_no_daemon_is_an_error_at_once_that_names_the_endpoint(tmp_path: Path) -> None:
    endpoint = Endpoint(f"unix:{tmp_path}/none.sock", "--endpoint")
    began = time.monotonic()

    with Client(endpoint, keep_checkpoints=False) as client, pytest.raises(ServerGoneError) as e:
        client.whoami()

    assert f"unix:{tmp_path}/none.sock (--endpoint)" in e.value.message
    assert "there is no such socket" in e.value.hint
    assert time.monotonic() - began < 5


def test_a_daemon_that_restarts_is_waited_for(tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path) as first:
        client = Client(first.endpoint, deadline_s=20, keep_checkpoints=False)
        first.add_key("acme/ed", KeyAlgorithm.ED25519)
        client.whoami()

    started: list[ScriptedDaemon] = []

    def start() -> None:
        time.sleep(0.4)
        started.append(ScriptedDaemon(tmp_path).__enter__())

    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert client.whoami().principal == "socket:tester"
    finally:
        thread.join(10)
        client.close()
        for daemon in started:
            daemon.__exit__(None, None, None)


def test_a_stranger_on_the_socket_is_told_apart_from_keyd(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{tmp_path}/keyd.sock")
    server.start()
    try:
        with (
            Client(f"unix:{tmp_path}/keyd.sock", keep_checkpoints=False) as client,
            pytest.raises(KeydError) as e,
        ):
            client.whoami()
    finally:
        server.stop(0).wait(5)

    assert "does not know this call" in e.value.message


def test_a_pin_is_in_no_text_of_a_failed_unlock(daemon: ScriptedDaemon, client: Client) -> None:
    daemon.errors["Unlock"] = [PinRefusedError("the token refused the PIN")]

    with pytest.raises(PinRefusedError) as e:
        client.unlock("online", Pin("918273"))

    chain: BaseException | None = e.value
    while chain is not None:
        assert "918273" not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__


# -------------------------------------------------------------------------------- checkpoints


def test_the_newest_checkpoint_is_kept_and_shown_once_to_the_daemon(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    daemon.with_checkpoints = True
    folder = tmp_path / "kept"
    with Client(daemon.endpoint, checkpoints=folder) as client:
        client.sign("acme/ed", b"1")
        client.sign("acme/ed", b"2")
        first = client.kept_checkpoint()
        shown_in_first = daemon.asked["ShowCheckpoint"]
    with Client(daemon.endpoint, checkpoints=folder) as client:
        client.sign("acme/ed", b"3")
        client.sign("acme/ed", b"4")
        verdict = client.checkpoint_verdict

    (file,) = (f for f in folder.iterdir() if f.name != ".lock")
    assert first is not None
    assert first.size == 2
    assert shown_in_first == 0
    assert daemon.asked["ShowCheckpoint"] == 1
    assert daemon.requests["ShowCheckpoint"].note == first.note
    assert verdict == "same"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == daemon.note()


def test_a_log_that_was_cut_is_a_warning(
    daemon: ScriptedDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.with_checkpoints = True
    with Client(daemon.endpoint, checkpoints=tmp_path / "kept") as client:
        client.sign("acme/ed", b"1")
    daemon.verdict = "behind"

    with (
        caplog.at_level(logging.WARNING),
        Client(daemon.endpoint, checkpoints=tmp_path / "kept") as client,
    ):
        client.whoami()

    assert client.checkpoint_verdict == "behind"
    assert "restored backup" in caplog.text


def test_a_client_without_a_place_for_checkpoints_still_signs(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    daemon.with_checkpoints = True
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")

    with Client(daemon.endpoint, checkpoints=blocked / "kept") as client:
        assert client.sign("acme/ed", b"1").log_index == 0
        assert client.kept_checkpoint() is None


# ---------------------------------------------------------------------------------------- TLS


class Pki:
    """A CA, a daemon's certificate, and clients'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = issue(ca=True, common_name="test ca", usage=None)
        self.server = issue(
            x509.DNSName("localhost"), by=self.ca, usage=ExtendedKeyUsageOID.SERVER_AUTH
        )

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self.server.key_pem, self.server.pem)],
            root_certificates=self.ca.pem,
            require_client_auth=True,
        )

    def client(self, issued: Issued, *, key: Issued | None = None, ca: Issued | None = None) -> Tls:
        files = {"ca.pem": (ca or self.ca).pem, "c.pem": issued.pem}
        files["c.key"] = (key or issued).key_pem
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        return Tls(*(self.folder / name for name in ("ca.pem", "c.pem", "c.key")))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def remote(pki: Pki, tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path, tls=pki.credentials()) as started:
        yield started


def _over_tls(remote: ScriptedDaemon, tls: Tls) -> Client:
    endpoint = Endpoint(remote.endpoint, "--endpoint", tls, 10)
    return Client(endpoint, keep_checkpoints=False)


def test_mutual_tls_works(remote: ScriptedDaemon, pki: Pki) -> None:
    tls = pki.client(issue(x509.DNSName("ci.example"), by=pki.ca))

    with _over_tls(remote, tls) as client:
        assert client.whoami().principal == "socket:tester"


def test_an_expired_certificate_is_named_with_its_date(remote: ScriptedDaemon, pki: Pki) -> None:
    now = datetime.now(UTC)
    old = issue(by=pki.ca, start=now - timedelta(days=9), end=now - timedelta(days=1))

    with _over_tls(remote, pki.client(old)) as client, pytest.raises(ServerGoneError) as e:
        client.whoami()

    assert "c.pem expired" in e.value.message
    assert e.value.facts["certificate"] == "expired"
    assert "keydctl tls request" in e.value.hint


def test_a_certificate_of_a_foreign_ca_is_named(remote: ScriptedDaemon, pki: Pki) -> None:
    foreign = issue(by=issue(ca=True, common_name="other ca", usage=None))

    with _over_tls(remote, pki.client(foreign)) as client, pytest.raises(ServerGoneError) as e:
        client.whoami()

    assert "was not issued by the CA" in e.value.message
    assert e.value.facts["certificate"] == "other-ca"


def test_a_daemon_with_a_foreign_certificate_is_not_believed(
    remote: ScriptedDaemon, pki: Pki
) -> None:
    tls = pki.client(issue(by=pki.ca), ca=issue(ca=True, common_name="other ca", usage=None))

    with _over_tls(remote, tls) as client, pytest.raises(ServerGoneError) as e:
        client.whoami()

    assert "could not prove who it is" in e.value.message


def test_a_key_of_another_certificate_is_found_before_connecting(
    remote: ScriptedDaemon, pki: Pki
) -> None:
    tls = pki.client(issue(by=pki.ca), key=issue(by=pki.ca))

    with _over_tls(remote, tls) as client, pytest.raises(ConfigError) as e:
        client.whoami()

    assert "is not the key of" in e.value.message


def test_a_missing_certificate_file_is_named(remote: ScriptedDaemon, pki: Pki) -> None:
    tls = pki.client(issue(by=pki.ca))
    tls.cert.unlink()

    with _over_tls(remote, tls) as client, pytest.raises(ConfigError) as e:
        client.whoami()

    assert "c.pem: No such file" in e.value.message


def test_a_closed_port_is_named_although_the_certificate_is_good(pki: Pki, tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path, tls=pki.credentials()) as gone:
        pass
    tls = pki.client(issue(by=pki.ca))

    with _over_tls(gone, tls) as client, pytest.raises(ServerGoneError) as e:
        client.whoami()

    assert gone.endpoint in e.value.message
    assert "certificate" not in e.value.facts
