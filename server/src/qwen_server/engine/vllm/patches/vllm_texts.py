"""The texts that the server matches in vLLM's messages and log lines. They are not an interface.

This module has no setting. If a later vLLM words a text differently, it does not match. Then a
client's error lacks the name of the parameter, or the cause of death is the exception's own text.
`make vllm-contract` compares these texts with the sources of a release.
"""

from __future__ import annotations

import re
from typing import Final

# --- refusals of requests ---

# vLLM's names for the client's parameters `messages` and `prompt`.
PROMPT_PARAMETERS: Final = ("input_text", "input_tokens", "prompt_token_ids", "prompt")
TOO_LONG: Final = "maximum context length"
DISCONNECTED: Final = "Client disconnected"
# vLLM omits the parameter in some refusals. An empty name stands for the prompt.
PARAMETERS: Final = (
    (re.compile(r"^n must be"), "n"),
    (re.compile(r"out of vocabulary"), ""),
    (re.compile(r"[Cc]hat template"), "chat_template"),
    (re.compile(r"multimodal"), ""),
    (re.compile(r"tool[_ ]choice"), "tool_choice"),
    (re.compile(r"[Gg]rammar|json_schema|structured.output|^Choice '"), "response_format"),
    (re.compile(r"continue_final_message"), "continue_final_message"),
    (re.compile(r"prompt cannot be empty"), ""),
    (re.compile(r"^Image dimensions|load image|^image: |data URL"), ""),
    (re.compile(r"\bdimensions\b"), "dimensions"),
)
# Other refusals begin with the name of the parameter: `min_tokens must be less than...`.
LEADING_NAME: Final = re.compile(r"([a-z]+(?:_[a-z]+)+) ")
# What a refusal of a part of the prompt is about. vLLM does not name its place.
MEDIA: Final = re.compile(r"multimodal|[Ii]mage|audio|video|_embeds|data URL")
NO_MEDIA: Final = "is not a multimodal model"
ENCRYPTED: Final = "Encrypted content is not supported"
UNSUPPORTED_TYPE: Final = re.compile(r"Unsupported (?:chat content part|input item) type: '?([\w.-]+)")
# vLLM's names for a part of the prompt.
PART_PARAMETERS: Final = (
    "type",
    "image",
    "video",
    "audio",
    "image_url",
    "image_embeds",
    "audio_embeds",
    "video_embeds",
    "prompt_embeds",
)
# Where Pillow would name the file that it cannot read.
MEMORY_FILE: Final = re.compile(r" <_io\.BytesIO object[^>]*>")
TOO_MANY_PIXELS: Final = "Image dimensions"
NOT_DECODED: Final = "Failed to load image: "
# What vLLM says of an image that it cannot fetch, if another try would change nothing.
NOT_FETCHED: Final = re.compile(r"^Failed to fetch media from URL: (.*)")
# The first is vLLM's text, the second one urllib3's.
INVALID_URL: Final = re.compile(r"^Failed to fetch media from URL: Invalid URL|^Failed to parse: ")
FETCHED_TOO_MUCH: Final = re.compile(r"exceeds VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB=(\d+)")
# What vLLM's input processor says of images that the model's own processor refuses.
PROCESSOR_FAILED: Final = re.compile(r"^Failed to apply \w+ on data=")
IMAGE_SIZE: Final = re.compile(r"<PIL\.[\w.]+ image mode=\w+ size=(\d+)x(\d+)")
TRAILING_DETAILS: Final = re.compile(r" \((parameter|value)=.*\)$")

# --- events of streams ---

ERROR_EVENT: Final = 'data: {"error"'
MESSAGES_ERROR_EVENT: Final = "event: error"

# --- causes of death ---

# The texts of a process when another process knows the real cause.
HEARSAY: Final = re.compile(
    r"root cause|Executor failed|EngineDeadError|EngineCore encountered|Engine core initialization failed|"
    r"initialization failed due to an exception in a background process|cancelled|WorkerProc hit an exception",
    re.IGNORECASE,
)
WORKER_ENDED: Final = re.compile(r"Worker proc (\S+) died unexpectedly \(exit code: (-?\d+|None)\)")
CORE_ENDED: Final = re.compile(r"Failed core proc\(s\): \{'(\w+)': (-?\d+)\}")
# vLLM says this even if the hub could not be asked.
NO_CONFIG: Final = re.compile(r"Invalid repository ID or local directory")
# CUDA offers the engine no GPU, although NVML or the driver may know some.
NO_DEVICE: Final = re.compile(r"local rank \S+ is out of bounds for 0 devices")

# What surrounds the cause for which an adapter was refused.
CALL_FAILED = "Call to add_lora method failed: "
WORKER_FAILED = re.compile(r"Worker failed with error '(.*)', please check the stack trace", re.DOTALL)
