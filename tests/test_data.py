"""Data of every kind: sets by name, arrays on disk, folders of images, tables; and what is refused, in one line."""

import bz2
import json
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import pyro_vae as pv
from pyro_vae.data import SETS, Data, Images, Table, feed, first, frame, load
from pyro_vae.likelihoods import Normal

# ---------------------------------------------------------------------- sets by name


def idx(path, values, kind=8):
    """An array in the format of MNIST's files."""
    values = np.asarray(values)
    header = bytes([0, 0, kind, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.astype({8: "u1", 12: ">i4"}[kind]).tobytes())


def written(name, root):
    """A small set in torchvision's layout, four test images and a training part of two more than are held out."""
    rng, n = np.random.default_rng(0), 10_002
    images = {"train": rng.integers(0, 256, (n, 2, 3)), "test": rng.integers(0, 256, (4, 2, 3))}
    labels = {part: np.arange(len(x)) % 10 for part, x in images.items()}
    for part in ("train", "test"):
        own = "t10k" if part == "test" else part
        if name in ("KMNIST", "FashionMNIST"):
            idx(root / name / "raw" / f"{own}-images-idx3-ubyte", images[part])
            idx(root / name / "raw" / f"{own}-labels-idx1-ubyte", labels[part])
        elif name == "QMNIST":
            idx(root / name / "raw" / f"qmnist-{part}-images-idx3-ubyte", images[part])
            idx(root / name / "raw" / f"qmnist-{part}-labels-idx2-int", np.stack([labels[part]] * 8, 1), 12)
        else:
            for kind in ("balanced", "letters"):
                idx(root / name / "raw" / f"emnist-{kind}-{part}-images-idx3-ubyte", images[part])
                idx(root / name / "raw" / f"emnist-{kind}-{part}-labels-idx1-ubyte", labels[part])
    return images, labels


@pytest.mark.parametrize(
    ("name", "loader"),
    [("kmnist", "KMNIST"), ("qmnist", "QMNIST"), ("emnist", "EMNIST"), ("emnist-letters", "EMNIST")],
)
def test_relatives_of_mnist_through_torchvision(name, loader, tmp_path):
    images, labels = written(loader, tmp_path)
    parts = {s: load(name, s, tmp_path) for s in ("train", "validation", "test", "train+validation")}
    assert {s: len(p.x) for s, p in parts.items()} == {
        "train": 2,
        "validation": 10_000,
        "test": 4,
        "train+validation": 10_002,
    }
    expected = torch.as_tensor(images["test"][:, None] / 255).float()
    upright = expected.mT if loader == "EMNIST" else expected
    torch.testing.assert_close(parts["test"].x, upright)
    assert parts["test"].labels.tolist() == labels["test"].tolist()
    assert torch.equal(torch.cat([parts["train"].x, parts["validation"].x]), parts["train+validation"].x)
    assert parts["train"].shape == tuple(upright.shape[1:])


@pytest.mark.parametrize(
    ("name", "loader", "key"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar_through_torchvision(name, loader, key, tmp_path, monkeypatch):
    from torchvision import datasets

    kind = getattr(datasets, loader)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3 * 32 * 32), dtype=np.uint8)
    for file, _ in [*kind.train_list, *kind.test_list]:
        (folder / file).write_bytes(pickle.dumps({"data": pixels, key: [3, 1, 4]}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["a"] * 10}))
    with pytest.raises(FileNotFoundError, match=f"root: no {loader} under .*; pass download=True"):
        load(name, "test", tmp_path)  # other files than the published ones are never unpickled
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    test = load(name, "test", tmp_path)
    torch.testing.assert_close(test.x, torch.as_tensor(pixels.reshape(3, 3, 32, 32)).float() / 255)
    assert test.labels.tolist() == [3, 1, 4]
    assert len(load(name, "train+validation", tmp_path).x) == 3 * len(kind.train_list)


def test_street_numbers_through_torchvision(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [2], [3], [4]])})
    monkeypatch.setattr(datasets.svhn, "check_integrity", lambda *_: True)
    test = load("svhn", "test", tmp_path)
    torch.testing.assert_close(test.x, torch.as_tensor(pixels).permute(3, 2, 0, 1).float() / 255)
    assert test.labels.tolist() == [1, 0, 2, 3, 4]


def test_postcodes_through_torchvision(tmp_path):
    rows = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (1003, 256))
    text = "".join(
        f"{i % 10 + 1} " + " ".join(f"{j + 1}:{v:g}" for j, v in enumerate(r)) + "\n" for i, r in enumerate(rows)
    )
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(text.encode(), 1))
    train, validation = load("usps", "train", tmp_path), load("usps", "validation", tmp_path)
    assert (train.x.shape, validation.x.shape) == ((3, 1, 16, 16), (1000, 1, 16, 16))
    np.testing.assert_allclose(train.x.flatten(1), (rows[:3] + 1) / 2, atol=1 / 255)
    assert train.labels.tolist() == [0, 1, 2]


def test_stl10_through_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    pixels.transpose(0, 1, 3, 2).tofile(folder / "test_X.bin")
    np.array([1, 2, 3, 10], dtype=np.uint8).tofile(folder / "test_y.bin")
    monkeypatch.setattr(datasets.stl10, "check_integrity", lambda *_: True)
    test = load("stl10", "test", tmp_path)
    torch.testing.assert_close(test.x, torch.as_tensor(pixels).float() / 255)
    assert test.labels.tolist() == [0, 1, 2, 9]


def test_patches_are_real_and_their_parts_share_no_pixel():
    parts = {s: load("patches", s) for s in ("train", "validation", "test", "train+validation")}
    assert [len(p.x) for p in parts.values()] == [1350, 250, 250, 1600]
    assert torch.equal(parts["test"].x, load("patches", "test").x)
    photographs = [np.array(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    for part, (start, stop) in {"train": (0, 448), "validation": (448, 544), "test": (544, 640)}.items():
        for x, label in zip(parts[part].x[:20], parts[part].labels[:20], strict=True):
            tile = (x * 255).round().byte().permute(1, 2, 0).numpy()
            strip = photographs[label][:, start:stop]
            assert any(
                np.array_equal(strip[i : i + 32, j : j + 32], tile)
                for i in range(0, 396, 16)
                for j in range(0, stop - start - 31, 16)
            )


def test_every_set_says_in_one_line_what_it_is():
    assert {"kmnist", "qmnist", "emnist", "cifar10", "cifar100", "svhn", "usps", "stl10", "patches"} <= set(SETS)
    assert all(entry.description and "\n" not in entry.description for entry in SETS.values())


@pytest.mark.parametrize("name", sorted(set(SETS) - {"digits", "patches", "sprites", "sprites-fine", "mnist-static"}))
def test_missing_sets_say_how_to_get_them(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root: no .* under .*; pass download=True") as error:
        load(name, root=tmp_path)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- arrays on disk


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "float16", "float32", "float64", "bool"])
def test_arrays_keep_their_type_until_they_are_used(dtype, tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (20, 4)).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    data = load(tmp_path / "x.npy", divide_by=2)
    assert data.x.dtype == torch.as_tensor(values).dtype
    pair = pv.vae(data.shape, latent=2, hidden=(4,), likelihood=Normal)
    batch = next(feed.batches(pair, data, 20, None).fixed())["x"]
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, torch.as_tensor(values.astype("float32") / 2))
    assert torch.equal(first(data, 3, pair)["x"], batch[:3])
    assert Data(data.x, dynamic=True).drawn().x.unique().tolist() == [0, 1]


MEASURE = """
import resource, sys, torch, pyro_vae as pv
def held():  # what a process has for itself; pages of a mapped file are the system's to take back
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
pair = pv.vae((3, 64, 64), latent=2)
few = pv.data.Data(torch.full((100, 3, 64, 64), 255, dtype=torch.uint8), divide_by=255, dynamic=True)
pv.data.first(few, 50, pair)
before = peak()
pv.data.load(sys.argv[2], binarise="dynamic", divide_by=255)
looked = peak() - before
before = held()
data = pv.data.load(sys.argv[1], divide_by=255)
parts = pv.data.batches(pair, data, 50, torch.device("cpu"))
for i, [(_, batch)] in enumerate(parts.epoch(1)):
    assert parts.transform(batch)["x"].shape == (50, 3, 64, 64)
    if i == 2:
        break
pv.data.first(data, 50, pair)
print(data.x.nbytes / 2**20, held() - before, looked)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured as Linux tells it")
def test_an_array_larger_than_memory_stays_on_disk(tmp_path):
    """64 GiB, all of it holes; and the range of probabilities is looked up without a copy."""
    large, small = tmp_path / "large.npy", tmp_path / "small.npy"
    n = 64 * 2**30 // (3 * 64 * 64)
    np.lib.format.open_memmap(large, mode="w+", dtype=np.uint8, shape=(n, 3, 64, 64)).flush()
    assert large.stat().st_blocks * 512 < 2**20
    np.save(small, np.full((100, 1, 1024, 1024), 255, dtype=np.uint8))
    run = subprocess.run([sys.executable, "-c", MEASURE, large, small], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    size, grown, looked = map(float, run.stdout.split())
    assert size > 65_000
    assert grown < 200  # MiB; the order of 5.6 million data takes 43 of them, and another 43 while it is drawn
    assert looked < 200  # MiB; 100 are the file's own pages, and a copy in float32 would take 400


def test_a_folder_holds_one_array_for_each_part(tmp_path):
    for part, n in {"train": 5, "valid": 3, "test": 2}.items():
        np.save(tmp_path / f"{part}.npy", np.full((n, 4), n))
    sizes = {s: len(load(tmp_path, s).x) for s in ("train", "validation", "test", "train+validation", "all")}
    assert sizes == {"train": 5, "validation": 3, "test": 2, "train+validation": 8, "all": 10}
    assert len(load(tmp_path / "train.npy", "all").x) == 5


def test_eight_bit_arrays_train_as_their_fractions_do(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", values)
    bounds = []
    for data in (load(tmp_path / "x.npy", divide_by=255), torch.as_tensor(values).float() / 255):
        torch.manual_seed(0)
        pair = pv.vae((1, 8, 8), latent=2, hidden=(8,), likelihood=Normal)
        pv.fit(pair, data, epochs=2, batch_size=16, progress=False)
        bounds.append(pv.evaluate(pair, data, particles=3).elbo)
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-4)


def test_a_memory_map_is_never_written_to(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    load(tmp_path / "x.npy").x.add_(1)
    assert np.load(tmp_path / "x.npy").sum() == 0


def test_binarised_arrays_take_the_division_into_account(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 100, 200, 255]], dtype=np.uint8))
    options = {"divide_by": 255}
    assert load(tmp_path / "x.npy", binarise="threshold", **options).x.tolist() == [[0, 0, 1, 1]]
    static = load(tmp_path / "x.npy", binarise="static", **options)
    assert torch.equal(first(static)["x"], static.x)
    dynamic = load(tmp_path / "x.npy", binarise="dynamic", **options)
    mean = torch.stack([dynamic.drawn(seed).x for seed in range(2000)]).mean(0)
    torch.testing.assert_close(mean, torch.tensor([[0, 100, 200, 255]]) / 255, atol=0.05, rtol=0)


# ---------------------------------------------------------------------- moments


@pytest.mark.parametrize("offset", [0, 1e6])
def test_moments_of_vectors_are_those_of_scikit_learn(offset):
    x = np.random.default_rng(0).normal(size=(9000, 4)) * [1, 20, 0, 0.1] + [0, 5, 0.1, 3] + offset
    scaler = StandardScaler().fit(x)
    found = Data(torch.as_tensor(x)).moments()
    np.testing.assert_allclose(found["mean"], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(found["std"], scaler.scale_, rtol=1e-6)
    assert found["std"][2] == 1
    json.dumps(found)


def test_moments_of_images_are_per_channel_and_after_the_division():
    x = torch.randint(0, 256, (3000, 3, 40, 40), dtype=torch.uint8)
    found = Data(x, divide_by=255).moments()
    values = x.numpy() / 255
    np.testing.assert_allclose(found["mean"], values.mean((0, 2, 3))[:, None, None], rtol=1e-12)
    np.testing.assert_allclose(found["std"], values.std((0, 2, 3))[:, None, None], rtol=1e-12)


def test_moments_of_what_cannot_be_standardised():
    with pytest.raises(ValueError, match="moments: x holds NaN"):
        Data(torch.tensor([[1.0], [float("nan")]])).moments()
    with pytest.raises(ValueError, match="moments: dynamic data are binary"):
        Data(torch.zeros(3, 2), dynamic=True).moments()


# ---------------------------------------------------------------------- folders of images


def picture(path, shape=(8, 8, 3), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def flat(tmp_path):
    for i in range(25):
        picture(tmp_path / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._00.png").write_bytes(b"what some systems leave behind")
    return tmp_path


def names(images):
    return [file.name for file in images.files]


def test_images_are_decoded_when_they_are_used(flat):
    images = load(flat, "all")
    assert isinstance(images, Images)
    assert (images.shape, len(images), images.labels, names(images)[:2]) == ((3, 8, 8), 25, None, ["00.png", "01.png"])
    pixels = np.array(Image.open(flat / "03.png"))
    torch.testing.assert_close(images[3], torch.as_tensor(pixels).permute(2, 0, 1).float() / 255)


def test_a_folder_without_parts_is_divided_the_same_way_each_time(flat):
    parts = {s: names(load(flat, s)) for s in ("train", "validation", "test", "train+validation")}
    assert [len(p) for p in parts.values()] == [21, 2, 2, 23]
    assert sorted(parts["train"] + parts["validation"] + parts["test"]) == names(load(flat, "all"))
    assert set(parts["train"]) | set(parts["validation"]) == set(parts["train+validation"])
    assert parts["test"] == names(load(flat, "test"))
    assert parts["test"] != names(load(flat, "test", seed=1))


def test_subfolders_are_classes(tmp_path):
    for name, n in (("owl", 8), ("bat", 4), ("train", 3)):  # a train is a class too, beside an owl
        for i in range(n):
            picture(tmp_path / name / "deep" / f"{name}{i}.jpg")
    images = load(tmp_path, "all")
    assert images.classes == ["bat", "owl", "train"]
    assert images.labels.tolist() == [0] * 4 + [1] * 8 + [2] * 3
    assert images[4][1] == 1
    part = load(tmp_path, "train")
    assert [part.classes[i] for i in part.labels] == [f.parts[-3] for f in part.files]


def test_subfolders_are_parts_and_classes_agree_between_them(tmp_path):
    for part, found in {"train": "abc", "val": "ac", "test": "cd"}.items():
        for name in found:
            picture(tmp_path / part / name / "x.png")
    parts = {s: load(tmp_path, s) for s in ("train", "validation", "test", "train+validation", "all")}
    assert all(p.classes == ["a", "b", "c", "d"] for p in parts.values())
    assert {s: p.labels.tolist() for s, p in parts.items()} == {
        "train": [0, 1, 2],
        "validation": [0, 2],
        "test": [2, 3],
        "train+validation": [0, 1, 2, 0, 2],
        "all": [0, 1, 2, 0, 2, 2, 3],
    }


def test_images_are_resized_and_made_grey(tmp_path):
    for i, shape in enumerate([(20, 30, 3), (9, 7, 3), (40, 40)]):
        picture(tmp_path / f"{i}.png", shape)
    images = load(tmp_path, "all", size=(6, 5))
    assert images.shape == (3, 6, 5)
    assert torch.stack([images[i] for i in range(3)]).shape == (3, 3, 6, 5)
    assert load(tmp_path, "all", size=7, grey=True)[1].shape == (1, 7, 7)


def test_images_of_one_name_have_noise_of_their_own(tmp_path):
    for folder in "ab":
        picture(tmp_path / folder / "0.png", (16, 16))
    same = load(tmp_path, "all")
    drawn = load(tmp_path, "all", binarise="static")
    assert torch.equal(same[0][0], same[1][0])
    assert not torch.equal(drawn[0][0], drawn[1][0])
    elsewhere = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert torch.equal(load(elsewhere, "all", binarise="static")[0][0], drawn[0][0])


def test_the_parts_of_a_folder_agree_on_colour_and_size(tmp_path):
    picture(tmp_path / "train" / "0.png", (8, 8, 3))
    picture(tmp_path / "validation" / "0.png", (8, 8))  # grey, as the first of its part
    assert load(tmp_path, "train").shape == load(tmp_path, "validation").shape == (3, 8, 8)
    assert load(tmp_path, "validation")[0].shape == (3, 8, 8)


def test_names_that_look_like_numbers_or_nothing(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("zip,land,code\n" + "".join(f"0{100 + i},{('NA', 'DE', 'FR')[i % 3]},{i:03d}\n" for i in range(30)))
    with pytest.raises(ValueError, match=r"column 'zip': '0100' begins with 0.*'categorical' or 'count'$"):
        load(path, "all", columns={"land": "categorical"})
    table = load(path, "all", columns={"zip": "categorical", "land": "categorical", "code": "count"})
    assert table.columns["land"].values == ("DE", "FR", "NA")
    assert table.columns["zip"].values[0] == "0100"
    assert table.x[:3, 2].tolist() == [0, 1, 2]
    again = load(path, "all", columns=table.schema())
    assert torch.equal(again.x, table.x)


def test_large_whole_numbers_are_amounts():
    frame = pd.DataFrame({"few": range(20), "people": [10**6 * i for i in range(20)]})
    assert [column.kind for column in load(frame, "all").columns.values()] == ["count", "real"]


def test_the_binarisation_of_images_is_what_it_says(flat):
    grey = load(flat, "all", grey=True)
    p = torch.stack(list(map(grey.__getitem__, range(25))))
    threshold, static = (load(flat, "all", grey=True, binarise=how) for how in ("threshold", "static"))
    assert torch.equal(first(threshold)["x"], (p > 0.5).float())
    assert torch.equal(static[3], static[3])
    assert torch.equal(static[3], load(flat, "all", grey=True, binarise="static")[3])
    assert not torch.equal(static[3], load(flat, "all", grey=True, binarise="static", seed=1)[3])
    dynamic = load(flat, "all", grey=True, binarise="dynamic")
    draws = torch.stack([dynamic[3] for _ in range(2000)])
    assert float((draws.mean(0) - p[3]).abs().max()) < 0.06
    assert torch.equal(dynamic.drawn(5)[3], dynamic.drawn(5)[3])
    torch.testing.assert_close(torch.stack([dynamic.drawn(s)[3] for s in range(2000)]).mean(0), p[3], atol=0.06, rtol=0)


def test_a_folder_is_trained_on_evaluated_and_drawn(flat):
    for i in range(25):
        Image.fromarray(np.full((8, 8), 230 * (i % 2) + 10, dtype=np.uint8)).save(flat / f"{i:02}.png")
    train, validation = (load(flat, s, size=8, grey=True, binarise="dynamic") for s in ("train", "validation"))
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        pair = pv.vae(train.shape, latent=2, hidden=(16,))
        run = pv.fit(pair, train, validation=validation, epochs=10, batch_size=8, lr=1e-2, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        torch.rand(5)
    assert torch.equal(*weights)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 10
    assert pv.evaluate(pair, validation, particles=3).data == 2
    for figure in (pv.plot.samples(pair, 4), pv.plot.reconstructions(pair, train, 3), pv.plot.latents(pair, train)):
        pv.plot.plt.close(figure)


def test_colour_images_in_standardised_units(flat):
    train = load(flat, "train")
    moments = train.moments()
    x = first(train)["x"]
    np.testing.assert_allclose(moments["mean"], x.double().mean((0, 2, 3))[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(moments["std"], x.double().std((0, 2, 3), correction=0)[:, None, None], rtol=1e-6)
    pair = pv.vae(train.shape, latent=2, likelihood=partial(Normal, **moments))
    pv.fit(pair, train, epochs=1, progress=False)
    assert pair.sample(2).shape == (2, 3, 8, 8)


def test_a_user_may_decode_in_workers(flat):
    train = load(flat, "train")
    pair = pv.vae(train.shape, latent=2, likelihood=Normal)
    loader = DataLoader(train, batch_size=8, num_workers=1, shuffle=True)
    one, two = ([b["x"] for [(_, b)] in feed.batches(pair, loader, 8, None).epoch(3)] for _ in range(2))
    assert all(map(torch.equal, one, two))


# ---------------------------------------------------------------------- tables


def people(n=200):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(1.7, 0.1, n),
            "smokes": rng.choice(["yes", "no"], n),
            "city": rng.choice(["Riga", "Oslo", "Rome"], n),
            "visits": rng.poisson(20, n),
            "rooms": rng.integers(1, 5, n),
            "debt": rng.integers(-50, 50, n),
            "owner": rng.random(n) > 0.5,
            "zip": rng.choice(["01234", "98765", "00017"], n),
        }
    )


KINDS = {
    "height": "real",
    "smokes": "binary",
    "city": "categorical",
    "visits": "count",
    "rooms": "categorical",
    "debt": "real",
    "owner": "binary",
    "zip": "categorical",
}


@pytest.fixture
def csv(tmp_path):
    people().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def test_kinds_follow_the_rule(csv):
    table = load(csv, "all", columns={"zip": "categorical"})
    assert {name: column.kind for name, column in table.columns.items()} == KINDS
    assert str(table.columns["city"]) == "categorical (Oslo, Riga, Rome)"
    assert table.columns["zip"].values == ("00017", "01234", "98765")
    assert (table.shape, table.x.dtype) == ((8,), torch.float32)


def test_a_table_goes_round(csv):
    table = load(csv, "all", columns={"zip": "categorical"})
    back = table.to_frame(table.x)
    pd.testing.assert_frame_equal(back, people(), rtol=1e-6, check_dtype=False)
    assert back["visits"].dtype.kind == "i"
    assert back["owner"].dtype == bool


def test_a_schema_is_reused_exactly(csv, tmp_path):
    table = load(csv, "all", columns={"zip": "categorical"})
    schema = json.loads(json.dumps(table.schema()))
    few = people().iloc[:3][list(reversed(KINDS))]  # other columns first, fewer categories, constants
    few.assign(city="Rome").to_csv(tmp_path / "few.csv", index=False)
    again = load(tmp_path / "few.csv", "all", columns=schema)
    assert again.schema() == table.schema()
    assert again.x[:, 2].tolist() == [2, 2, 2]
    assert torch.equal(again.x[:, [0, 1, 7]], table.x[:3, [0, 1, 7]])
    pd.testing.assert_frame_equal(frame(table.x, schema), table.to_frame(table.x))


def test_parts_of_a_table_are_disjoint_and_agree(csv):
    options = {"columns": {"zip": "categorical"}}
    parts = {s: load(csv, s, **options) for s in ("train", "validation", "test", "train+validation")}
    assert [len(p.x) for p in parts.values()] == [160, 20, 20, 180]
    assert all(p.schema() == parts["train"].schema() for p in parts.values())
    whole = torch.cat([parts["train"].x, parts["validation"].x, parts["test"].x])
    expected = load(csv, "all", **options).x
    assert torch.equal(whole[whole[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_settings_are_those_of_the_part_and_plain(csv):
    train = load(csv, columns={"zip": "categorical"})
    settings = train.settings()
    assert settings["columns"] == KINDS | {"city": 3, "rooms": 4, "zip": 3}
    scaler = StandardScaler().fit(train.x.numpy().astype("float64"))
    real = [kind == "real" for kind in KINDS.values()]
    np.testing.assert_allclose(settings["mean"], np.where(real, scaler.mean_, 0))
    np.testing.assert_allclose(settings["std"], np.where(real, scaler.scale_, 1))
    assert json.loads(json.dumps(settings)) == settings


def test_a_folder_holds_one_table_for_each_part(tmp_path):
    rows = people()
    for part, cut in {"train": slice(0, 150), "validation": slice(150, 190), "test": slice(190, None)}.items():
        rows.iloc[cut].to_csv(tmp_path / f"{part}.csv", index=False)
    parts = {s: load(tmp_path, s, columns={"zip": "categorical"}) for s in ("train", "validation", "test")}
    assert [len(p.x) for p in parts.values()] == [150, 40, 10]
    assert parts["test"].schema() == parts["train"].schema()


def test_frames_of_pandas_are_taken_as_they_are():
    rows = pd.DataFrame(
        {
            "n": pd.array(range(20), dtype="Int64"),
            "c": pd.Categorical(["x", "y", "z", "x"] * 5),
            "b": pd.array([True, False] * 10, dtype="boolean"),
        }
    )
    table = load(rows, "all")
    assert isinstance(table, Table)
    assert table.schema() == {
        "n": {"kind": "count"},
        "c": {"kind": "categorical", "values": ["x", "y", "z"]},
        "b": {"kind": "binary", "values": [False, True]},
    }


def test_numbers_of_categories_stay_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("class,age\n" + "".join(f"{i % 3 + 1},{i}.5\n" for i in range(30)))
    table = load(tmp_path / "x.csv", "all", columns={"class": "categorical"})
    assert table.columns["class"].values == (1, 2, 3)
    (tmp_path / "y.csv").write_text("class,age\n1,2\nfour,3\n")
    with pytest.raises(ValueError, match=r"y.csv: column 'class': unknown value 'four', expected one of 1, 2, 3"):
        load(tmp_path / "y.csv", "all", columns=table.schema())


def test_a_table_is_learned_as_numbers_too(csv):
    train, validation = (load(csv, s, columns={"zip": "categorical"}) for s in ("train", "validation"))
    pair = pv.vae(train.shape, latent=2, hidden=(8,), likelihood=partial(Normal, **train.moments()))
    run = pv.fit(pair, train, validation=validation, epochs=2, progress=False)
    assert np.isfinite(run.history["validation_elbo"]).all()
    with pytest.raises(ValueError, match=r"column '.*': expected .*; pass draws, not means"):
        train.to_frame(pair.sample(5, mean=True))


# ---------------------------------------------------------------------- feeding


def loaders(x):
    """Loaders whose order comes from a generator of their own."""
    data = TensorDataset(x)
    return {
        "loader": DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(3)),
        "sampler": DataLoader(data, 4, sampler=RandomSampler(data, generator=torch.Generator())),
        "with replacement": DataLoader(
            data, 4, sampler=RandomSampler(data, replacement=True, num_samples=90, generator=torch.Generator())
        ),
        "batch sampler": DataLoader(
            data,
            batch_sampler=torch.utils.data.BatchSampler(RandomSampler(data, generator=torch.Generator()), 4, False),
        ),
    }


@pytest.mark.parametrize("name", loaders(torch.zeros(2)))
def test_a_generator_of_the_users_own_repeats_the_epoch(name):
    x = torch.arange(40.0)[:, None]
    loader = loaders(x)[name]
    generator = feed._generators(loader)[0]
    state = generator.get_state()
    data = feed.batches(pv.vae((1,), latent=1, likelihood=Normal), loader, 4, None)
    orders = []
    for seed in (5, 5, 6):
        orders.append(torch.cat([batch["x"] for [(_, batch)] in data.epoch(seed)]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(generator.get_state(), state)


def test_data_too_large_for_the_device_stay_where_they_are(monkeypatch):
    x, device = {"x": torch.zeros(10, 100)}, torch.device("cuda")
    for free, fits in ((8001, True), (7999, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        assert feed._fits(x.values(), device) is fits
    assert feed._fits(x.values(), torch.device("cpu"))


@pytest.mark.parametrize("form", ["tensor", "list", "mapping", "data", "dataset", "labelled", "loader"])
def test_the_first_data_of_every_kind(form):
    x = torch.rand(300, 1, 8, 8)
    pair = pv.vae((1, 8, 8), latent=2, likelihood=Normal)
    data = {
        "tensor": x,
        "list": x.tolist(),
        "mapping": {"x": x},
        "data": Data(x),
        "dataset": TensorDataset(x),
        "labelled": TensorDataset(x, torch.arange(300)),
        "loader": DataLoader(TensorDataset(x), batch_size=7),
    }[form]
    for n in (1, 270, 300, 400, None):
        assert torch.equal(pair.prepare(first(data, n, pair))["x"], x[:n])
    assert torch.equal(torch.as_tensor(first(data, 5)["x"]), x[:5])
    for figure in (
        pv.plot.reconstructions(pair, data, 3),
        pv.plot.latents(pair, data),
        pv.plot.traversals(pair, data),
        pv.plot.interpolations(pair, first(data, 2, pair), first(data, 2, pair), 3),
    ):
        pv.plot.plt.close(figure)


# ---------------------------------------------------------------------- what is refused


def text(path, words):
    path.write_text(words)
    return path


def saved(path, array, **options):
    np.save(path, array, **options)
    return path


def zipped(path, **arrays):
    np.savez(path, **arrays)
    return path


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def pictures(folder, **shapes):
    for name, shape in shapes.items():
        picture(folder / f"{name}.png", shape)
    return folder


def everything(images):
    return [images[i] for i in range(len(images))]


def table(words, **options):
    return lambda d: load(text(d / "t.csv", words), "all", **options)


def rows(*columns, **options):
    return lambda d: load(pd.DataFrame(dict(columns)), "all", **options)


SCHEMA = {"a": {"kind": "real"}, "b": {"kind": "categorical", "values": ["x", "y"]}}
LARGE = np.random.default_rng(0).random((200, 4))

REFUSED = {
    # files
    "name like a file": (lambda d: load(d / "x.parquet"), "x.parquet: no such file or folder"),
    "other ending": (lambda d: load(text(d / "x.txt", "1")), "x.txt: expected a folder or a file that ends in .csv"),
    "no folder": (lambda d: load(d / "no" / "folder"), "no/folder: no such file or folder"),
    "no table": (lambda d: load(d / "x.csv"), "x.csv: no such file"),
    "frame of numbers": (lambda d: load(np.zeros((3, 2))), "name_or_path: expected a name or a file, found ndarray"),
    "split of a set": (lambda d: load("digits", "all"), "split: unknown 'all', expected one of test, train"),
    # arrays
    "empty file": (lambda d: load(text(d / "x.npy", "")), "x.npy: not an array of numbers"),
    "cut npy": (lambda d: load(cut(saved(d / "x.npy", LARGE))), "x.npy: not an array of numbers"),
    "cut header": (lambda d: load(cut(saved(d / "x.npy", LARGE), 0.01)), "x.npy: not an array of numbers"),
    "cut npz": (lambda d: load(cut(zipped(d / "x.npz", train=LARGE))), "x.npz: not an array of numbers"),
    "objects": (
        lambda d: load(saved(d / "x.npy", np.array([{}, {}], dtype=object), allow_pickle=True)),
        "x.npy: not an array of numbers",
    ),
    "objects in npz": (
        lambda d: load(zipped(d / "x.npz", train=np.array([{}], dtype=object))),
        "x.npz: not an array of numbers",
    ),
    "texts": (lambda d: load(saved(d / "x.npy", np.array(["a", "b"]))), "x.npy: expected numbers .* found <U1"),
    "complex": (lambda d: load(saved(d / "x.npy", np.ones(3) * 1j)), "x.npy: expected numbers .* found complex128"),
    "byte order": (
        lambda d: load(saved(d / "x.npy", np.ones(3, ">f4"))),
        "expected numbers in this machine's byte order",
    ),
    "no data": (lambda d: load(saved(d / "x.npy", np.zeros((0, 3)))), "x.npy: (not an array|expected)"),
    "no columns": (
        lambda d: load(zipped(d / "x.npz", train=np.zeros((3, 0)))),
        r"at least one datum, .* shape \(3, 0\)",
    ),
    "scalar": (lambda d: load(saved(d / "x.npy", np.float64(3))), "x.npy: expected .*at least one datum"),
    "npz without the split": (
        lambda d: load(zipped(d / "x.npz", train=LARGE), "test"),
        r"x.npz: holds the arrays \['train'\], none for split 'test'",
    ),
    "npz with two": (
        lambda d: load(zipped(d / "x.npz", valid=LARGE, val=LARGE), "validation"),
        r"expected one of the arrays \['valid', 'val'\] for 'validation', found both",
    ),
    "npz of two shapes": (
        lambda d: load(zipped(d / "x.npz", train=LARGE, valid=LARGE[:, :2]), "train+validation"),
        "x.npz: expected parts of one data shape",
    ),
    "part of npy": (
        lambda d: load(saved(d / "x.npy", LARGE), "validation"),
        "x.npy: a .npy file is one part.*put train.npy, validation.npy and test.npy into one folder",
    ),
    "folder without the split": (
        lambda d: saved(d / "train.npy", LARGE) and load(d, "test"),
        r"holds the arrays \['train'\], none for split 'test'",
    ),
    "folder of two kinds": (
        lambda d: saved(d / "train.npy", LARGE) and text(d / "test.csv", "a\n1\n") and load(d),
        "expected parts of one kind, found test.csv, train.npy",
    ),
    "not divided": (
        lambda d: load(saved(d / "x.npy", np.arange(6, dtype=np.uint8)), binarise="dynamic"),
        r"dynamic: expected probabilities in \[0, 1\], found 0 to 5; scale them first",
    ),
    "divided too little": (
        lambda d: load(saved(d / "x.npy", np.arange(6)), binarise="static", divide_by=2),
        r"binarise: expected values in \[0, 1\], found 0 to 2.5",
    ),
    "divided by nothing": (
        lambda d: load(saved(d / "x.npy", LARGE), divide_by=0),
        "divide_by: expected a finite number greater than 0, found 0",
    ),
    "options of others": (lambda d: load("digits", divide_by=16), "divide_by: for an array, found a named set"),
    "size of an array": (
        lambda d: load(saved(d / "x.npy", LARGE), size=3),
        "size: for a folder of images, found an array",
    ),
    "binary table": (
        lambda d: load(pd.DataFrame({"a": [1]}), binarise="static"),
        "binarise: for a named set or an array or a folder of images, found a table",
    ),
    "data of nothing": (lambda d: Data(torch.zeros(0, 3)), r"x: expected \(n, ...\) with at least one datum"),
    # sets
    "damaged set": (
        lambda d: written("KMNIST", d) and cut(d / "KMNIST/raw/train-images-idx3-ubyte") and load("kmnist", root=d),
        "root: KMNIST under .* is damaged; fetch it again",
    ),
    # images
    "no images": (lambda d: load(d), "holds no images .*nor train.npy or train.csv"),
    "unequal": (
        lambda d: everything(load(pictures(d, a=(8, 8), b=(9, 7)), "all")),
        r"b.png: 9 x 7 pixels, expected 8 x 8 as the first image; pass size=\(height, width\)",
    ),
    "damaged first": (lambda d: load(text(d / "a.png", "x").parent, "all"), "a.png: not an image that can be decoded"),
    "damaged": (
        lambda d: cut(pictures(d, a=(8, 8), b=(8, 8)) / "b.png") and everything(load(d, "all")),
        "b.png: not an image that can be decoded",
    ),
    "damaged, trained on": (
        lambda d: (
            cut(pictures(d, a=(8, 8), b=(8, 8)) / "b.png")
            and pv.fit(pv.vae((1, 8, 8), latent=2, likelihood=Normal), load(d, "all"), epochs=1, progress=False)
        ),
        "b.png: not an image that can be decoded",
    ),
    "colour among grey": (
        lambda d: everything(load(pictures(d, a=(8, 8), b=(8, 8, 3)), "all")),
        r"b.png: in colour \(RGB\), while the first image is grey; pass grey=True",
    ),
    "deep": (
        lambda d: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(d / "a.png") or load(d, "all"),
        "a.png: more than 8 bits to a channel",
    ),
    "mixed": (
        lambda d: pictures(d, a=(8, 8)) and pictures(d / "class", b=(8, 8)) and load(d, "all"),
        r"expected images or folders of images, one for each class, found both \(a.png\)",
    ),
    "too few": (
        lambda d: load(pictures(d, a=(8, 8)), "test"),
        "1 data are too few to hold out a part for 'test', expected 10 or more",
    ),
    "no such part": (
        lambda d: pictures(d / "train", a=(8, 8)) and load(d, "test"),
        r"holds the folders \['train'\], none for split 'test'",
    ),
    "size": (
        lambda d: load(pictures(d, a=(8, 8)), "all", size=(1, 2, 3)),
        r"size: expected \(height, width\) or one number",
    ),
    "size zero": (lambda d: load(pictures(d, a=(8, 8)), "all", size=0), r"size: .*found 0"),
    # tables
    "empty csv": (table(""), "t.csv: not a table that pandas can read"),
    "no rows": (table("a,b\n"), "t.csv: expected rows and columns, found 0 rows of 2 columns"),
    "ragged": (table("a,b\n1,2\n3,4,5\n"), "t.csv: not a table that pandas can read"),
    "longer rows": (table("a,b\n1,2,3\n3,4,5\n"), "t.csv: not a table that pandas can read"),
    "not text": (
        lambda d: load(saved(d / "x.npy", LARGE).rename(d / "x.csv"), "all"),
        "x.csv: not a table|no name|comes",
    ),
    "missing values": (
        table("a,b\n1,x\n2,\n3,NA\n"),
        "t.csv: column 'b': missing in 2 of 3 rows; drop them or fill them in",
    ),
    "constant": (table("a,b\n1,2\n2,2\n"), "t.csv: column 'b': holds the one value 2; drop it"),
    "twice": (table("a,b,a\n1,2,3\n4,5,6\n"), "t.csv: column 'a' comes 2 times"),
    "no header": (
        table("1.5,2\n3,4\n5,6\n"),
        r"t.csv: expected the names of columns in the first row, found the numbers",
    ),
    "an index": (table(",a\n0,3\n1,4\n"), "t.csv: column 1 has no name; pandas writes one so unless index=False"),
    "a stray text": (table("a\n1\n2\n?\n"), r"t.csv: column 'a': expected numbers, found '\?' among them"),
    "texts of all rows": (
        lambda d: load(pd.DataFrame({"a": [f"n{i}" for i in range(40)]}), "all"),
        "table: column 'a': 40 different texts in 40 rows, such as 'n0', are neither numbers nor categories",
    ),
    "unknown kind": (
        table("a\n1\n2\n", columns={"a": "ordinal"}),
        "column 'a': unknown 'ordinal', expected one of binary",
    ),
    "unknown column": (table("a\n1\n2\n", columns={"b": "real"}), "columns: .*t.csv has no column 'b'; it has a"),
    "columns no mapping": (table("a\n1\n2\n", columns=["real"]), "columns: expected a mapping from column to kind"),
    "unknown category": (
        table("a,b\n1,x\n2,z\n", columns=SCHEMA),
        "t.csv: column 'b': unknown value 'z', expected one of 'x', 'y'",
    ),
    "column beside the schema": (table("a,b,c\n1,x,3\n", columns=SCHEMA), "t.csv: column 'c' is not in the schema"),
    "no values": (
        table("a\n1\n", columns={"a": {"kind": "binary"}}),
        "column 'a': expected the values of a binary column",
    ),
    "real text": (table("a\nx\ny\n", columns={"a": "real"}), "t.csv: column 'a': expected numbers, found 'x'"),
    "count below zero": (
        table("a\n1\n-2\n", columns={"a": "count"}),
        "column 'a': expected counts, whole numbers of at least 0, found -2",
    ),
    "binary of three": (table("a\n1\n2\n3\n", columns={"a": "binary"}), "column 'a': expected two different values"),
    "infinite": (rows(("a", [0.5, float("inf")])), "table: column 'a': expected finite numbers, found inf"),
    "seconds": (
        rows(("a", np.arange(1.7e9, 1.7e9 + 100))),
        r"table: column 'a': numbers from 1700000000 to 1700000099 run together in 32 bits; subtract an offset",
    ),
    "huge": (rows(("a", [0.5, 1e300])), r"column 'a': numbers from 0.5 to 1e\+300 run together in 32 bits"),
    "dates": (rows(("a", pd.date_range("2020", periods=3))), "table: column 'a': expected numbers, found Timestamp"),
    "names no text": (rows((0, [1, 2])), "table: expected columns with names of text, found 0"),
    "frame too wide": (
        lambda d: frame(np.zeros((3, 2)), {"a": {"kind": "real"}}),
        r"x: expected \(n, 1\), found \(3, 2\)",
    ),
    "no category": (
        lambda d: frame([[1.0, 2.0]], SCHEMA),
        "column 'b': expected numbers of categories, 0 to 1, found 2; pass draws, not means",
    ),
    "no count": (lambda d: frame([[0.5]], {"a": {"kind": "count"}}), "column 'a': expected whole numbers .* found 0.5"),
    "tables unlike": (
        lambda d: text(d / "train.csv", "a,b\n1,2\n2,1\n") and text(d / "test.csv", "a,c\n1,2\n") and load(d),
        r"train.csv: expected the columns \['a', 'c'\], found \['a', 'b'\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_data_get_one_line_that_names_them(name, tmp_path):
    act, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as error:
        act(tmp_path)
    assert "\n" not in str(error.value)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "png"])
def test_no_file_of_data_can_execute_code(ending, tmp_path):
    (tmp_path / f"x.{ending}").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=rf"x.{ending}: "):
        load(tmp_path if ending == "png" else Path(tmp_path / f"x.{ending}"), "all")
