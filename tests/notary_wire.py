"""notary-server's calls, made by tests themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2

from keyd.notary.v0 import signer_pb2 as pb
from keyd.notary.v0.signer_pb2_grpc import KeyManagementStub, SignerStub
from tests.notary_programs import Sandbox

HEALTH = ("grpc.health.v1.Health.KeyManagement", "grpc.health.v1.Health.Signer")

_SHA256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def document(role: str, version: int, length: int = 100) -> bytes:
    """What notary-server has signed, in canonical JSON. ``length``: of what it speaks of."""
    below = {"timestamp": ["snapshot"], "snapshot": ["root", "targets"]}.get(role, [])
    content: dict[str, object] = {
        "_type": role.capitalize(),
        "expires": (datetime.now(UTC) + timedelta(days=10)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "meta": {name: {"hashes": {"sha256": _SHA256}, "length": length} for name in below},
        "version": version,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


class Wire:
    """notary-server's calls, made here."""

    def __init__(self, sandbox: Sandbox, who: str = "client") -> None:
        tls = sandbox.certificates.folder
        credentials = grpc.ssl_channel_credentials(
            (tls / "ca.crt").read_bytes(),
            (tls / f"{who}.key").read_bytes(),
            (tls / f"{who}.crt").read_bytes(),
        )
        self._channel = grpc.secure_channel(f"localhost:{sandbox.signer_port}", credentials)
        self._keys, self._signer = KeyManagementStub(self._channel), SignerStub(self._channel)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def health(self) -> dict[str, int]:
        check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        asked = {name: health_pb2.HealthCheckRequest(service=name) for name in HEALTH}
        return {name: check(each, timeout=20).status for name, each in asked.items()}

    def create(self, gun: str, role: str = "timestamp", algorithm: str = "ecdsa") -> pb.PublicKey:
        request = pb.CreateKeyRequest(algorithm=algorithm, gun=gun, role=role)
        return self._keys.CreateKey(request, timeout=20)

    def info(self, keyid: str) -> pb.GetKeyInfoResponse:
        return self._keys.GetKeyInfo(pb.KeyID(ID=keyid), timeout=20)

    def delete(self, keyid: str) -> pb.Void:
        return self._keys.DeleteKey(pb.KeyID(ID=keyid), timeout=20)

    def sign(self, keyid: str, content: bytes) -> pb.Signature:
        request = pb.SignatureRequest(keyID=pb.KeyID(ID=keyid), content=content)
        return self._signer.Sign(request, timeout=20)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """What a refused call says."""
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code(), e.value.details() or ""
