"""The audit log: entries, their Merkle tree, signed checkpoints, proofs and export.

``entry``, ``merkle``, ``note``, ``checkpoint`` and ``export`` are pure and need only the base
install, so that anybody can verify a log without a daemon.
"""
