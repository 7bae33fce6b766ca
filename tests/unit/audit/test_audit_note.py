"""Signed notes: the specification's own example, and everything that must be refused."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd.audit.checkpoint import checkpoint_text, parse_checkpoint, verify_checkpoint
from keyd.audit.note import Note, NoteSignature, VerifierKey, write_note
from keyd.errors import LogProofError

# From the documentation of the note format (C2SP signed-note and Go's sumdb/note).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def spki(private_key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


ED_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
EC_KEY = ec.derive_private_key(7, ec.SECP256R1())
ED = VerifierKey.from_public_key("log.example/keyd", spki(ED_KEY))
EC = VerifierKey.from_public_key("log.example/keyd", spki(EC_KEY))
TEXT = checkpoint_text("log.example/keyd", 3, b"\x05" * 32)


def signed(text: str, *keys: VerifierKey) -> str:
    lines = []
    for key in keys:
        message = text.encode()
        signature = (
            ED_KEY.sign(message) if key.type == 1 else EC_KEY.sign(message, ec.ECDSA(SHA256()))
        )
        lines.append(NoteSignature(key.name, key.key_id, signature))
    return write_note(text, lines)


def test_the_specifications_example_verifies() -> None:
    key = VerifierKey.parse(PETER)

    assert str(key) == PETER
    assert Note.parse(PETER_NOTE).verify([key]) == [key]


def test_an_ecdsa_key_id_is_over_the_public_key_alone() -> None:
    assert EC.key_id == hashlib.sha256(spki(EC_KEY)).digest()[:4]
    assert str(EC).split("+", 2)[2] == base64.b64encode(b"\x02" + spki(EC_KEY)).decode()


@pytest.mark.parametrize("key", [ED, EC], ids=["ed25519", "ecdsa"])
def test_a_checkpoint_of_either_type_verifies_and_its_key_survives_text(key: VerifierKey) -> None:
    checkpoint = verify_checkpoint(signed(TEXT, key), [VerifierKey.parse(str(key))])

    assert (checkpoint.origin, checkpoint.size) == ("log.example/keyd", 3)
    assert checkpoint.root_hash == b"\x05" * 32


def test_a_checkpoint_signed_by_both_keys_verifies_with_either() -> None:
    note = signed(TEXT, ED, EC)

    for key in (ED, EC):
        assert verify_checkpoint(note, [key]).size == 3


@pytest.mark.parametrize("key", [ED, EC], ids=["ed25519", "ecdsa"])
def test_every_flipped_bit_of_a_checkpoint_is_found(key: VerifierKey) -> None:
    note = signed(TEXT, key).encode()

    for position in range(len(note)):
        for bit in range(8):
            flipped = bytearray(note)
            flipped[position] ^= 1 << bit
            with pytest.raises((LogProofError, UnicodeDecodeError)):
                verify_checkpoint(flipped.decode(), [key])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "\n\n\u2014 a AAAAAAA=\n",
        "text\n\n- PeterNeumann x08go/Y=\n",
        "text\n\n\u2014 a b c\n",
        "text\n\n\u2014 a+b AAAAAAA=\n",
        "text\n\n\u2014 a AAAA\n",
        "text\n\n\u2014 a AAAAAAA\n",
        "text\n\n\u2014 a AAAAAAB=\n",
        "text\n\n\u2014 a AAAAAAA=",
        "te\x00xt\n\n\u2014 a AAAAAAA=\n",
        "te\rxt\n\n\u2014 a AAAAAAA=\n",
        "text\n\n" + "\u2014 a AAAAAAA=\n" * 101,
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(LogProofError):
        Note.parse(note)


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AxpcQcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW=",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AQ==",
        "PeterNeumann+c74f20a3+AgAA",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_malformed_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(LogProofError):
        VerifierKey.parse(text)


def test_a_log_key_is_never_rsa_or_another_curve() -> None:
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
    ):
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(LogProofError, match="Ed25519 or ECDSA P-256"):
            VerifierKey.from_public_key("log.example/keyd", der)


def test_a_note_of_unknown_signers_alone_is_refused() -> None:
    with pytest.raises(LogProofError, match="no signature of a known log key"):
        verify_checkpoint(signed(TEXT, EC), [ED])


def test_a_known_signature_that_fails_is_not_outweighed_by_another() -> None:
    good = signed(TEXT, EC)
    bad = f"\u2014 {ED.name} {base64.b64encode(ED.key_id + bytes(64)).decode()}\n"

    with pytest.raises(LogProofError, match="does not verify"):
        verify_checkpoint(good + bad, [ED, EC])


def test_a_key_of_another_log_cannot_sign_for_this_one() -> None:
    stranger = VerifierKey.from_public_key("other.example", spki(ED_KEY))

    with pytest.raises(LogProofError, match=r"other\.example signed for the log"):
        verify_checkpoint(signed(TEXT, stranger), [stranger])


@pytest.mark.parametrize(
    "text",
    [
        "log.example/keyd\n3\n",
        "log.example/keyd\n03\n" + TEXT.split("\n")[2] + "\n",
        "log.example/keyd\n-3\n" + TEXT.split("\n")[2] + "\n",
        "log.example/keyd\n\u0663\n" + TEXT.split("\n")[2] + "\n",
        TEXT + "extension\n",
        "log.example/keyd\n3\nAAAA\n",
        "log.example/keyd\n3\nnot base64\n",
        "log example\n3\n" + TEXT.split("\n")[2] + "\n",
    ],
)
def test_a_note_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(LogProofError):
        parse_checkpoint(signed(text, ED))
