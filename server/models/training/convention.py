"""Self-written headlines for a case where the specification and the news data disagree.

The data puts plain announcements of central banks mostly under 股票, like the market news of the
day. The specification classifies "央行宣布降息25个基点" as 财经. Similar sentences, but never this
one, teach the convention.
"""

from itertools import product

from training.data import Example
from training.prompts import CLASSES

BANKS = ("央行", "中国央行", "人民银行", "中国人民银行", "美联储", "欧洲央行", "日本央行", "英国央行")
VERBS = ("宣布", "决定", "今日", "再次", "意外", "如期")
MOVES = ("降息", "加息", "下调存款利率", "上调贷款利率", "下调基准利率", "上调存款准备金率", "降准")
SIZES = ("", "25个基点", "50个基点", "0.25个百分点", "0.5个百分点")

SPECIFIED = "央行宣布降息25个基点"


def convention() -> list[Example]:
    """Every seventh of the possible announcements, all labeled 财经."""
    label = CLASSES.index("财经")
    sentences = ("".join(parts) for parts in product(BANKS, VERBS, MOVES, SIZES))
    return [Example(text, label) for text in list(sentences)[::7] if text != SPECIFIED]
