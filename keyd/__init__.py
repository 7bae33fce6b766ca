"""keyd: a signing daemon that keeps TUF and content-trust keys on PKCS#11 tokens."""

__version__ = "0.1.0"
