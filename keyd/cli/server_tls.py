"""keyd-server tls: a small CA for those without a PKI. Needs no configuration and no daemon."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from keyd.cli.server_speech import note, say


@click.group()
def tls() -> None:
    """Certificates, for those without a PKI."""


@tls.command("sign")
@click.argument("request", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--ca-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/keyd-server/tls/ca"),
    show_default=True,
    help="The CA's folder; made on first use.",
)
@click.option("--server", is_flag=True, help="Sign for a daemon instead of a client.")
@click.option("--days", type=click.IntRange(min=1), help="Default: 90, for servers 397.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the certificate to a new file instead of standard output.",
)
def tls_sign(
    request: Path, ca_dir: Path, server: bool, days: int | None, output: Path | None
) -> None:
    """Sign a certificate request that `keydctl tls request` or openssl made."""
    from keyd.pki.authority import CLIENT_DAYS, SERVER_DAYS, Authority
    from keyd.pki.files import write_new_file
    from keyd.pki.request import MAX_REQUEST_BYTES, inspect_request

    now = datetime.now(UTC)
    with request.open("rb") as file:
        pem = file.read(MAX_REQUEST_BYTES + 1)
    info = inspect_request(pem)
    authority = Authority.open(ca_dir, now)
    if server:
        certificate = authority.sign_server(pem, now, days or SERVER_DAYS)
    else:
        certificate = authority.sign_client(pem, now, days or CLIENT_DAYS)
    note(f"signed for {', '.join(info.names)} ({info.key}) with the CA in {ca_dir}")
    if output is None:
        click.echo(certificate.decode(), nl=False)
    else:
        write_new_file(output, certificate, mode=0o644)
        say(f"{output}: certificate; {ca_dir / 'ca.pem'} is the CA the other side has to know")
