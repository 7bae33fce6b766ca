"""What Signing promises of bound keys: they sign what they can read, and certify themselves."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID

from keyd import publickeys
from keyd.errors import (
    AlgorithmMismatchError,
    ContentError,
    PolicyDeniedError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    Binding,
    Digest,
    Encoding,
    HashAlgorithm,
    Key,
    KeyAlgorithm,
    Mark,
    Scheme,
    SignRequest,
)
from keyd.policy import parse_policy
from tests.bound_keys import (
    REPOSITORY,
    ask,
    root,
    targets,
)
from tests.domain import CI, POLICY, STRANGER, Domain, a_domain
from tests.tuf_documents import ALICE, a_targets

KEY = "acme/targets"
ONLINE = "acme/online"


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def a_bound_key(
    domain: Domain,
    name: str = KEY,
    *roles: str,
    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256,
) -> Key:
    bindings = [Binding(REPOSITORY, role) for role in roles or ("targets",)]
    return await domain.a_key(name, algorithm, *bindings)


def mark_of(domain: Domain, role: str = "targets") -> Mark:
    mark = domain.audit.find_mark(REPOSITORY, role)
    assert mark is not None
    return mark


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (b"anything", "rule opaque"),
        (b"\x30\x82 no certificate", "rule not-der"),
        (targets(5).replace(b'{"_type"', b'{ "_type"'), "rule not-canonical"),
    ],
)
async def test_a_bound_key_signs_nothing_it_cannot_read(
    domain: Domain, message: bytes, word: str
) -> None:
    await a_bound_key(domain)

    with pytest.raises((RuleRefusedError, ContentError)):
        await domain.signing.sign(CI, ask(KEY, message))

    refusal = domain.audit.refused[-1]
    assert (refusal.action, refusal.rule) == ("sign", word)


async def test_a_whole_metadata_file_is_named_so_before_any_choice_of_encoding(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    whole = a_targets(1, "app", signed_by=[ALICE]).to_bytes()

    for message in (whole, b"opaque"):
        with pytest.raises((ContentError, RuleRefusedError)) as e:
            await domain.signing.sign(CI, SignRequest(KEY, message=message))
        assert "encoding" not in e.value.message
    with pytest.raises(AlgorithmMismatchError):
        await domain.signing.sign(CI, SignRequest(KEY, message=targets(1)))
    with pytest.raises(PolicyDeniedError):
        await domain.signing.sign(STRANGER, SignRequest(KEY, message=whole))


async def test_the_digest_of_a_root_cannot_be_laundered_through_a_targets_key(
    domain: Domain,
) -> None:
    key = await a_bound_key(domain)
    digest = Digest.of(HashAlgorithm.SHA256, root(1, key.versions[0]))
    asked = domain.token.signed

    with pytest.raises(RuleRefusedError) as e:
        await domain.signing.sign(CI, ask(KEY, None, digest=digest))

    assert e.value.facts["rule"] == "digest-only"
    assert domain.audit.refused[-1].digest == digest
    assert domain.token.signed == asked


async def test_a_large_payload_is_read_on_a_worker_and_judged_like_a_small_one(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    large = targets(5, *(f"packages/file-{n}.tar.gz" for n in range(1000)))
    assert len(large) > 64 * 1024

    await domain.signing.sign(CI, ask(KEY, large))
    with pytest.raises(VersionTakenError):
        await domain.signing.sign(CI, ask(KEY, large.replace(b"07" * 32, b"08" * 32, 1)))

    assert mark_of(domain).newest.digest.hex() == sha256(large)


class LateWorkers(ThreadPoolExecutor):
    """Threads that begin when they are let."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.asked = asyncio.Event()
        self.go_on = threading.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **fields: Any) -> Future[Any]:
        self.asked.set()

        def later() -> Any:
            assert self.go_on.wait(5)
            return work(*args, **fields)

        return super().submit(later)


async def test_a_large_payload_that_loses_while_it_is_judged_is_judged_again(
    domain: Domain,
) -> None:
    await a_bound_key(domain)
    large = targets(5, *(f"packages/file-{n}.tar.gz" for n in range(1000)))

    before = domain.token.signed
    with LateWorkers(1) as late:
        domain.signing._judging._workers = late
        slow = asyncio.create_task(domain.signing.sign(CI, ask(KEY, large)))
        await asyncio.wait_for(late.asked.wait(), 5)
        await domain.signing.sign(CI, ask(KEY, targets(5)))
        late.go_on.set()

        with pytest.raises(VersionTakenError) as e:
            await slow

    assert domain.token.signed == before + 1, "it was refused before the token"
    assert e.value.facts["signed_digest"] == sha256(targets(5))
    assert mark_of(domain).newest.digest.hex() == sha256(targets(5))


async def test_a_stranger_learns_nothing_of_rules_and_marks(domain: Domain) -> None:
    await a_bound_key(domain)
    await domain.signing.sign(CI, ask(KEY, targets(5)))

    for message in (targets(5, "other"), b"anything"):
        with pytest.raises(PolicyDeniedError, match="denied, or no such name"):
            await domain.signing.sign(STRANGER, ask(KEY, message))


async def test_a_key_without_bindings_signs_anything_and_leaves_no_mark(domain: Domain) -> None:
    await domain.a_key(KEY)

    for message in (targets(5, "one"), targets(5, "other"), targets(4), b"anything"):
        await domain.signing.sign(CI, ask(KEY, message, "targets"))

    assert not domain.audit.marks()


# ------------------------------------------------------------------------------- certificates


def tbs(key: Key, common_name: str = REPOSITORY, *, ca: bool = False) -> bytes:
    """The bytes that a self-issued certificate's signature covers."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    public_key = load_der_public_key(key.versions[0].public_key)
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    builder = (
        x509.CertificateBuilder(name, name, public_key, 7)
        .not_valid_before(datetime(2030, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2039, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return certificate.tbs_certificate_bytes


CERTIFIER = parse_policy(POLICY.replace('["sign", "list"]', '["certify", "list"]'), "policy.toml")


async def test_a_bound_key_certifies_itself_for_whoever_may_certify() -> None:
    with a_domain(CERTIFIER) as domain:
        key = await a_bound_key(domain, KEY, "root")

        payload = tbs(key)
        signed = await domain.signing.sign(CI, ask(KEY, payload, encoding=Encoding.RAW))

        entry = domain.audit.entries[signed.log_index].fields
        assert (entry["action"], entry["outcome"]) == ("certify", "allowed")
        assert "details" not in entry
        assert signed.statement.summary.startswith("certificate for acme")
        public_key = signed.version.public_key
        publickeys.verify(public_key, Scheme.ECDSA_P256_SHA256, signed.signature, payload)
        with pytest.raises(PolicyDeniedError):
            await domain.signing.sign(CI, ask(KEY, root(1, key.versions[0])))


async def test_who_may_sign_only_does_not_certify(domain: Domain) -> None:
    key = await a_bound_key(domain, KEY, "root")

    with pytest.raises(PolicyDeniedError) as e:
        await domain.signing.sign(CI, ask(KEY, tbs(key)))

    assert e.value.facts["action"] == "certify"
    assert domain.actions()[-1] == "certify refused"


@pytest.mark.parametrize("ca", [True, False])
async def test_no_certificate_for_others_or_over_others(ca: bool) -> None:
    with a_domain(CERTIFIER) as domain:
        key = await a_bound_key(domain, KEY, "root")

        with pytest.raises(RuleRefusedError) as e:
            await domain.signing.sign(CI, ask(KEY, tbs(key, ca=True) if ca else tbs(key, "evil")))

        assert e.value.facts["rule"] == ("certificate-ca" if ca else "certificate-name")
        assert domain.audit.refused[-1].action == "certify"


async def test_a_key_without_bindings_signs_der_as_anything_else(domain: Domain) -> None:
    key = await domain.a_key(KEY)

    await domain.signing.sign(CI, ask(KEY, tbs(key)))

    assert domain.actions()[-1] == "sign allowed"
