"""A run that is killed and resumed ends where an uninterrupted one ends, bit by bit; its files are whole or missing."""

import csv
import itertools
import logging
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import filelock
import pyro
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import storage
from pyro_vae.infer import SVI, Cyclical, FreeBits, WarmUp
from pyro_vae.likelihoods import ContinuousBernoulli

EPOCHS, KILLS = 30, 10


def pair():
    """With what a state may hold beside weights: running averages, dropout, and a schedule of its own."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 8)]
    return pv.vae((1, 8, 8), latent=4, encoder=nn.Sequential(*layers))


def train(folder, epochs=EPOCHS, *, of=pair, **options):
    """A run in ``folder``, taken up where it stands."""
    torch.set_num_threads(1)
    x, validation = (pv.data.load("digits", part, binarise="dynamic") for part in ("train", "validation"))
    settings = {
        "clip": 5.0,
        "temper": WarmUp(epochs=5),
        "lr_schedule": partial(CosineAnnealingLR, T_max=EPOCHS),
        "validation": validation,
        "resume": True,
    }
    variant = of()
    run = pv.fit(variant, x, epochs=epochs, out=folder, progress=False, **{**settings, **options})
    return variant, run


def state(folder):
    """Everything that must be the same bit by bit: the best pair, and all that training would go on from."""
    checkpoint = storage.read_state(folder / "checkpoint.safetensors")
    run = checkpoint["run"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return {
        "pair": storage.read_state(folder / "weights.safetensors"),
        **{part: checkpoint[part] for part in ("settings", "variant", "best", "stepper", "schedule")},
        "run": {k: v for k, v in run.items() if k != "history"},
        "history": {k: v for k, v in run["history"].items() if k != "seconds"},
        "metrics": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "config": (folder / "config.json").read_text(),
    }


def assert_same(a, b, path=""):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{path}/{i}")
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def processes():
    """Children of a process that has imported all and run nothing: each starts in no time and draws on no state."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pyro_vae.recipes", "pyro_vae.train", "sklearn.datasets", "test_resume"])
    return context


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(folder)
    return folder


def epochs_done(folder):
    try:
        return len((folder / "metrics.csv").read_text().splitlines()) - 1
    except FileNotFoundError:
        return 0


class At(logging.Handler):
    """Does something when an epoch is logged."""

    def __init__(self, epoch, act):
        super().__init__(logging.INFO)
        self.words, self.act = f"epoch {epoch}:", act

    def emit(self, record):
        if record.getMessage().startswith(self.words):
            self.act()


def train_and_die(folder, epoch, share):
    """A process that is killed a share of an epoch after one has ended, wherever it is then."""
    log = logging.getLogger("pyro_vae")
    log.setLevel(logging.INFO)
    last = time.perf_counter()

    def die():
        delay = share * (time.perf_counter() - last)  # an epoch's length
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def note():
        nonlocal last
        last = time.perf_counter()

    log.addHandler(At(epoch - 1, note))
    log.addHandler(At(epoch, die))
    train(folder)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(seed, processes, uninterrupted, tmp_path):
    folder, numbers = tmp_path / "run", random.Random(seed)
    epoch = numbers.randrange(2, EPOCHS - 3)
    process = processes.Process(target=train_and_die, args=(folder, epoch, numbers.random()))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert epochs_done(folder) < EPOCHS
    train(folder)
    assert_same(state(folder), state(uninterrupted))
    left = [p.name for p in folder.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    assert not left, f"{left} was left by the killed process"


def logged(folder):
    """What TensorBoard shows of the ELBO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of other packages
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("elbo")]


class Killed(BaseException):
    """Nothing that happens after this happens in a killed process."""


@pytest.fixture
def killed_at(monkeypatch):
    """Stop at the n-th replacement of a file, before it or after it."""
    leave = storage.whole.__exit__

    def arm(n, after):
        count = 0

        def maybe(self, *error):
            nonlocal count
            count += 1
            if count == n and not after:
                raise Killed
            leave(self, *error)
            if count == n:
                raise Killed

        monkeypatch.setattr(storage.whole, "__exit__", maybe)

    return arm


@pytest.fixture
def in_order(monkeypatch):
    """TensorBoard reads its files by name: second, process, number; two of one second and process are 9 and 10."""

    class Numbered:
        numbers = itertools.count()

        def get(self):
            return f"{next(self.numbers):06d}"

    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", Numbered())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_moment_between_two_files_is_survived(after, killed_at, in_order, monkeypatch, tmp_path):
    """Each checkpoint is followed by other files: whichever of them a process writes last, nothing is amiss."""
    options = {"temper": None, "epochs": 3}
    leave = storage.whole.__exit__
    train(tmp_path / "whole", **options)
    expected = state(tmp_path / "whole"), logged(tmp_path / "whole")
    killed = 0
    while True:
        folder = tmp_path / str(killed)
        killed_at(killed + 1, after)
        try:
            train(folder, **options)
            break
        except Killed:
            killed += 1
        finally:
            monkeypatch.setattr(storage.whole, "__exit__", leave)
        train(folder, **options)
        assert_same((state(folder), logged(folder)), expected)
    assert killed > 12, "fewer files were replaced than a run of three epochs has"


SCHEDULES = {
    "plateau": partial(ReduceLROnPlateau, patience=0),
    "one cycle": partial(OneCycleLR, max_lr=1e-2, total_steps=8),
    "function": partial(LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
}
OPTIONS = {
    **{name: {"lr_schedule": schedule} for name, schedule in SCHEDULES.items()},
    "no validation": {"validation": None},
    "early stop": {"patience": 1, "lr_schedule": None},
    "free bits": {"objective": FreeBits(0.1, per="unit")},
    "cycles": {"temper": Cyclical(period=2)},
    "another seed": {"seed": 7},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_kind_of_state_is_taken_up(name, tmp_path):
    for folder, stops in (("whole", [6]), ("parts", [2, 3, 6])):
        for epochs in stops:
            train(tmp_path / folder, epochs, **{"temper": None, **OPTIONS[name]})
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_stepper_of_ones_own_optimiser_is_taken_up(tmp_path):
    runs = []
    for folder, stops in (("whole", [4]), ("parts", [1, 4])):
        for epochs in stops:
            variant = pair()
            svi = SVI(*variant, partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1))
            train(tmp_path / folder, epochs, of=lambda variant=variant: variant, objective=svi, temper=None, clip=None)
        runs.append(state(tmp_path / folder))
    assert_same(*runs)


def test_loaders_with_generators_of_their_own_are_taken_up(tmp_path):
    x = pv.data.load("digits", binarise="threshold").x[:200]
    for folder, stops in (("whole", [4]), ("parts", [1, 4])):
        for epochs in stops:
            loader = DataLoader(TensorDataset(x), 32, shuffle=True, generator=torch.Generator().manual_seed(5))
            pv.fit(pair(), loader, epochs=epochs, out=tmp_path / folder, resume=True, progress=False)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    train(tmp_path / "run", 2, temper=None)
    before = state(tmp_path / "run")
    monkeypatch.setattr(SVI, "step", lambda *_, **__: pytest.fail("trained again"))
    variant, run = train(tmp_path / "run", 2, temper=None)
    assert run.epochs == 2
    assert_same(state(tmp_path / "run"), before)
    assert_same(dict(variant.state_dict()), before["pair"])


# ---------------------------------------------------------------------- disks


@pytest.fixture
def at():
    log = logging.getLogger("pyro_vae")
    log.setLevel(logging.INFO)
    handlers = []

    def add(epoch, act):
        handlers.append(At(epoch, act))
        log.addHandler(handlers[-1])

    yield add
    log.setLevel(logging.NOTSET)
    for handler in handlers:
        log.removeHandler(handler)


def test_a_lost_folder_stops_the_run_with_one_clear_error(at, tmp_path):
    at(3, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(OSError, match=r"run: cannot be written to after epoch 3: No such file or directory$"):
        train(tmp_path / "run", 5)


def full_disk(folder, words):
    """The file system refuses what is written after the third epoch."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = logging.getLogger("pyro_vae")
    log.setLevel(logging.INFO)
    log.addHandler(At(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))))
    try:
        train(folder, 5)
    except OSError as error:
        words.send(str(error))


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(processes, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=full_disk, args=(folder, theirs))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert ours.poll(), "the run went on"
    words = ours.recv()
    assert "run: cannot be written to after epoch 3" in words
    assert words.endswith("its last checkpoint is intact")
    assert storage.read_state(folder / "checkpoint.safetensors")["run"]["history"]["elbo"][2:] == []
    assert pv.load(folder, into=pair()).sample(2).shape == (2, 1, 8, 8)
    train(folder)
    assert_same(state(folder), state(uninterrupted))


# ---------------------------------------------------------------------- what is refused


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1  # one bit of one weight
    path.write_bytes(content)


def older(path):
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"pyro_vae": "1"})


DAMAGES = {
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged, not a safetensors file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged, not a safetensors file"),
    "one bit": (flipped, "damaged, its content is not what was written"),
    "hostile pickle": (lambda p: p.write_bytes(pickle.dumps(Hostile())), "damaged, not a safetensors file"),
    "hostile torch file": (lambda p: torch.save({"run": Hostile()}, p), "damaged, not a safetensors file"),
    "foreign": (lambda p: safetensors.torch.save_file({"a": torch.zeros(1)}, p), "not written by pyro_vae"),
    "older": (older, "written in format 1, this version reads format 2"),
}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    train(folder, 2, temper=None)
    return folder


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_and_foreign_files_are_refused_by_name(name, file, short, tmp_path):
    act, message = DAMAGES[name]
    folder = shutil.copytree(short, tmp_path / "run")
    act(folder / file)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match=f"{file}: {message}") as caught:
        train(folder, 3, temper=None) if file.startswith("checkpoint") else pv.load(folder, into=pair())
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_file_of_another_kind_is_no_checkpoint(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "run")
    shutil.copy(folder / "weights.safetensors", folder / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: not the checkpoint of a run"):
        train(folder, 3, temper=None)
    shutil.copy(short / "checkpoint.safetensors", folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: not the weights of a pair"):
        pv.load(folder, into=pair())


def smaller():
    return pv.vae((1, 8, 8), latent=3)


def other_story():
    """Other data, though every parameter has the same shape."""
    return pv.vae((1, 8, 8), latent=4, encoder=pair().guide.posterior.encoder.net, likelihood=ContinuousBernoulli)


def frozen():
    variant = pair()
    next(variant.guide.parameters()).requires_grad_(False)
    return variant


def other_data():
    return pv.data.load("digits", "test", binarise="dynamic")


OTHERS = {
    "batch_size": ({"batch_size": 64}, "batch_size: the run in .* has 128, found 64"),
    "seed": ({"seed": 1}, "seed: the run in .* has 0, found 1"),
    "lr": ({"lr": 0.1}, r"optimizer: the run in .*lr=0\.001.*found.*lr=0\.1"),
    "clip": ({"clip": 1.0}, r"stepper: .*clip=5\.0.*found.*clip=1\.0"),
    "patience": ({"patience": 3}, "patience: the run in .* has None, found 3"),
    "temper": ({"temper": 2.0}, r"temper: the run in .* has \[\], found \[temper\(2\.0\)\]"),
    "objective": ({"objective": FreeBits(1.0)}, "objective: the run in .* has Trace_ELBO.*found FreeBits"),
    "schedule": ({"lr_schedule": None}, r"lr_schedule: the run in .* has CosineAnnealingLR\(.*found NoneType"),
    "settings of a schedule": ({"lr_schedule": partial(CosineAnnealingLR, T_max=7)}, "T_max=30.*found.*T_max=7"),
    "milestones": ({"lr_schedule": partial(MultiStepLR, milestones=[7])}, "lr_schedule: .*found MultiStepLR"),
    "validation gone": ({"validation": None}, "validation: the run in .* has 270 data in .*, found none"),
    "frozen": ({"of": frozen}, "parameters: the run in .* has 10 trained.*found 9 trained"),
    "validation": ({"validation": other_data}, "validation: the run in .* has 270 data in"),
    "story": ({"of": other_story}, "pair: the run in .* has vae, .*found vae, "),
    "pair": ({"of": smaller}, "pair: the run in .* has vae, .*found vae, "),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_other_settings_is_not_resumed(name, short, tmp_path):
    options, message = OTHERS[name]
    options = {k: v() if v is other_data else v for k, v in options.items()}
    folder = shutil.copytree(short, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        train(folder, 3, **{"temper": None, **options})
    assert_same(state(folder), state(short))


def test_nothing_is_overwritten(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(FileExistsError, match=r"out: .*run holds a run; go on with it \(resume=True\)"):
        train(folder, 3, resume=False, temper=None)
    (folder / "checkpoint.safetensors").unlink()
    with pytest.raises(FileExistsError, match=r"out: .*run holds a pair, which would be lost"):
        train(folder, 3, temper=None)
    del before["checkpoint.safetensors"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_one_process_at_a_time(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "run")
    with filelock.FileLock(folder / ".lock"), pytest.raises(BlockingIOError, match="is in use by another process"):
        train(folder, 3, temper=None)
    train(folder, 3, temper=None)


def test_a_weight_is_the_same_however_it_is_written(tmp_path):
    train(tmp_path / "run", 1, temper=2)
    assert train(tmp_path / "run", 2, temper=pv.temper(2.0))[1].epochs == 2


def test_a_handler_of_ones_own_is_no_hindrance(tmp_path):
    def of():
        bare = pair()
        return pv.Variant(bare.model, bare.guide, handler=pyro.poutine.scale(scale=0.5))

    train(tmp_path / "run", 1, temper=None, of=of)
    assert train(tmp_path / "run", 2, temper=None, of=of)[1].epochs == 2


def test_what_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(ValueError, match="resume: needs the folder of the run"):
        train(None)
    variant = pair()
    stock = pyro.infer.SVI(*variant, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    with pytest.raises(ValueError, match="resume: SVI has no state_dict and load_state_dict"):
        train(tmp_path / "run", of=lambda: variant, objective=stock, temper=None, clip=None, lr_schedule=None)


def test_another_machine_is_told(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "run")
    path = folder / "checkpoint.safetensors"
    held = storage.read_state(path)
    storage.write_state(path, {**held, "machine": {**held["machine"], "threads": "64"}})
    with pytest.warns(UserWarning, match="not be the same bit by bit: threads was 64, is 1"):
        train(folder, 3, temper=None)


# ---------------------------------------------------------------------- events, and the file format


def test_tensorboard_reads_what_was_logged(in_order, tmp_path):
    train(tmp_path / "run", 2, temper=None)
    _, run = train(tmp_path / "run", 4, temper=None)
    found = logged(tmp_path / "run")
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx(run.history["elbo"], rel=1e-6)


def test_files_have_the_rights_that_a_user_gives_files(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write_state(tmp_path / "state", {})
        storage.write_json(tmp_path / "json", {})
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


def test_states_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0)
    held = {
        "numbers": [1, 2.5, float("inf"), True, None, "word", ()],
        "nested": {0: {"a": (1, [2])}},
        "tensors": {"half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor(True), "none": torch.zeros(0, 3)},
        "tied": [shared, shared],
        "views": [shared[:2], shared[3:], shared.reshape(2, 3), shared.reshape(2, 3).T],
    }
    storage.write_state(tmp_path / "state", held)
    assert_same(storage.read_state(tmp_path / "state"), held)
    with pytest.raises(TypeError, match="a/0: a function cannot be saved"):
        storage.write_state(tmp_path / "state", {"a": [lambda: 0]})
    assert_same(storage.read_state(tmp_path / "state"), held)


# ---------------------------------------------------------------------- the command line, killed for real


def command(*words, at):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads of small nets wait for each other
    return [sys.executable, "-m", "pyro_vae", *map(str, words)], {"cwd": at, "env": env, "stdout": subprocess.DEVNULL}


def test_the_command_line_is_killed_and_resumed(tmp_path):
    words = ["train", "beta_vae", "--beta", "2", "--epochs", "25", "--hidden", "32", "--no-progress"]
    for name in ("whole", "killed"):
        call, options = command(*words, "--out", tmp_path / name, at=Path(__file__).parents[1])
        if name == "whole":
            subprocess.run(call, check=True, **options)
            continue
        process = subprocess.Popen(call, **options)
        while epochs_done(tmp_path / name) < 3:
            assert process.poll() is None, "the run was over before it was killed"
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert epochs_done(tmp_path / name) < 25
        call, options = command("train", "--resume", tmp_path / name, "--no-progress", at=options["cwd"])
        subprocess.run(call, check=True, **options)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
