"""For each promise, and each row of the table of failures: break the code that keeps it, and a test fails.

A mutant is a copy of the project with one piece of its text replaced. The tests named run in the copy, and must fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("jobs", "pipeline", "workers", "tests", "pyproject.toml", "pixgrad.py")
AT_A_TIME = 2


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; then one of `tests` fails."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


POLICY = "tests/pipeline/test_policy.py::"
PLAN = "tests/pipeline/test_plan.py::"
COMMIT = "tests/pipeline/test_commit.py::"
RETRY = "tests/pipeline/test_rounds.py::"
EPOCH = "tests/pipeline/test_epoch.py::"
ASSEMBLY = "tests/workers/test_assembly.py::"
FETCH = "tests/workers/test_fetch.py::"
ENGINE = "tests/workers/test_engine.py::"
RECORDS = "tests/workers/test_records.py::"
POWER = "tests/chaos/test_power_loss.py"

MUTANTS = [
    # 1. Every output exactly once.
    Mutant(
        "a unit is committed although an output is missing",
        "pipeline/policy.py",
        "        if state.missing:\n            return []",
        "        if len(state.missing) > 1:\n            return []",
        (f"{POLICY}test_a_task_is_cut_and_its_rest_is_next_in_turn", f"{POLICY}TestAnyInterleaving"),
    ),
    Mutant(
        "a session does committed units again",
        "pipeline/plan.py",
        "if unit in self._committed}",
        "if unit in ()}",
        (f"{PLAN}test_the_feed_leaves_out_what_is_committed",),
    ),
    Mutant(
        "an attempt ends before all of its outputs have rows",
        "workers/assembly.py",
        "while len(rows) < len(attempt.outputs):",
        "while len(rows) < len(attempt.outputs) - 1:",
        (f"{ASSEMBLY}test_outcomes_are_told_as_they_come_and_rows_when_there_are_all",),
    ),
    Mutant(
        "a retry takes up outputs that were made",
        "pipeline/rounds.py",
        'table["status"].to_pylist(), strict=True) if s != "ok"}',
        'table["status"].to_pylist(), strict=True) if s}',
        (f"{RETRY}test_the_failed_outputs_of_a_run_are_the_first_round",),
    ),
    Mutant(
        "rows that a later round replaced count as well",
        "pipeline/commit.py",
        "replaced.get(key, 0) <= round",
        "replaced.get(key, 0) >= 0 <= round",
        (f"{COMMIT}test_the_manifest_has_the_latest_row_of_every_output",),
    ),
    Mutant(
        "--extend takes in what is there already",
        "pipeline/plan.py",
        "for image in source.images() if image not in known)",
        "for image in source.images() if known)",
        (f"{PLAN}TestAgain::test_new_images_before_between_and_behind_the_old_ones",),
    ),
    Mutant(
        "two variants of an image share a key",
        "workers/records.py",
        'return _digest(uri, member or "", variant)[:32]',
        'return _digest(uri, member or "")[:32]',
        (f"{RECORDS}test_a_key_says_which_output_it_is_and_not_where_it_stands",),
    ),
    # 2. A shard that a row names is there, whole, with its hash.
    Mutant(
        "the hash of a shard isn't recorded",
        "workers/assembly.py",
        'row["shard_sha256"] = sha256',
        'row["shard_sha256"] = None',
        (f"{ASSEMBLY}test_bad_images_become_rows_and_the_rest_a_shard",),
    ),
    Mutant(
        "files aren't synced",
        "workers/storage.py",
        "    os.fsync(file.fileno())",
        "    file.fileno()",
        (POWER,),
    ),
    Mutant(
        "folders aren't synced",
        "workers/storage.py",
        "        os.fsync(descriptor)",
        "        pass",
        (POWER,),
    ),
    Mutant(
        "a part's seal isn't looked at",
        "pipeline/seal.py",
        "        if not is_whole(data):",
        "        if not data:",
        (f"{RETRY}test_a_damaged_part_is_told_and_nothing_is_tried",),
    ),
    # 3. The commit is one create-if-absent.
    Mutant(
        "a part replaces another's",
        "workers/storage.py",
        "        target.hardlink_to(staged)",
        "        staged.replace(target)",
        (f"{COMMIT}test_of_many_commits_of_a_unit_one_counts",),
    ),
    Mutant(
        "an object replaces another's",
        "workers/storage.py",
        'self._key(name), data, mode="create")',
        'self._key(name), data, mode="overwrite")',
        ("tests/workers/test_storage.py::TestCreate::test_the_first_wins_and_stays[s3]",),
    ),
    Mutant(
        "another's commit counts as this driver's",
        "pipeline/commit.py",
        "seal(_merge(pieces)))",
        "seal(_merge(pieces))) or True",
        (f"{COMMIT}test_of_many_commits_of_a_unit_one_counts",),
    ),
    # 4. An output depends on nothing but itself.
    Mutant(
        "short batches aren't filled",
        "workers/engines/base.py",
        "return [*items, *[items[-1]] * (size - len(items))]",
        "return items",
        (f"{ENGINE}test_the_network_sees_batches_of_one_size",),
    ),
    Mutant(
        "seeds go by the place in the attempt",
        "workers/assembly.py",
        "output_seed(self._setup.seed, p.output.key)",
        "output_seed(self._setup.seed, str(p.position))",
        (f"{ASSEMBLY}test_a_seed_goes_with_the_output_wherever_it_stands",),
    ),
    Mutant(
        "keys go by the place in the tar",
        "workers/records.py",
        "return output_key(self.image.uri, self.image.member, self.variant.name)",
        "return output_key(self.image.uri, str(self.image.offset), self.variant.name)",
        (f"{RECORDS}test_a_key_says_which_output_it_is_and_not_where_it_stands",),
    ),
    # 5. What can't be processed fails alone.
    Mutant(
        "one death alone is enough for the quarantine",
        "pipeline/policy.py",
        "DEATHS_ALONE = 2",
        "DEATHS_ALONE = 1",
        (f"{POLICY}test_an_output_is_quarantined_after_two_deaths_alone_and_the_unit_ends",),
    ),
    Mutant(
        "acknowledged outputs are suspects",
        "pipeline/policy.py",
        "if i not in running.acked) if begun",
        "if i >= 0) if begun",
        (f"{POLICY}test_begun_and_unacknowledged_outputs_are_tried_in_halves_and_alone",),
    ),
    Mutant(
        "who was on a lost node is blamed",
        "pipeline/policy.py",
        "            self._requeue(running.task, running.task.indices)",
        '            self._incriminate(running, "worker_died", None)',
        (f"{POLICY}test_a_lost_node_blames_nobody",),
    ),
    Mutant(
        "suspects have company",
        "pipeline/policy.py",
        "or any(self._running[task].task.alone for task in running)",
        "or False",
        (f"{POLICY}test_begun_and_unacknowledged_outputs_are_tried_in_halves_and_alone",),
    ),
    Mutant(
        "what the flight recorder says isn't used",
        "pipeline/policy.py",
        "if (task.unit, i) in in_hand or",
        "if task.indices or",
        (f"{POLICY}test_what_was_in_hand_is_suspect_and_the_rest_goes_on", f"{POLICY}test_what_one_culprit_costs"),
    ),
    Mutant(
        "the flight recorder lets go at once",
        "workers/recorder.py",
        "numbers = (len(outputs), *",
        "numbers = (0, *",
        ("tests/workers/test_recorder.py",),
    ),
    Mutant(
        "a damaged image ends its attempt",
        "workers/assembly.py",
        "isinstance(error, PixgradError) and not isinstance(error, ImageError):",
        "isinstance(error, PixgradError):",
        (f"{ASSEMBLY}test_bad_images_become_rows_and_the_rest_a_shard",),
    ),
    Mutant(
        "an image that breaks the network fails its batch",
        "workers/assembly.py",
        "                    self._run([(one.place, one.image)])",
        "                    one.place.fail(error)",
        (f"{ASSEMBLY}test_the_image_to_blame_fails_alone",),
    ),
    Mutant(
        "memory that runs out is blamed on an output in company",
        "workers/assembly.py",
        "        if isinstance(error, MemoryError):",
        "        if isinstance(error, KeyError):",
        (f"{ASSEMBLY}test_memory_that_runs_out_in_computing_names_the_output_of_the_batch",),
    ),
    Mutant(
        "a batch isn't made smaller when memory runs out",
        "workers/engines/base.py",
        "            if size == 1:",
        "            if size:",
        (f"{ENGINE}test_memory_that_runs_out_halves_the_batch_and_the_row_says_so",),
    ),
    Mutant(
        "a store that fails is blamed on the image",
        "workers/fetch.py",
        "            return _can_read(store, witness)",
        "            return True",
        (f"{FETCH}TestWitness",),
    ),
    Mutant(
        "a mount that went away fails its images",
        "workers/fetch.py",
        "            return False  # a mount",
        "            return True  # a mount",
        (f"{FETCH}test_a_source_that_is_empty_or_gone_has_gone_away_and_fails_no_image",),
    ),
    Mutant(
        "a commit is tried only once",
        "pipeline/committer.py",
        "if time.monotonic() - began > STORE_PATIENCE:",
        "if failures:",
        ("tests/pipeline/test_committer.py",),
    ),
    # 6. One job, and one driver at a time.
    Mutant(
        "the fingerprint leaves the weights out",
        "pipeline/prepare.py",
        '{"weights": self.model.weights.sha256, ',
        "{",
        ("tests/pipeline/test_prepare.py",),
    ),
    Mutant(
        "a run is continued as another job",
        "pipeline/provenance.py",
        '    if before["fingerprint"] == fingerprint(fields):',
        '    if before["fingerprint"]:',
        ("tests/pipeline/test_prepare.py",),
    ),
    Mutant(
        "a silent driver is never superseded",
        "pipeline/epoch.py",
        "- claim.seen < SILENCE",
        "- claim.seen < 1e9",
        (f"{EPOCH}test_a_silent_driver_of_this_machine_is_superseded",),
    ),
    Mutant(
        "a driver at work isn't respected",
        "pipeline/epoch.py",
        "    if last and is_alive(last):",
        "    if last and is_alive(last, now=1e99):",
        (f"{EPOCH}test_a_fresh_driver_of_this_machine_is_respected",),
    ),
    Mutant(
        "a store is trusted unseen",
        "workers/storage.py",
        '        if self.create(name, b"must not appear"):',
        "        if not name:",
        ("tests/workers/test_storage.py::TestCheckCreate::test_one_that_writes_over_it_is_refused[local]",),
    ),
]


def copy_project(to: Path) -> Path:
    """A copy of what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def environment(copy: Path) -> dict[str, str]:
    """That the copy's modules are found before the installed ones."""
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(copy: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run these tests of the copy."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=100"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    return subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False)


def try_out(mutant: Mutant, copy: Path) -> subprocess.CompletedProcess[str]:
    """Make the mutant in a folder, run its tests, and clear up."""
    copy_project(copy)
    file = copy / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times"
    file.write_text(text.replace(mutant.old, mutant.new))
    found = run_tests(copy, mutant.tests)
    shutil.rmtree(copy)
    return found


Tried = dict[Mutant, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    """The mutants of the tests that were asked for, a few at a time."""
    params = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [mutant for mutant in MUTANTS if any(p and p.params.get("mutant") is mutant for p in params)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {mutant: pool.submit(try_out, mutant, tmp_path_factory.mktemp("mutant")) for mutant in wanted}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as it is."""
    return copy_project(tmp_path_factory.mktemp("unchanged"))


@pytest.mark.long
def test_what_is_imported_is_the_copy(unchanged: Path) -> None:
    modules = sorted({mutant.file.removesuffix(".py").replace("/", ".") for mutant in MUTANTS})
    code = f"import importlib; [print(importlib.import_module(name).__file__) for name in {modules}]"
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd="/", env=environment(unchanged), capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [str(unchanged / f"{name.replace('.', '/')}.py") for name in modules]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_these_tests_pass_while_nothing_is_broken(unchanged: Path) -> None:
    tests = tuple(sorted({test for mutant in MUTANTS for test in mutant.tests}))
    found = run_tests(unchanged, tests)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_fails(mutant: Mutant, tried: Tried) -> None:
    found = tried[mutant].result()
    assert found.returncode == 1, f"{found.stdout[-3000:]}{found.stderr[-1000:]}"
