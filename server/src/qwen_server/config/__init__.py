"""Configuration: what can be set, and how flags and environment variables become settings.

A module belongs here if it declares, parses or checks a setting: the settings and their types, the
command line, the flags that are passed on to vLLM, and the switches of the patches.

It knows nothing about the rest of the server, which every other package except `engine.base` may
build on. It never imports vLLM.
"""
