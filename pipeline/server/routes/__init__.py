"""The routes and their handlers."""
