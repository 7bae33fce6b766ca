"""keydctl tls."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli.settings import Group, Settings


@click.group(cls=Group)
def tls() -> None:
    """Get a client certificate."""


@tls.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "-o",
    "--output",
    "stem",
    type=click.Path(path_type=Path),
    default=Path("keyd-client"),
    show_default=True,
    help="Where to write: OUTPUT.key and OUTPUT.csr.",
)
@click.pass_obj
def request(settings: Settings, names: tuple[str, ...], stem: Path) -> None:
    """Make a key and a certificate request for typed names.

    NAME is uri:..., email:... or dns:...; the daemon takes the single URI as the principal, else
    the e-mail address, else the DNS name. The key (ECDSA P-256, mode 0600) never leaves this
    machine.
    """
    from keyd.pki import new_request, write_new_file

    made = new_request(names)
    key, csr = (stem.with_name(f"{stem.name}.{kind}") for kind in ("key", "csr"))
    write_new_file(key, made.key_pem, mode=0o600)
    write_new_file(csr, made.csr_pem, mode=0o644)
    text = (
        f"wrote {key} and {csr}\n"
        f"next: the daemon's operator signs the request: keyd-server tls sign {csr.name}\n"
        "then: name ca, cert and key in a profile of client.toml, or in KEYD_CA, KEYD_CERT, "
        "KEYD_KEY"
    )
    settings.answer({"key": str(key), "csr": str(csr), "names": list(names)}, text)
