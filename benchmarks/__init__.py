"""Measurements of keyd next to raw PKCS#11: ``make bench``."""
