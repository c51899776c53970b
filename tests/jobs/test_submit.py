"""Sending a job to a cluster: what travels, what is refused, and how each way to end is told."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobs import parcel, submit
from jobs.parcel import ParcelError, pack
from jobs.spec import load_job
from jobs.submit import Cluster, LostError, SubmitError, _ending, entrypoint
from pipeline.config import JobConfig
from pipeline.driver import DRAIN_SECONDS
from pipeline.pictures import find_pictures
from workers.params import GivenBaseline, ImageParams

JOB = """
source: s3://bucket/photos
output: s3://bucket/run
model: {name: vgg19, weights: weights/vgg.pth}
style: {styles: ["paintings/*.png", "paintings/[1] sea.png", s3://bucket/wave.jpg]}
"""


@pytest.fixture
def job(tmp_path: Path, photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobConfig]:
    for folder in ("weights", "paintings", "parcel"):
        (tmp_path / folder).mkdir()
    (tmp_path / "weights/vgg.pth").write_bytes(b"weights")
    shutil.copy(photographs["chelsea"], tmp_path / "paintings/cat.png")
    shutil.copy(photographs["coffee"], tmp_path / "paintings/[1] sea.png")
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: load_job("job.yaml", overrides)


# --- what travels


def test_the_files_that_a_job_names_travel_and_keep_their_names(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    folder = tmp_path / "parcel"
    pack(job(), folder, shared_paths=False, code=False)
    before = find_pictures(["paintings/*.png"], ImageParams.model_validate({"short_side": 64}))
    shutil.rmtree(tmp_path / "paintings")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sent = load_job(folder / "job.yaml")
        assert sent.style and sent.style.styles[-1] == "s3://bucket/wave.jpg"
        after = find_pictures(sent.style.styles[:-1], ImageParams.model_validate({"short_side": 64}))
    assert [(p.name, p.sha256) for p in after] == [(p.name, p.sha256) for p in before]
    assert (folder / sent.model.weights).read_bytes() == b"weights"
    assert sent.name == "run"


def test_guides_and_classes_travel_too(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat")
    layers = "[relu4_1, {name: relu4_2, guide: 'paintings/[[]1] sea.png'}]"
    stages = f"deepdream={{stages: [{{guide: paintings/cat.png}}, {{layers: {layers}}}]}}"
    text = JOB.split("style:")[0] + "deepdream: {stages: []}"
    (tmp_path / "job.yaml").write_text(text)
    sent = pack(job("model.classes=classes.txt", stages), tmp_path / "parcel", shared_paths=False, code=False)
    assert sent.deepdream and sent.model.classes
    assert (tmp_path / "parcel" / sent.model.classes).read_text() == "cat"
    assert (tmp_path / "parcel" / str(sent.deepdream.stages[0].guide)).name == "cat.png"
    assert sent.deepdream.stages[1].guide is None and sent.deepdream.stages[1].layers
    guides = [layer.guide for layer in sent.deepdream.stages[1].layers]
    assert guides[0] is None and (tmp_path / "parcel" / str(guides[1])).name == "[1] sea.png"


def test_the_images_of_a_baseline_travel_as_one(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    text = (
        JOB.split("style:")[0].replace("vgg19", "vgg16")
        + "attribution: {baseline: [black, {image: 'paintings/*.png'}]}"
    )
    (tmp_path / "job.yaml").write_text(text)
    before = find_pictures(["paintings/*.png"], ImageParams.model_validate({"short_side": 64}))
    sent = pack(job(), tmp_path / "parcel", shared_paths=False, code=False)
    assert sent.attribution and sent.attribution.baselines[0] == "black"
    given = sent.attribution.baselines[1]
    assert isinstance(given, GivenBaseline)
    after = find_pictures([str(tmp_path / "parcel" / given.image)], ImageParams.model_validate({"short_side": 64}))
    assert [picture.sha256 for picture in after] == [picture.sha256 for picture in before] and len(after) == 2


def test_a_shared_disk_needs_no_copies(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    sent = pack(job("source=photos", "output=run"), tmp_path / "parcel", shared_paths=True, code=False)
    assert sent.output == str(tmp_path / "run") and sent.model.weights == str(tmp_path / "weights/vgg.pth")
    assert [path.name for path in (tmp_path / "parcel").iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("key", ["source.uri", "output"])
def test_a_local_place_is_refused_where_the_nodes_do_not_see_it(
    job: Callable[..., JobConfig], tmp_path: Path, key: str
) -> None:
    with pytest.raises(ParcelError, match=rf"{key} is /.*/here on this machine.*--shared-paths"):
        pack(job(f"{key.removesuffix('.uri')}=here"), tmp_path / "parcel", shared_paths=False, code=False)


def test_files_that_are_missing_or_too_large_are_refused(
    job: Callable[..., JobConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParcelError, match=r"Can't read .*/none\.pth, which the job names: No such file"):
        pack(job("model.weights=none.pth"), tmp_path / "parcel", shared_paths=False, code=False)
    monkeypatch.setattr(parcel, "FILES_BYTES", 3)
    with pytest.raises(ParcelError, match=r"over 0 MiB with .*vgg\.pth"):
        pack(job(), tmp_path / "parcel", shared_paths=False, code=False)


def test_our_own_code_travels_and_comes_before_a_strangers(job: Callable[..., JobConfig], tmp_path: Path) -> None:
    folder, strange = tmp_path / "parcel", tmp_path / "strange"
    pack(job(), folder, shared_paths=False, code=True)
    (strange / "jobs").mkdir(parents=True)
    for name in ("pipeline.py", "workers.py", "pixgrad.py", "jobs/__init__.py"):
        (strange / name).write_text("raise SystemExit('a stranger answered')")
    code = "import jobs.cli, pipeline, workers, pixgrad; print(jobs.__file__, pipeline.__file__, pixgrad.__version__)"
    # as a Ray job finds things: the working directory first, then whatever the cluster has; no site-packages of ours
    site = next(path for path in sys.path if path.endswith("site-packages") and Path(path, "ray").exists())
    environment = {"PYTHONPATH": f"{folder}:{strange}:{site}"}
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own, driver, release = done.stdout.split()
    assert own.startswith(str(folder)) and driver.startswith(str(folder)) and release[0].isdigit()


def test_what_a_job_runs() -> None:
    assert entrypoint(["--extend"], installed=True) == "pixgrad run job.yaml --extend"
    assert entrypoint([], installed=False) == "python -P -c 'from jobs.cli import main; main()' run job.yaml"


# --- whom we talk to


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1:8265", "http://"])
def test_an_address_that_is_no_url_of_a_dashboard(address: str) -> None:
    with pytest.raises(SubmitError, match="is no URL of a Ray dashboard"):
        Cluster(address)


def test_nobody_listens_there() -> None:
    with pytest.raises(SubmitError, match=r"No Ray dashboard answers at http://127\.0\.0\.1:1: Connection refused"):
        Cluster("http://127.0.0.1:1")
    with pytest.raises(SubmitError, match=r"No Ray dashboard answers at http://nowhere\.invalid:8265: "):
        Cluster("http://nowhere.invalid:8265")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], str]]:
    """A web server on loopback that gives one and the same answer; its URL."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "unset")  # set by what is tested; put back afterwards
    servers: list[http.server.HTTPServer] = []

    def serve(status: int, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, "no token", "asks for a token and refuses ours"),
        (403, "another token", "asks for a token and refuses ours"),
        (404, "", "does not take it"),
        (200, "<html>a shop</html>", "at http://127"),
        (200, '{"ray_version": "1.2.0"}', "does not take it: Ray version 1.2.0"),
    ],
)
def test_somebody_else_answers(answering: Callable[[int, str], str], status: int, body: str, sentence: str) -> None:
    with pytest.raises(SubmitError, match=sentence) as caught:
        Cluster(answering(status, body))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_an_address_on_loopback_may_be_a_tunnel_so_files_travel_to_it_too(
    answering: Callable[[int, str], str], job: Callable[..., JobConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(answering(200, '{"ray_version": "2.60.0"}'))
    monkeypatch.setattr(cluster, "_client", Mock(list_jobs=Mock(return_value=[])))
    sent: list[str] = []

    def look(*, runtime_env: dict[str, Any], **others: Any) -> None:
        folder = Path(runtime_env["working_dir"])
        sent.extend(str(path.relative_to(folder)) for path in folder.rglob("files/*/*"))

    monkeypatch.setattr(cluster._client, "submit_job", look)
    cluster.submit(job(), installed=True)
    assert sorted(Path(name).name for name in sent) == ["[1] sea.png", "cat.png", "vgg.pth"]
    sent.clear()
    cluster.submit(job("source=photos", "output=run"), installed=True, shared_paths=True)
    assert not sent
    with pytest.raises(ParcelError, match=r"source.uri is .* on this machine"):
        cluster.submit(job("source=photos"), installed=True)


def test_a_cluster_that_answers_no_more_is_not_waited_for_for_ever(
    answering: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(answering(200, '{"ray_version": "2.60.0"}'))
    monkeypatch.setattr(submit, "PATIENCE", 1.0)
    with pytest.raises(LostError, match=r"has not answered for 1 s .*the job may go on") as caught:
        cluster.follow("pixgrad-1", lambda text: None)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


# --- how it ended


@pytest.mark.parametrize(
    ("status", "driver", "code", "sentence"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 3, 3, ""),
        ("FAILED", 4, 4, ""),
        ("FAILED", -9, 4, "killed"),
        ("FAILED", 137, 4, "killed"),
        ("FAILED", None, 4, "before its command did: The head went away"),
        ("STOPPED", None, 130, "was stopped"),
    ],
)
def test_a_job_ends_with_its_drivers_exit_code(status: str, driver: int | None, code: int, sentence: str) -> None:
    from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType

    job = JobDetails(  # pyright: ignore[reportCallIssue]
        type=JobType.SUBMISSION, status=status, entrypoint="", driver_exit_code=driver, message="The head went away\n…"
    )
    ending = _ending(job)
    assert ending.exit_code == code and sentence in ending.sentence


def test_a_stopped_job_has_the_time_to_drain() -> None:
    assert submit.STOP_SECONDS > 3 * DRAIN_SECONDS
