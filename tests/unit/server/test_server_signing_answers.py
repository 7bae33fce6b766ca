"""How signatures, dry runs and what the rules said of them are written on the wire."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from keyd.model import (
    Digest,
    Encoding,
    HashAlgorithm,
    KeyVersion,
    Origin,
    Scheme,
    Signed,
    Statement,
    VersionState,
)
from keyd.server.wire import signing
from keyd.v1 import signing_pb2

VERSION = KeyVersion(
    key="acme/online",
    number=1,
    state=VersionState.ENABLED,
    origin=Origin.GENERATED,
    token_serial="1",
    object_id=b"\x01",
    public_key=b"spki",
    keyids={"tuf": "ab"},
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
    created_by="socket:admin",
)
SIGNED = Signed(
    version=VERSION,
    scheme=Scheme.ECDSA_P256_SHA256,
    encoding=Encoding.DER,
    signature=b"signature",
    digest=Digest.of(HashAlgorithm.SHA256, b"one"),
    log_index=7,
    statement=Statement("timestamp", "tuf", 3),
    rule="grant online",
)
DRY = replace(SIGNED, signature=b"", log_index=-1, checks=("version 3",), needs=("rule: two",))


def test_what_the_rules_said_of_a_dry_run_stands_in_the_answer() -> None:
    answer = signing.sign_response(DRY)

    assert (list(answer.checks), list(answer.needs)) == (["version 3"], ["rule: two"])
    assert not answer.reissued


def test_of_a_batch_each_answer_says_what_is_its_own() -> None:
    outcomes = [
        SIGNED,
        replace(SIGNED, log_index=8, signature=b"other"),
        replace(SIGNED, log_index=9, reissued=True),
        DRY,
        replace(DRY, checks=("version 4",)),
        replace(DRY, needs=()),
    ]
    response = signing_pb2.SignBatchResponse()
    items = [signing_pb2.SignBatchItem(reference=str(n)) for n in range(len(outcomes))]

    signing.add_results(response, items, outcomes)

    answers = [result.response for result in response.results]
    assert [a.log_index for a in answers] == [7, 8, 9, -1, -1, -1]
    assert [a.reissued for a in answers] == [False, False, True, False, False, False]
    assert [list(a.checks) for a in answers[3:]] == [["version 3"], ["version 4"], ["version 3"]]
    assert [list(a.needs) for a in answers] == [[], [], [], ["rule: two"], ["rule: two"], []]
