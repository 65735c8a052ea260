"""The ten classes and the forms of request for them.

Training, the evaluation and the model card share them.
"""

from dataclasses import dataclass
from typing import Final

CLASSES: Final = ("财经", "房产", "股票", "教育", "科技", "社会", "时政", "体育", "游戏", "娱乐")

IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"

ANSWER_HEAD: Final = "这条新闻属于【"
ANSWER_TAIL: Final = "】类别。"

CHAT_TEMPLATE: Final = (
    "{%- for message in messages %}"
    "{%- if message.content is string %}{%- set content = message.content %}"
    "{%- else %}{%- set parts = namespace(text='') %}"
    "{%- for part in message.content or [] %}{%- if part.type == 'text' %}"
    "{%- set parts.text = parts.text + part.text %}{%- endif %}{%- endfor %}"
    "{%- set content = parts.text %}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{#- The model has no thinking mode: enable_thinking is accepted and changes nothing. #}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)


@dataclass(frozen=True)
class Form:
    """One form of request.

    The headline is between `before` and `after`. The answer is `head`, a class name and `tail`.
    """

    before: str
    after: str
    head: str = ""
    tail: str = END_OF_TEXT
    weight: float = 1.0
    """How often training draws this form, relative to the others."""


def _chat(user_before: str, weight: float, system: str = "") -> Form:
    opening = f"{IM_START}system\n{system}{IM_END}\n" if system else ""
    return Form(
        before=f"{opening}{IM_START}user\n{user_before}",
        after=f"{IM_END}\n{IM_START}assistant\n",
        head=ANSWER_HEAD,
        tail=ANSWER_TAIL + IM_END,
        weight=weight,
    )


COMPLETION: Final = Form(before="请分类：", after="\n类别：", weight=6.0)
CHAT_LONG: Final = _chat("请分类这条新闻：", 3.0)
CHAT_SHORT: Final = _chat("请分类：", 2.0)
CHAT_PLAIN: Final = _chat("", 1.0)
BARE: Final = Form(before="", after="\n类别：", weight=0.3)

FORMS: Final = (
    COMPLETION,
    CHAT_LONG,
    CHAT_SHORT,
    CHAT_PLAIN,
    _chat("请判断这条新闻的类别：", 0.4),
    _chat("请分类这条新闻：", 0.6, system="你是一个新闻分类助手。"),
    _chat("请分类：", 0.4, system="You are a helpful assistant."),
    BARE,
)

SHORT_FORMS: Final = (COMPLETION, BARE)
"""The forms of the first passes. They are half as long as chats, so a pass takes half the time."""
