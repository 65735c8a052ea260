"""Settings that have no effect, because others are missing or because nobody reads them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from qwen_server.config.settings import ENV_PREFIX, Settings, flag
from qwen_server.config.termination_log import trouble_with

# What Kubernetes sets in every container of a namespace that has a Service `qwen` or `qwen-...`.
_OF_SERVICES: Final = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_OF_KEYS: Final = ("protect_metrics", "protect_docs")
_OF_TENANTS: Final = ("tenant_weights", "tenant_reserve")
_OF_ADAPTERS: Final = ("max_loras", "max_lora_rank", "max_cpu_loras", "lora_dirs", "adapters_file")
_OF_IMAGES: Final = ("max_images", "max_image_pixels", "image_domains")
_OF_GENERATION: Final = (
    "tool_call_parser",
    "reasoning_parser",
    "enable_prompt_tokens_details",
    "default_max_tokens",
    "max_tokens_limit",
    "on_exceed",
    "default_temperature",
    "min_temperature",
    "max_temperature",
    "max_choices",
    "max_prompts",
    "max_stops",
    "max_sequences",
    "max_grammar_size",
    "max_grammar_values",
    "max_grammar_depth",
    "max_grammar_repeats",
    "max_grammar_branches",
    "grammar_timeout",
)


def useless_settings(settings: Settings, environment: Iterable[str]) -> Iterator[str]:
    """Yields a sentence for each setting that has no effect, such as a misspelled variable.

    `environment` are the names of all variables.
    """
    yield from _unknown_variables(environment)
    without = "has no effect without"
    if settings.api_keys is None and settings.api_keys_dir is None:
        yield from _each(settings, _OF_KEYS, f"{without} API keys: set --api-keys-dir or QWEN_API_KEYS")
    if settings.api_keys_dir is None:
        yield from _each(settings, _OF_TENANTS, f"{without} --api-keys-dir, whose files are the tenants")
    if not settings.lora:
        yield from _each(settings, _OF_ADAPTERS, f"{without} --enable-lora or --lora-modules")
    elif settings.admin_api_keys_dir is None:
        yield from _each(settings, ("lora_dirs",), f"{without} --admin-api-keys-dir: nobody may load adapters")
    yield from _of_other_tasks(settings)
    if (trouble := trouble_with(settings.termination_log)) is not None:
        yield trouble


def useless_in_engine(settings: Settings, *, device: str, reads_images: bool) -> Iterator[str]:
    """The same for what only the engine tells: its device (`cpu` or `cuda`), and its model."""
    here = ("gpu_memory_utilization", "max_loras") if device == "cpu" else ("kv_cache_gib",)
    yield from _each(settings, here, f"has no effect on the device {device}")
    if not reads_images:
        yield from _each(settings, _OF_IMAGES, "has no effect: the model does not read images")


def _of_other_tasks(settings: Settings) -> Iterator[str]:
    task = settings.task
    if task == "generate":
        yield from _each(settings, ("max_inputs",), "has no effect with --task=generate, which takes no texts to embed")
        return
    yield from _each(settings, _OF_GENERATION, f"has no effect with --task={task}, which generates no text")
    if settings.chat_template is not None:
        yield f"--chat-template has an effect only on /tokenize with --task={task}, which takes no chats"


def _each(settings: Settings, names: Iterable[str], why: str) -> Iterator[str]:
    """A sentence for each of these settings that differs from its default."""
    for name in names:
        if getattr(settings, name) != Settings.model_fields[name].default:
            yield f"{flag(name)} {why}"


def _unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields if name != "pass_through"}
    for name in sorted(environment):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known and not _OF_SERVICES.fullmatch(name):
            close = difflib.get_close_matches(name.upper(), sorted(known), 1, cutoff=0.85)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"the environment variable {name} is not a setting and has no effect{hint}"
