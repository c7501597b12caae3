"""Fetches models and adapters, and caches model directories."""
