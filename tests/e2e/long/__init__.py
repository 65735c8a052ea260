"""Scenarios that take minutes: `make test-e2e-full`."""
