"""An image that holds one file, made without docker, in the layout that skopeo calls ``dir:``."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path


def write(folder: Path, says: str) -> None:
    """Write it into a folder; its only file is /says."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        entry = tarfile.TarInfo("says")
        entry.size = len(says.encode())
        tar.addfile(entry, io.BytesIO(says.encode()))
    layer = {"type": "layers", "diff_ids": [_digest(tarred.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": layer}).encode()
    packed = gzip.compress(tarred.getvalue(), mtime=0)
    blobs = []
    for kind, body in (("config.v1+json", config), ("layer.v1.tar+gzip", packed)):
        (folder / _digest(body).removeprefix("sha256:")).write_bytes(body)
        media_type = f"application/vnd.oci.image.{kind}"
        blobs.append({"mediaType": media_type, "size": len(body), "digest": _digest(body)})
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blobs[0],
        "layers": blobs[1:],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
