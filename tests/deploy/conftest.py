"""Two replicas of a tiny model, and nginx over them."""

import pytest

from cli.conftest import make_tiny_llama
from server.running import Server

from .proxy import Proxy, require

MODEL = "tiny"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / MODEL, max_position_embeddings=1 << 17)


@pytest.fixture
def start_replica(tiny_folder, tmp_path):
    """Starts a replica that takes two requests at a time; it ends with the test."""
    running = []

    def start(*arguments):
        server = Server(
            tmp_path / f"log-{len(running)}",
            *(tiny_folder, "--served-model-name", MODEL, "--max-num-seqs", "2", "--kv-cache-memory-bytes", "100M"),
            *arguments,
            environment={"OCTAVO_NUM_THREADS": "1"},
        )
        running.append(server)
        return server

    yield start
    for server in running:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def replicas(start_replica):
    require("nginx")
    return [server.wait() for server in (start_replica(), start_replica())]


@pytest.fixture
def proxy(replicas, tmp_path):
    proxy = Proxy(tmp_path / "nginx", [server.port for server in replicas])
    try:
        yield proxy
    finally:
        proxy.stop()
