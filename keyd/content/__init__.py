"""What bytes say: metadata and certificates in, readable facts out, without any I/O.

The strict reader is ``parse``; everything it refuses is a ContentError with a reason. ``read`` only
names the role, never raises, and takes untidy bytes as well. ``examine`` does both in one pass.
"""

from keyd.content.canonical import MAX_PAYLOAD_BYTES
from keyd.content.metadata import read
from keyd.content.reader import Content, Reading, examine, parse, parse_document

__all__ = ["MAX_PAYLOAD_BYTES", "Content", "Reading", "examine", "parse", "parse_document", "read"]
