"""What the server relies on in vLLM, and what of it a given release of vLLM has changed."""
