"""The sections of keyd.toml that say where the daemon listens, for whom, and what it proves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keyd.config.values import (
    Address,
    ConfigPath,
    GroupName,
    Section,
    SocketMode,
    SocketPrincipal,
    split_address,
)
from keyd.server.listeners import TcpListener, UnixListener
from keyd.server.tls import TlsFiles


class UnixListenerSection(Section):
    """A unix socket: whoever can open it is its principal, since the kernel's word on the peer
    does not reach gRPC."""

    kind: Literal["unix"] = Field(description="`unix`.")
    path: ConfigPath = Field(description="Where the socket appears; at most 107 bytes.")
    principal: SocketPrincipal = Field(
        description="`socket:NAME`, as policy.toml and the log call whoever comes in here. Each "
        "socket has its own."
    )
    group: GroupName | None = Field(
        None,
        description="Group that may open the socket; the service's user must be in it. Its "
        "members are logged as this socket, never as a person.",
    )
    mode: SocketMode = Field(
        0o600,
        description='Permissions: `"0600"`, `"0660"` or `"0666"` (everybody on this machine).',
    )

    def settings(self) -> UnixListener:
        """As the server room takes it."""
        return UnixListener(self.path, self.principal, self.mode, self.group)


class TcpListenerSection(Section):
    """A TCP port with mutual TLS 1.2 or 1.3. The principal is the client certificate's single URI,
    else e-mail, else DNS name."""

    kind: Literal["tcp"] = Field(description="`tcp`.")
    address: Address = Field(description="IP address and port: `0.0.0.0:7443`, `[::]:7443`.")
    cert: ConfigPath = Field(description="Server certificate, PEM, with its intermediates.")
    key: ConfigPath = Field(
        description="Its private key, PEM, unencrypted, readable by the service's group at most. "
        "Certificate, key, CAs and deny-list are read again when they change."
    )
    client_ca: ConfigPath = Field(description="CAs of the clients' certificates, PEM.")
    deny_list: ConfigPath | None = Field(
        None,
        description="Certificates that are refused from the next call on: a line `serial:HEX` or "
        "`sha256:HEX` (of certificate or public key) each.",
    )

    def settings(self) -> TcpListener:
        """As the server room takes it."""
        host, port = split_address(self.address)
        return TcpListener(
            host, port, TlsFiles(self.cert, self.key, self.client_ca, self.deny_list)
        )


class NotaryListenerSection(TcpListenerSection):
    """A TCP port with mutual TLS for notary-server, in the place of notary-signer; nothing else of
    keyd is offered there. docs/docker-content-trust.md shows both sides."""

    kind: Literal["notary"] = Field(description="`notary`.")  # type: ignore[assignment]
    deadline_s: float = Field(
        30.0,
        ge=1,
        le=600,
        description="Seconds that one call may take: notary-server itself waits for ever.",
    )


ListenerSection = Annotated[
    UnixListenerSection | TcpListenerSection | NotaryListenerSection, Field(discriminator="kind")
]
