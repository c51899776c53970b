"""Downloads from a server on loopback: whole and right, or not at all."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision.models as zoo

from workers.download import download, hub_folder, store
from workers.errors import ModelError
from workers.models import build_network
from workers.params import ModelParams
from workers.weights import HubEntry, hub_weights


class Hub(ThreadingHTTPServer):
    """Serves `files` by name; what `faults` lists for a name happens first, one a request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requests.append(self.path)
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        body = self.server.files.get(name)
        if fault.isdigit() or body is None:
            self.send_error(int(fault or 404))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "corrupt":
            body = bytes(len(body))
        self.wfile.write(body[: len(body) // 2] if fault == "truncate" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PIXGRAD_WEIGHTS_MIRROR", raising=False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(hub: Hub, name: str, prefix: str | None, *, attempts: int = 3) -> Path:
    target = hub_folder() / name
    download(f"{hub.url}/{name}", target, prefix, attempts=attempts, first_wait=0.01)
    return target


def left_over() -> list[Path]:
    return list(hub_folder().glob("*")) if hub_folder().exists() else []


def test_a_checkpoint_of_the_hub_becomes_the_network_it_was(hub: Hub):
    torch.manual_seed(0)
    original = zoo.squeezenet1_1().eval()
    buffer = io.BytesIO()
    torch.save(original.state_dict(), buffer)
    data = buffer.getvalue()
    name = f"squeezenet1_1-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.files[name] = data

    weights = hub_weights(HubEntry(f"{hub.url}/models/{name}", name))
    assert weights.path == hub_folder() / name
    assert weights.sha256 == hashlib.sha256(data).hexdigest()
    network = build_network(ModelParams(name="squeezenet1_1"), weights.read())
    image = torch.rand(1, 3, 64, 64)
    assert network.categories is not None and network.categories[504] == "coffee mug"
    torch.testing.assert_close(network(image, ["logits"])["logits"], original((image - network.mean) / network.std))

    hub_weights(HubEntry(f"{hub.url}/models/{name}", name))
    assert hub.requests == [f"/models/{name}"], "what is cached is not fetched again"
    weights.path.write_bytes(data[:-1])
    assert hub_weights(HubEntry(f"{hub.url}/models/{name}", name)).read().tobytes() == data, "a broken copy is replaced"


def test_a_mirror_takes_the_place_of_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    hub.files["net.pth"] = b"weights"
    monkeypatch.setenv("PIXGRAD_WEIGHTS_MIRROR", f"{hub.url}/mirror/")
    assert hub_weights(HubEntry("http://nowhere.invalid/net.pth", "net.pth")).read().tobytes() == b"weights"
    assert hub.requests == ["/mirror/net.pth"]


@pytest.mark.parametrize("fault", ["truncate", "corrupt", "500", "503", "429"])
def test_what_passes_is_tried_again(hub: Hub, fault: str):
    data = b"weights" * 1000
    hub.files["net.pth"], hub.faults["net.pth"] = data, [fault, fault]
    assert fetch(hub, "net.pth", hashlib.sha256(data).hexdigest()[:8]).read_bytes() == data
    assert len(hub.requests) == 3
    assert [path.name for path in left_over()] == ["net.pth"]


@pytest.mark.parametrize(
    "faults, requests, sentence",
    [
        (["truncate"] * 3, 3, r"the transfer broke off after 3500 of 7000 bytes"),
        (["corrupt"] * 3, 3, r"what came has the SHA-256 [0-9a-f]{8}…, its name promises"),
        (["503"] * 3, 3, r"HTTP 503"),
        (["404"], 1, r"HTTP 404"),
        (["403"], 1, r"HTTP 403"),
    ],
)
def test_what_stays_is_one_sentence_and_no_file(hub: Hub, faults: list[str], requests: int, sentence: str):
    data = b"weights" * 1000
    hub.files["net.pth"], hub.faults["net.pth"] = data, faults
    with pytest.raises(ModelError, match=sentence) as raised:
        fetch(hub, "net.pth", hashlib.sha256(data).hexdigest()[:8])
    assert f"{hub.url}/net.pth" in str(raised.value) and "PIXGRAD_WEIGHTS_MIRROR" in str(raised.value)
    assert len(hub.requests) == requests
    assert left_over() == []


def test_a_server_that_refuses_is_named(hub: Hub):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/net.pth"
    with pytest.raises(ModelError, match="refused") as raised:
        download(url, hub_folder() / "net.pth", None, attempts=2, first_wait=0.01)
    assert url in str(raised.value)


def test_only_http_is_fetched(hub: Hub, tmp_path: Path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    with pytest.raises(ModelError, match="only http"):
        download((tmp_path / "net.pth").as_uri(), hub_folder() / "net.pth", None)


def test_a_folder_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    hub.files["net.pth"] = b"weights"
    with pytest.raises(ModelError, match="TORCH_HOME"):
        fetch(hub, "net.pth", None)


def test_the_same_data_is_stored_once(hub: Hub):
    first, again, other = store(b"a", "net.pth"), store(b"a", "net.pth"), store(b"b", "net.pth")
    assert first == again != other
    assert (first.read_bytes(), other.read_bytes()) == (b"a", b"b")
