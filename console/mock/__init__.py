"""A pipeline that computes nothing, for demonstrations and tests."""
