"""One server for all tests of this folder: default limits, a model with tools and thinking.

A grammar gets less time than by default, because the tests wait for it. The server lives for the
session: xdist mixes these modules with others, and each return to a package would start it again.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.integration.builtin_model import NAME
from tests.integration.clients import tool_model
from tests.integration.server_process import real_server

server = real_server(f"--served-model-name={NAME}", "--grammar-timeout=3", model="model_folder", scope="session")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool_model.build(tmp_path_factory.mktemp("model") / "news")


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_folder / "tokenizer.json"))


@pytest.fixture
def no_blanks(tokenizer: Tokenizer) -> dict[str, int]:
    """A bias against blanks: a model that cannot write JSON would fill its answer with them."""
    return {str(tokenizer.encode(blank).ids[0]): -100 for blank in (" ", "\n", "\t", "\r")}
