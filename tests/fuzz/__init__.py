"""Requests that schemathesis generates from the OpenAPI document, against a running server."""
