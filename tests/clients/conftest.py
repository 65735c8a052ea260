"""One server for all client programs: a model with tools and thoughts, keys, small limits.

`make test-full` runs these tests in the environment of requirements/clients.txt, where vLLM is not
installed: the server runs in the development environment.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.clients import coding_agents
from tests.clients.gateway import Gateway, running
from tests.clients.keys import KEYS, new_key
from tests.clients.overload import QUEUE, RATE, RUNNING
from tests.clients.questions import NAME
from tests.cluster.settings import Settings
from tests.integration.clients import tool_model
from tests.integration.server_process import ServerProcess, ready_server

# LiteLLM would look for prices on the internet when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool_model.build(tmp_path_factory.mktemp("model") / "news")


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def no_blanks(tokenizer: Tokenizer) -> dict[str, int]:
    """A bias against blanks: a model that cannot write JSON would fill its answer with them."""
    return {str(tokenizer.encode(blank).ids[0]): -100 for blank in (" ", "\n", "\t", "\r")}


@pytest.fixture(scope="session")
def keys_flag(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text("\n".join(KEYS))
    return f"--api-keys-dir={folder}"


@pytest.fixture(scope="session", autouse=True)
def _development_environment() -> None:
    """The servers run in it, and the clients in their own."""
    ServerProcess.python = str(Settings.from_env().venv / "bin" / "python")


@pytest.fixture(scope="session")
def server(model_folder: Path, keys_flag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = (f"--model={model_folder}", f"--served-model-name={NAME}", keys_flag)
    limits = (f"--max-concurrent-requests={RUNNING}", f"--max-queue-size={QUEUE}", f"--rate-limit={RATE}/second")
    with ready_server(tmp_path_factory.mktemp("server"), *flags, *limits) as process:
        yield process


@pytest.fixture(scope="session")
def agents_server(keys_flag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as the pages for coding agents set it up."""
    folder = tmp_path_factory.mktemp("agents")
    model = coding_agents.build_model(folder / "model")
    with ready_server(folder, f"--model={model}", keys_flag, *coding_agents.FLAGS) as process:
        yield process


@pytest.fixture
def gateway(agents_server: ServerProcess) -> Iterator[Gateway]:
    with running(agents_server.url) as gateway:
        yield gateway


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty repository, as agents expect it."""
    folder = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


@pytest.fixture
def key() -> str:
    return new_key()
