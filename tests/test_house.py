"""The house rules that only a fresh process can check: what is imported, what is installed, what shadows what."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "pipeline", "workers")
TORCH_FREE_WORKERS = ("params", "errors", "records", "codec", "geometry", "storage", "download", "weights", "actor")
JOB = """
name: two
source: {uri: photographs}
output: run
model: {name: vgg19}
deepdream:
  stages: [{layers: [relu4_3]}]
"""
REPORT_AT_EXIT = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted({"torch", "ray"} & set(sys.modules)), file=sys.stderr))
"""
RUN_THE_COMMAND = REPORT_AT_EXIT + "from jobs.cli import main; sys.argv[0] = 'pixgrad'; sys.exit(main())"


def run(*command: str | Path, cwd: Path, alone: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; `alone`: with no module path but the interpreter's own."""
    environment = {name: value for name, value in os.environ.items() if not (alone and name == "PYTHONPATH")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def heavy_modules(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Which of torch and Ray a process that ran REPORT_AT_EXIT had loaded when it ended."""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("loaded:")]
    return line.split()[1:]


# --- what is imported


@pytest.mark.parametrize(
    "command", [["--help"], ["status", "run"], ["verify", "run"], ["report", "run"]], ids=lambda command: command[0]
)
def test_a_command_that_computes_nothing_loads_neither_torch_nor_ray(command: list[str], tmp_path: Path) -> None:
    result = run(sys.executable, "-P", "-c", RUN_THE_COMMAND, *command, cwd=tmp_path)
    assert heavy_modules(result) == []
    assert result.returncode != 1 and "Traceback" not in result.stderr


def test_plan_loads_neither_torch_nor_ray(photographs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    for name in ("chelsea", "coffee"):
        shutil.copy(photographs[name], tmp_path / "photographs")
    (tmp_path / "job.yaml").write_text(JOB)
    result = run(sys.executable, "-P", "-c", RUN_THE_COMMAND, "plan", "job.yaml", cwd=tmp_path)
    assert heavy_modules(result) == []
    assert result.returncode == 0, result.stderr


def test_what_the_driver_imports_is_torch_free(tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("jobs", "pipeline")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    names += [f"workers.{name}" for name in TORCH_FREE_WORKERS]
    result = run(sys.executable, "-P", "-c", f"{REPORT_AT_EXIT}\nimport {', '.join(names)}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "torch" not in heavy_modules(result)


# --- what is installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    result = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert result.returncode == 0, result.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment that has the wheel of its own and borrows this environment's dependencies.

    Python follows no .pth file of a borrowed folder, so an editable install of the repository stays behind.
    """
    home = tmp_path_factory.mktemp("environment")
    assert run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home).returncode == 0
    python = home / "bin" / "python"
    result = run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=home,
        alone=True,
    )
    assert result.returncode == 0, result.stderr
    [site_packages] = home.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.startswith("pixgrad-")}
    assert names - metadata == sources | {"pixgrad.py"}
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_wheel_works_in_a_new_environment(installed: Path, tmp_path: Path) -> None:
    assert "verify" in run(installed / "pixgrad", "--help", cwd=tmp_path, alone=True).stdout
    schema = run(installed / "pixgrad", "schema", cwd=tmp_path, alone=True)
    assert schema.returncode == 0, schema.stderr
    assert {"deepdream", "style", "attribution"} <= set(json.loads(schema.stdout)["properties"])


def test_the_new_environment_imports_its_own_copy(installed: Path, tmp_path: Path) -> None:
    code = "import sys, jobs, pipeline, workers, pixgrad\n"
    code += (
        "print(pixgrad.__version__, 'torch' in sys.modules, *(m.__file__ for m in (jobs, pipeline, workers, pixgrad)))"
    )
    result = run(installed / "python", "-P", "-c", code, cwd=tmp_path, alone=True)
    assert result.returncode == 0, result.stderr
    release, torch_loaded, *paths = result.stdout.split()
    assert release == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert torch_loaded == "False"
    assert all(Path(path).is_relative_to(installed.parent) for path in paths)


# --- what shadows what


def test_a_strangers_modules_shadow_nothing(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in ("pipeline.py", "workers.py", "pixgrad.py", "jobs/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('a stranger answered')")
    strange = run(installed / "python", "-c", "import pipeline", cwd=tmp_path, alone=True)
    assert "a stranger answered" in strange.stderr
    ours = run(installed / "pixgrad", "--help", cwd=tmp_path, alone=True)
    assert ours.returncode == 0 and "verify" in ours.stdout, ours.stderr


# --- what is pinned


def test_the_direct_dependencies_are_pinned_at_the_versions_under_test() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {canonicalize_name(Requirement(requirement).name) for requirement in requirements} - {"pixgrad"}
    assert {f"{name}=={version(name).split('+')[0]}" for name in names} <= pinned
