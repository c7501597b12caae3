"""The process that decides about requests and adapters, and its log of decisions."""
