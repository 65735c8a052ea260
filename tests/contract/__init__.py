"""Lists what the server relies on in vLLM, and what a given release of vLLM changes of it."""
