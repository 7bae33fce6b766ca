"""keydctl tuf sign BUNDLE: one root holder's part, on that holder's own daemon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from keyd.adapters.tufrepo import bundletext
from keyd.adapters.tufrepo.bundle import Request, Response
from keyd.adapters.tufrepo.ceremony_cosign import Cosigner
from keyd.adapters.tufrepo.ceremony_evidence import check_request
from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.tufkeys import Session
from keyd.content.change import lines as change_lines
from keyd.content.describe import describe
from keyd.content.diff import compare
from keyd.content.refusal import printable


def sign_bundle(
    settings: Settings,
    file: Path,
    keys: Sequence[str],
    *,
    trust_root: Path | None,
    target: Path | None,
    reason: str,
    yes: bool,
) -> int:
    """Verify a bundle, show it, ask, sign, and write the response.

    Raises:
        KeydError: the bundle or the daemon says no; nothing was signed.
        click.UsageError: no key was named.
    """
    if not keys:
        raise click.UsageError("a bundle is signed with --key KEY, a key of your daemon")
    now = datetime.now(UTC)
    request = bundletext.read_request(file.read_bytes())
    evidence = check_request(request, now)
    client = Session(settings).client()
    trusted = trust_root.read_bytes() if trust_root else b""
    cosigner = Cosigner(client, request, evidence, trusted)
    held = [client.get_key(name) for name in keys]
    # Everything that can be refused is refused before anybody is asked.
    vouched = {cosigner.check_known(key) for key in held}
    for key in held:
        cosigner.versions(key)
    shown = [
        *claims(request),
        "",
        f"proven: roots {request.history[0].version} to {request.version - 1} vouch for each "
        f"other; {', '.join(sorted(vouched))}",
        f"draft sha256 {request.draft_sha256}",
        *describe(evidence.draft),
        "",
        f"changes from root {request.version - 1}:",
        *change_lines(compare(evidence.before, evidence.draft)),
    ]
    click.echo(output.printable("\n".join(shown)), err=True)
    settings.confirm(
        f"Sign root {request.version} of {printable(request.repository)}?", request.repository, yes
    )
    notes: list[str] = []
    responses = []
    for key in held:
        response, said = cosigner.sign(key, reason=reason, now=now)
        responses.append(response)
        notes += said
    answer = merged(responses)
    path = target or file.with_name(f"{file.stem}.response")
    path.write_bytes(bundletext.write(answer))
    for note in dict.fromkeys(notes):
        output.warn(note)
    settings.answer(response_json(answer, path), lambda: response_text(answer, path))
    return Exit.DONE


def claims(request: Request) -> list[str]:
    """What the bundle says and nobody here can check, marked as that."""
    return [
        f"claimed: repository {printable(request.repository)}, "
        f"ceremony {printable(request.ceremony)}",
        f"claimed: asked for by {printable(request.asks) or 'nobody named'}, reason: "
        f"{printable(request.reason) or 'none given'}",
        f"claimed: made {output.when(request.created)}, valid until {output.when(request.expires)}",
    ]


def merged(responses: Sequence[Response]) -> Response:
    """One response with the signatures of all; they differ in nothing else."""
    signatures = tuple(one for response in responses for one in response.signatures)
    return replace(responses[0], signatures=signatures)


def response_json(response: Response, path: Path) -> dict[str, object]:
    """A response that was written."""
    return {
        "file": str(path),
        "id": response.id,
        "repository": response.repository,
        "version": response.version,
        "draft_sha256": response.draft_sha256,
        "signatures": [
            {
                "keyid": one.keyid,
                "key_version": one.key_version,
                "log_index": one.receipt.index if one.receipt else None,
            }
            for one in response.signatures
        ],
    }


def response_text(response: Response, path: Path) -> str:
    """A response that was written, for people."""
    lines = [
        f"signed root {response.version} of {printable(response.repository)} with "
        f"{one.key_version}" + (f", log entry {one.receipt.index}" if one.receipt else "")
        for one in response.signatures
    ]
    return "\n".join(
        [
            *lines,
            f"wrote {path}: give it to whoever sent the bundle, who adds it with",
            "",
            f"  keydctl tuf ceremony import DIR {path.name}",
        ]
    )
