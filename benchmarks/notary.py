"""Signatures through Notary's protocol: keyd beside the real notary-signer, in the same run.

Both are asked by the same client over mutual TLS, as notary-server asks: GetKeyInfo, then Sign,
with the whole document, each time a new version. keyd judges what it signs, has a token make the
signature, checks it and keeps a durable entry; notary-signer signs in its own memory. A pair is
such a GetKeyInfo with its Sign.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio

from benchmarks.load import rate
from benchmarks.raw import Rate
from keyd.notary.v0 import signer_pb2 as pb
from keyd.notary.v0.signer_pb2_grpc import KeyManagementStub, SignerStub
from tests.notary_programs import PROGRAMS, Certificates, Program, Sandbox, a_port

_CALLERS = 16
_SECONDS = 4.0
# What notary-signer encrypts its keys with in a database; in memory it is not used.
_SIGNER_ENVIRONMENT = {"NOTARY_SIGNER_DEFAULTALIAS": "bench"}


def timestamp(version: int) -> bytes:
    """What notary-server has signed for each publish, canonical JSON; of another snapshot each
    time."""
    expires = (datetime.now(UTC) + timedelta(days=14)).strftime("%Y-%m-%dT%H:%M:%SZ")
    snapshot = base64.b64encode(os.urandom(32)).decode()
    meta = {"snapshot": {"hashes": {"sha256": snapshot}, "length": 884}}
    content = {"_type": "Timestamp", "expires": expires, "meta": meta, "version": version}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


class Asking:
    """notary-server's calls on one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._keys = KeyManagementStub(channel)
        self._signer = SignerStub(channel)

    async def create(self, gun: str, role: str = "timestamp") -> str:
        """Key id."""
        asked = pb.CreateKeyRequest(algorithm="ecdsa", gun=gun, role=role)
        made = await self._keys.CreateKey(asked, timeout=120)
        return made.keyInfo.keyID.ID

    async def sign(self, keyid: str, version: int) -> None:
        """As before every signature: the public key first."""
        key = pb.KeyID(ID=keyid)
        await self._keys.GetKeyInfo(key, timeout=60)
        asked = pb.SignatureRequest(keyID=key, content=timestamp(version))
        signed = await self._signer.Sign(asked, timeout=60)
        if len(signed.content) != 64:
            raise RuntimeError(f"a signature of {len(signed.content)} bytes")


@contextlib.asynccontextmanager
async def asking(certificates: Certificates, port: int) -> AsyncIterator[Asking]:
    """A connection to a signer."""
    folder = certificates.folder
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.crt").read_bytes(),
        (folder / "client.key").read_bytes(),
        (folder / "client.crt").read_bytes(),
    )
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        yield Asking(channel)


async def measure(certificates: Certificates, port: int, callers: int, seconds: float) -> Rate:
    """That many collections, each signed for by one caller, one version after another."""
    took: list[float] = []
    async with asking(certificates, port) as signer:
        keys = [await signer.create(f"bench.example/{port}/{n}") for n in range(callers)]
        for keyid in keys:
            await signer.sign(keyid, 1)
        began = time.perf_counter()

        async def one(keyid: str) -> None:
            version = 1
            while (start := time.perf_counter()) - began < seconds:
                version += 1
                await signer.sign(keyid, version)
                took.append(time.perf_counter() - start)

        async with asyncio.TaskGroup() as group:
            for keyid in keys:
                group.create_task(one(keyid))
        return rate(took, time.perf_counter() - began)


@contextlib.contextmanager
def real_signer(folder: Path, certificates: Certificates) -> Iterator[int]:
    """notary-signer with its keys in memory; its port."""
    port = a_port()
    config = folder / "signer.json"
    config.write_text(
        json.dumps(
            {
                "server": {
                    "grpc_addr": f"127.0.0.1:{port}",
                    "tls_cert_file": certificates.file("server.crt"),
                    "tls_key_file": certificates.file("server.key"),
                    "client_ca_file": str(certificates.ca),
                },
                "storage": {"backend": "memory"},
                "logging": {"level": "error"},
            }
        )
    )
    signer = Program("notary-signer", config, port)
    try:
        signer.start()
        yield port
    finally:
        signer.kill()


def compare() -> dict[str, Rate]:
    """Rates of both, for one caller and for sixteen, in turn."""
    rows: dict[str, Rate] = {}
    os.environ.update(_SIGNER_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="keyd-bench-") as name:
        folder = Path(name)
        sandbox = Sandbox(folder)
        try:
            sandbox.keyd.start()
            with real_signer(folder, sandbox.certificates) as port:
                for callers in (1, _CALLERS):
                    for what, where in (("keyd", sandbox.signer_port), ("notary-signer", port)):
                        found = measure(sandbox.certificates, where, callers, _SECONDS)
                        said = f"{callers} at once" if callers > 1 else "one caller"
                        rows[f"Notary, {said}: {what}"] = asyncio.run(found)
        finally:
            sandbox.keyd.stop()
    return rows


def missing() -> str:
    """What of the programs is not installed, in words; empty when all are."""
    found = [name for name in (*PROGRAMS, "softhsm2-util") if not shutil.which(name)]
    return f"{', '.join(found)} not installed (packages notary, softhsm2)" if found else ""


def main() -> None:
    """Print both, and write build/bench-notary.json."""
    if lacks := missing():
        print(f"Through Notary's protocol: not measured, {lacks}")
        return
    rows = compare()
    print(f"{'':36} {'pairs/s':>9} {'of notary-signer':>17} {'p50 ms':>9} {'p99 ms':>9}")
    for name, found in rows.items():
        p50, p99 = ((value or 0) / 1000 for value in (found.p50_us, found.p99_us))
        other = rows[f"{name.rpartition(':')[0]}: notary-signer"]
        share = found.per_s / other.per_s
        print(f"{name:36} {found.per_s:9.0f} {share:17.2f} {p50:9.2f} {p99:9.2f}")
    report = Path("build/bench-notary.json")
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps({k: asdict(v) for k, v in rows.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
