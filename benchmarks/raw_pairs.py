"""Key pairs made on a SoftHSM token without keyd, the yardstick for making them.

A process of its own: ``python -m benchmarks.raw_pairs MODULE LABEL COUNT SAMPLE``, the PIN in the
first line of its input. Prints a line for each of COUNT pairs: CKA_ID and DER SubjectPublicKeyInfo,
hex. Then one with the seconds that the login took and one search, the pairs made a second over
SAMPLE more, which stay (SoftHSM takes a second to destroy a key among 20 000), and the signatures a
second of one of these with a cached handle.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pkcs11
from pkcs11 import Mechanism

from keyd.device import keypairs
from keyd.model import KeyAlgorithm

_SIGNED_S = 2.0


def _make(session: pkcs11.Session) -> tuple[str, pkcs11.Object, pkcs11.Object]:
    made, private, public = keypairs.generate(
        session, "raw", KeyAlgorithm.ECDSA_P256, os.urandom(16), "raw/1", lambda _: False
    )
    return f"{made.object_id.hex()} {made.public_key.hex()}", private, public


def _signed_per_s(key: Any) -> float:
    digest, count, began = os.urandom(32), 0, time.perf_counter()
    while (took_s := time.perf_counter() - began) < _SIGNED_S:
        key.sign(digest, mechanism=Mechanism.ECDSA)
        count += 1
    return count / took_s


def main() -> None:
    """See the module."""
    module, label, count, sample = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    began = time.perf_counter()
    token = pkcs11.lib(module).get_token(token_label=label)
    with token.open(rw=True, user_pin=sys.stdin.readline().strip()) as session:
        keypairs.find_pair(session, b"nobody's")
        opened_s = time.perf_counter() - began
        for _ in range(count):
            print(_make(session)[0])
        began = time.perf_counter()
        keypairs.find_pair(session, b"nobody's")
        searched_s = time.perf_counter() - began
        began = time.perf_counter()
        extra = [_make(session) for _ in range(sample)]
        made_per_s = sample / (time.perf_counter() - began)
        print(f"raw {opened_s} {searched_s} {made_per_s} {_signed_per_s(extra[0][1])}")


if __name__ == "__main__":
    main()
