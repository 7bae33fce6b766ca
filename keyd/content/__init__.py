"""What a payload says: bytes in, a Statement out, without any I/O."""

from keyd.content.metadata import MAX_PAYLOAD_BYTES, read

__all__ = ["MAX_PAYLOAD_BYTES", "read"]
