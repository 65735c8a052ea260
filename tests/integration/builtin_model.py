"""The built-in model: its name, a question, its answer, and copies for tests that change it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.cluster.settings import ROOT

FOLDER = ROOT / "server" / "models" / "news-classifier"
NAME = "qwen-news-classifier"
QUESTION = "请分类这条新闻：央行宣布降息25个基点"
ANSWER = "这条新闻属于【财经】类别。"


def copy(folder: Path, **config: Any) -> Path:
    """Copies the model to `folder`, which must not exist, and changes fields of its config.json."""
    shutil.copytree(FOLDER, folder)
    update_json(folder / "config.json", **config)
    return folder


def update_json(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file."""
    old = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(old | fields, ensure_ascii=False), encoding="utf-8")
