"""Several processes train one pair as one process would, are killed and resumed, and say what they cannot do."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import team
import torch
from test_resume import assert_same, epochs_done, state
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.data import batches
from pyro_vae.train import loop

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "team.py"
ALIKE = ("vae", "clip", "labels", "random weights", "shared prior", "compiled", "compiled labels", "loader")
ALIKE += ("schedules", "SGD")
SECONDS = 120  # after which a test of processes that wait for each other has failed


def torchrun(size, *words):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size), *words]


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def started(command, **env):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(**env), **streams)


def ended(process):
    """What it leaves; torchrun ends its processes where it is told to end, and not where it is killed."""
    try:
        told, warned = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        told, warned = process.communicate()
        raise AssertionError(f"did not end in {SECONDS} s: {warned}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, told, warned)


def called(command):
    return ended(started(command))


# ---------------------------------------------------------------------- the data of each process


def pair():
    torch.manual_seed(0)
    return team.vae()


def seen(size, data, batch_size=5, seed=3, of=None):
    """The numbers that stand for data, by process and step."""
    parts = [batches(of or pair(), data, batch_size, None, share=(i, size)) for i in range(size)]
    assert len({part.steps for part in parts}) == 1
    steps = [list(part.epoch(seed)) for part in parts]
    assert all(len(found) == part.steps for found, part in zip(steps, parts, strict=True))
    return [[[int(i) for _, b in step for i in b["x"].flatten(1)[:, 0]] for step in found] for found in steps]


def numbered(n):
    return torch.arange(float(n)).reshape(n, 1, 1, 1).expand(n, *team.SHAPE).clone()


FORMS = {"tensor": lambda x: x, "loader": lambda x: DataLoader(TensorDataset(x), batch_size=5, shuffle=True)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 4, 20, 61, 83])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_epoch_of_all_processes_sees_each_datum_once(size, n, form):
    found = seen(size, FORMS[form](numbered(n)))
    assert sorted(i for process in found for step in process for i in step) == list(range(n))
    if form == "tensor":  # no process has more to do than another
        assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in zip(*found, strict=True))


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_of_all_processes_is_one_of_one_process(size):
    alone = seen(1, numbered(83), batch_size=20)[0]
    found = seen(size, numbered(83), batch_size=20 // size)
    together = [[i for part in step for i in part] for step in zip(*found, strict=True)]
    assert together == alone


@pytest.mark.parametrize("size", [2, 4])
def test_data_with_labels_and_without_are_shared_out_alike(size):
    x = numbered(83)
    data = {"x": x, "c": torch.where(torch.arange(83) % 5 == 0, torch.arange(83) % 3, -1)}
    of = pv.m2(team.SHAPE, 3, classes=3)
    whole, *parts = (
        [list(batches(of, data, 24 // n, None, share=(i, n)).epoch(3)) for i in range(n)] for n in (1, size)
    )
    for step, shares in zip(whole[0], zip(*parts[0], strict=True), strict=True):
        weights = {frozenset(batch): weight for weight, batch in step}
        for kind, weight in weights.items():
            (wanted,) = [batch for _, batch in step if set(batch) == kind]
            mine = [(w, batch) for share in shares for w, batch in share if set(batch) == kind]
            assert {w for w, _ in mine} == {weight}
            for site in kind:
                assert torch.equal(torch.cat([batch[site] for _, batch in mine]), wanted[site])


def test_all_processes_look_at_the_whole():
    for data in (form(numbered(23)) for form in FORMS.values()):
        for i in range(3):
            fixed = batches(pair(), data, 5, None, share=(i, 3)).fixed()
            assert sorted(int(v) for b in fixed for v in b["x"].flatten(1)[:, 0]) == list(range(23))


# ---------------------------------------------------------------------- as one process


TEAMS = {2: (*ALIKE, "averages", "game", "stepper"), 4: ("vae", "labels", "shared prior", "loader", "averages", "game")}


def of_teams(*cases):
    """Each of the cases, by each of the teams that has it."""
    there = [(size, case) for size, has in TEAMS.items() for case in has if case in cases]
    return pytest.mark.parametrize(("together", "case"), there, indirect=["together"])


@pytest.fixture(scope="module")
def teams(tmp_path_factory):
    """All cases of a team, one after the other; each team starts once."""

    @cache
    def started(size):
        folder = tmp_path_factory.mktemp(f"team{size}")
        done = called(torchrun(size, str(SCRIPT), str(folder), *TEAMS[size]))
        assert done.returncode == 0, done.stderr
        return size, folder, done

    return started


@pytest.fixture
def together(request, teams):
    return teams(request.param)


@pytest.fixture(scope="module")
def alone():
    """The same in this process, each once."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributions.normal, "_standard_normal", None)
        patch.setattr(torch.Tensor, "bernoulli_", None)
        patch.setattr(loop, "CompiledSVI", team.Eager)
        team.fixed_noise()
        for case in ALIKE:
            done[case] = team.train(case, 1)
    return done


def left(together, case):
    size, folder, _ = together
    return [torch.load(folder / f"{case}.{rank}.pt") for rank in range(size)]


@of_teams(*ALIKE)
def test_several_processes_train_as_one_that_sees_all_their_data(case, together, alone):
    """In double precision, to all but the order of sums."""
    wanted, (found, *_) = alone[case], left(together, case)
    assert found["words"] == wanted["words"] == ""
    assert found["compiled"] == wanted["compiled"] == case.startswith("compiled")
    assert found["history"].keys() == wanted["history"].keys()
    assert len(wanted["history"]["objective"]) >= 3
    for name, values in wanted["history"].items():
        if name != "seconds":
            assert found["history"][name] == pytest.approx(values, rel=1e-9, abs=1e-9), name
    for name, value in wanted["state"].items():
        torch.testing.assert_close(found["state"][name], value, rtol=1e-8, atol=1e-8, msg=name)


@of_teams(*ALIKE, "averages")
def test_all_processes_have_the_same_in_the_end(case, together):
    first, *others = left(together, case)
    for other in others:
        assert_same(other["state"], first["state"])
        assert_same(other["history"] | {"seconds": []}, first["history"] | {"seconds": []})


def test_weights_have_moved(alone):
    for case in ALIKE:
        torch.manual_seed(0)
        before = team.CASES[case][0]().double().state_dict()
        gaps = [float((before[k] - v).abs().max()) for k, v in alone[case]["state"].items()]
        assert max(gaps) > 1e-3, case


@pytest.mark.parametrize("together", TEAMS, indirect=True)
def test_one_process_writes_and_tells(together):
    size, folder, done = together
    for case in set(ALIKE) & set(TEAMS[size]):
        files = [path.name.partition(".out.")[0] for path in (folder / case).iterdir()]
        wanted = ["checkpoint.safetensors", "config.json", "events", "metrics.csv", "weights.safetensors"]
        assert sorted(name for name in files if name != ".lock") == wanted
        rows = list(csv.DictReader((folder / case / "metrics.csv").read_text().splitlines()))
        assert [float(row["objective"]) for row in rows] == left(together, case)[0]["history"]["objective"]
    told = [(folder / f"{rank}.log").read_text() for rank in range(size)]
    assert "epoch 3: elbo" in told[0]
    assert told[1:] == [""] * (size - 1)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@of_teams("game", "stepper")
def test_what_processes_cannot_share_is_refused_by_each(together, case):
    name = {"game": r"pyro_vae\..*\.FactorVAE", "stepper": r"pyro\.infer\.svi\.SVI"}[case]
    for found in left(together, case):
        assert re.fullmatch(rf"ValueError: objective: several processes train by .*SVI, found {name}", found["words"])


# ---------------------------------------------------------------------- killed and resumed

EPOCHS = 12


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = called(torchrun(2, str(SCRIPT), str(folder), "run", str(EPOCHS)))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def until(folder, epochs, *processes):
    """Wait for so many epochs."""
    start = time.monotonic()
    while epochs_done(folder) < epochs:
        for process in processes:
            assert process.poll() is None, "the run was over before it was killed"
        assert time.monotonic() - start < SECONDS
        time.sleep(0.002)


def kill(folder, rank):
    os.kill(int((folder / f"{rank}.pid").read_text()), signal.SIGKILL)


def test_a_killed_process_ends_the_command_and_the_run_goes_on_from_there(uninterrupted, tmp_path):
    command = torchrun(2, str(SCRIPT), str(tmp_path), "run", str(EPOCHS))
    process = started(command)
    try:
        until(tmp_path / "run", 3, process)
        kill(tmp_path, 1)
        done = ended(process)
    finally:
        process.terminate()
    assert done.returncode != 0
    assert re.search(r"rank +: 1 ", done.stderr)
    assert "SIGKILL" in done.stderr
    assert 3 <= epochs_done(tmp_path / "run") < EPOCHS
    assert all(gone(int((tmp_path / f"{rank}.pid").read_text())) for rank in (0, 1))
    done = called(command)
    assert done.returncode == 0, done.stderr
    assert_same(state(tmp_path / "run"), state(uninterrupted))


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def by_hand(folder, *words, size=2):
    """The processes of a team without torchrun, which would end all of them with the first."""
    port = free_port()
    command = [sys.executable, str(SCRIPT), str(folder), *words]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [started(command, RANK=str(rank), **place) for rank in range(size)]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_loses_another_says_so(lost, tmp_path):
    processes = by_hand(tmp_path, "run", str(EPOCHS))
    try:
        until(tmp_path / "run", 3, *processes)
        processes[lost].kill()
        left, _ = ended(processes[1 - lost]), ended(processes[lost])
    finally:
        for process in processes:
            process.kill()
    assert left.returncode != 0
    last = left.stderr.strip().splitlines()[-1]
    assert re.match(rf"(\[rank\d\]: )?ConnectionError: process {1 - lost} of 2 has lost another one, .*resume", last), (
        left.stderr
    )


def test_a_loss_that_is_not_finite_stops_all_and_who_has_the_datum_says_so(tmp_path):
    last = [done.stderr.strip().splitlines()[-1] for done in map(ended, by_hand(tmp_path, "spoiled"))]
    pattern = r"(?:\[rank\d\]: )?FloatingPointError: epoch 1, step (\d+): (.*)"
    told = [re.fullmatch(pattern, line) for line in last]
    assert all(told), last
    assert len({match[1] for match in told}) == 1
    causes = sorted(match[2] for match in told)
    assert re.match("the loss is inf: at site '[xz]'", causes[0])
    assert re.match("the loss of another process is inf", causes[1])


def test_a_run_of_other_many_processes_is_not_resumed(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = state(tmp_path / "run")
    with pytest.raises(ValueError, match=r"resume: processes: the run in .* has 2, found none"):
        team.long_run(tmp_path, EPOCHS + 1)
    assert_same(state(tmp_path / "run"), before)


def test_the_command_line_trains_with_several_processes(tmp_path):
    words = ["train", "vae", "--data", "digits", "--epochs", "2", "--no-progress", "--out", str(tmp_path / "run")]
    done = called(torchrun(2, "-m", "pyro_vae", *words))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run(2 epochs") == 1
    assert done.stdout.count("next: pyro-vae evaluate") == 1
    assert epochs_done(tmp_path / "run") == 2
    assert pv.load(tmp_path / "run").sample(2).shape == (2, 1, 8, 8)
