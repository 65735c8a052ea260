"""The paths of the API, one module per group. A route declares its path and calls the handler."""
