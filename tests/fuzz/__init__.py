"""Requests of all kinds, made up from the API's own description by schemathesis, against a running server."""
