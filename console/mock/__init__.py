"""A simulated pipeline that computes nothing, for demonstrations and tests."""
