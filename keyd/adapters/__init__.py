"""Thin adapters: keyd's client in, the contract of another tool out."""
