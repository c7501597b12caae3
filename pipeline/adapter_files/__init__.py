"""Reads and checks an adapter's files, which are untrusted."""
