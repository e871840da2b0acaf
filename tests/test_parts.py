"""Nets, distributions, data sets and files."""

import json
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from scipy import stats
from torch import nn

import pyro_vae as pv
from pyro_vae import tracing
from pyro_vae.families import join
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.nets import MLP, Conv, FlattenBatch, GatedMLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.storage import write_state

# ---------------------------------------------------------------------- nets


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (13, 8), (28, 28), (33, 17)])
def test_convolutions_take_any_image_from_8_up(channels, size):
    image = (channels, *size)
    assert Conv(image, (2, 6))(torch.zeros(3, *image)).shape == (3, 2, 6)
    assert Conv(6, image)(torch.zeros(3, 6)).shape == (3, *image)


@pytest.mark.parametrize("net", [MLP, GatedMLP])
def test_fully_connected_nets_arrange_their_output(net):
    assert net((2, 3), (4, 5), hidden=(7, 6))(torch.zeros(9, 2, 3)).shape == (9, 4, 5)
    assert net(3, 2, hidden=())(torch.zeros(9, 3)).shape == (9, 2)


def test_a_gated_layer_is_value_times_gate():
    layer = pv.nets.GatedLinear(3, 2)
    x = torch.randn(5, 3)
    value, gate = (x @ layer.both.weight.T + layer.both.bias).chunk(2, -1)
    torch.testing.assert_close(layer(x), value * torch.sigmoid(gate))


def test_flatten_batch_equals_one_datum_at_a_time():
    net = FlattenBatch(Conv((1, 8, 8), (2, 3), hidden=(4,)), (1, 8, 8), (2, 3))
    x = torch.randn(4, 5, 1, 8, 8)
    one_by_one = torch.stack([torch.stack([net(x[i, j : j + 1])[0] for j in range(5)]) for i in range(4)])
    torch.testing.assert_close(net(x), one_by_one)


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 28, 28), MLP), ((1, 32, 32), MLP), ((3, 32, 32), Conv), ((1, 64, 64), Conv), ((784,), MLP)]
)
def test_the_default_net_suits_the_data(shape, kind):
    pair = pv.vae(shape, latent=3)
    assert type(pair.guide.posterior.encoder.net) is kind
    assert type(pair.model.likelihood.decoder.net) is kind
    assert pair.reconstruct(x=pair.sample(2)).shape == (2, *shape)


def test_hidden_widths_are_told_from_the_data_inwards():
    pair = pv.vae((6,), hidden=(5, 4), latent=2)
    assert [m.out_features for m in pair.guide.posterior.encoder.net if isinstance(m, nn.Linear)] == [5, 4, 4]
    assert [m.out_features for m in pair.model.likelihood.decoder.net if isinstance(m, nn.Linear)] == [4, 5, 6]
    conv = pv.vae((1, 16, 16), net=Conv, hidden=(3, 7), latent=2)
    assert conv.sample(2).shape == (2, 1, 16, 16)


# ---------------------------------------------------------------------- distributions


def test_bernoulli_density_against_scipy():
    likelihood = Bernoulli(nn.Linear(2, 6), 2, (2, 3))
    z, x = torch.randn(5, 2), (torch.rand(5, 2, 3) > 0.5).float()
    p = torch.sigmoid(likelihood.decoder.net(z)).reshape(5, 2, 3).detach()
    expected = stats.bernoulli.logpmf(x.numpy(), p.numpy()).sum((1, 2))
    assert likelihood(z).log_prob(x).detach().numpy() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(likelihood(z).mean.detach(), p)


@pytest.mark.parametrize("scale", [0.3, 1, "learned"])
def test_normal_density_against_scipy(scale):
    likelihood = Normal(nn.Linear(2, 6), 2, (2, 3), scale=scale)
    if scale == "learned":
        nn.init.constant_(likelihood.log_scale, -0.4)
    z, x = torch.randn(5, 2), torch.randn(5, 2, 3)
    mean = likelihood.decoder.net(z).reshape(5, 2, 3).detach().numpy()
    width = np.exp(7 * np.tanh(-0.4 / 7)) if scale == "learned" else scale
    expected = stats.norm.logpdf(x.numpy(), mean, width).sum((1, 2))
    assert likelihood(z).log_prob(x).detach().numpy() == pytest.approx(expected, rel=1e-5)


def test_a_learned_scale_finds_the_noise():
    x = torch.randn(2000, 3) * 0.25 + 1
    pair = pv.vae((3,), latent=1, likelihood=partial(Normal, scale="learned"), hidden=(8,))
    pv.fit(pair, x, epochs=30, lr=1e-2, progress=False)
    assert pair.model.likelihood.scale.item() == pytest.approx(0.25, abs=0.03)


def test_the_posterior_scale_stays_bounded():
    posterior = DiagonalNormal(nn.Linear(3, 4), 3, 2)
    for size in (0.0, 1.0, 1e4, -1e4):
        scale = posterior(torch.full((5, 3), size)).base_dist.scale
        assert (scale >= np.exp(-7) * 0.999).all()
        assert (scale <= np.exp(7) * 1.001).all()
    s = torch.linspace(-0.5, 0.5, 5)
    torch.testing.assert_close(pv.posteriors.bounded_scale(s), s.exp(), rtol=2e-3, atol=0)


def test_the_prior_follows_the_device_and_holds_no_weights():
    prior = StandardNormal(3).double()
    assert prior().sample().dtype == torch.float64
    assert not prior.state_dict()
    assert float(prior().log_prob(torch.zeros(3).double())) == pytest.approx(-1.5 * np.log(2 * np.pi))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: dist.Normal(torch.randn(n, 3), torch.rand(n, 3) + 0.1).to_event(1),
        lambda n: dist.Normal(torch.randn(n, 3), 0.5).to_event(1),
        lambda n: dist.Categorical(logits=torch.randn(n, 4)),
        lambda n: dist.Bernoulli(torch.rand(n)),
        lambda n: dist.MultivariateNormal(torch.randn(n, 2), scale_tril=torch.eye(2).expand(n, 2, 2)),
        lambda n: dist.Beta(torch.rand(n, 2) + 1, torch.rand(n, 2) + 1).to_event(1),
    ],
)
def test_distributions_are_joined_exactly(make):
    parts = [make(2), make(3)]
    whole = join(parts)
    values = [p.sample() for p in parts]
    assert whole.batch_shape == (5,)
    torch.testing.assert_close(
        whole.log_prob(torch.cat(values)), torch.cat([p.log_prob(v) for p, v in zip(parts, values, strict=True)])
    )


def test_what_cannot_be_joined_is_refused():
    parts = [dist.MixtureSameFamily(dist.Categorical(torch.ones(2, 3)), dist.Normal(torch.zeros(2, 3), 1.0))] * 2
    with pytest.raises(TypeError, match="cannot be put together from chunks"):
        join(parts)


# ---------------------------------------------------------------------- data sets


def test_digits_parts_are_disjoint_and_complete():
    parts = {s: pv.data.load("digits", s) for s in ("train", "validation", "test", "train+validation")}
    assert [len(p.x) for p in parts.values()] == [1257, 270, 270, 1527]
    assert torch.equal(parts["train+validation"].x, torch.cat([parts["train"].x, parts["validation"].x]))
    assert parts["train"].x.max() == 1
    assert len(parts["test"].labels) == 270
    assert sorted(parts["test"].labels.unique().tolist()) == list(range(10))


def test_binarisation_is_what_it_says():
    grey = pv.data.load("digits").x
    static = pv.data.load("digits", binarise="static")
    assert torch.equal(pv.data.load("digits", binarise="threshold").x, (grey > 0.5).float())
    assert torch.equal(static.x, pv.data.load("digits", binarise="static").x)
    assert not torch.equal(static.x, pv.data.load("digits", binarise="static", seed=1).x)
    assert float((static.x - grey).mean()) == pytest.approx(0, abs=0.01)
    dynamic = pv.data.load("digits", binarise="dynamic")
    assert torch.equal(dynamic.x, grey)
    draws = torch.stack([dynamic.drawn(seed).x for seed in range(200)])
    assert float((draws.mean(0) - grey).abs().max()) < 0.2
    assert not dynamic.drawn().dynamic


def test_mnist_by_name(mnist_root):
    parts = {s: pv.data.load("mnist", s, mnist_root) for s in ("train", "validation", "test", "train+validation")}
    assert [len(p.x) for p in parts.values()] == [50_000, 10_000, 10_000, 60_000]
    assert parts["test"].x.shape == (10_000, 1, 28, 28)
    assert (float(parts["test"].x.min()), float(parts["test"].x.max())) == (0, 1)
    assert parts["train+validation"].labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_static_mnist_by_name(mnist_root):
    for split, size in {"train": 50_000, "validation": 10_000, "test": 10_000, "train+validation": 60_000}.items():
        x = pv.data.load("mnist-static", split, mnist_root).x
        assert x.shape == (size, 1, 28, 28)
        assert x.unique().tolist() == [0, 1]


def test_static_mnist_from_the_published_text_files(tmp_path):
    rows = {p: np.random.default_rng(i).integers(0, 2, (4, 784)) for i, p in enumerate(("train", "valid", "test"))}
    for part, values in rows.items():
        np.savetxt(tmp_path / f"binarized_mnist_{part}.amat", values, fmt="%d")
    both = pv.data.load("mnist-static", "train+validation", tmp_path).x
    assert torch.equal(both.flatten(1), torch.as_tensor(np.concatenate([rows["train"], rows["valid"]])).float())


def test_fashion_mnist_through_torchvision(tmp_path):
    """The idx files of four made-up garments, in torchvision's layout."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 4), ("t10k", 2)):
        images = np.full((n, 28, 28), 51, dtype=np.uint8)
        header = b"\x00\x00\x08\x03" + b"".join(int(v).to_bytes(4, "big") for v in images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + n.to_bytes(4, "big") + bytes(range(n)))
    data = pv.data.load("fashion-mnist", "test", tmp_path)
    assert data.x.shape == (2, 1, 28, 28)
    assert float(data.x.mean()) == pytest.approx(0.2)
    assert data.labels.tolist() == [0, 1]


def test_arrays_from_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(3, 2))
    assert pv.data.load(tmp_path / "a.npy").x.tolist() == [[0, 1], [2, 3], [4, 5]]
    np.savez(tmp_path / "b.npz", train=np.zeros((3, 2)), valid=np.ones((2, 2)))
    assert len(pv.data.load(tmp_path / "b.npz", "train+validation").x) == 5
    assert pv.data.load(tmp_path / "b.npz", "validation").x.mean() == 1


# ---------------------------------------------------------------------- files


def saved(folder, **options):
    return pv.vae((4,), latent=2, hidden=(3,), **options).save(folder / "pair")


def test_likelihoods_and_nets_of_ours_are_rebuilt(tmp_path):
    pair = pv.vae((4,), latent=2, likelihood=partial(Normal, scale=0.5), net=GatedMLP, hidden=(3,))
    again = pv.load(pair.save(tmp_path / "pair"))
    assert again.model.likelihood.scale == 0.5
    assert type(again.guide.posterior.encoder.net) is GatedMLP


def test_nets_of_a_users_own_need_a_pair_to_fill(tmp_path):
    pair = pv.vae((4,), latent=2, encoder=nn.Linear(4, 4))
    pair.save(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be rebuilt.*vae was given a Linear of its own.*into=variant"):
        pv.load(tmp_path)
    other = pv.vae((4,), latent=2, encoder=nn.Linear(4, 4))
    pv.load(tmp_path, into=other)
    x = pair.sample(3)
    assert torch.equal(other.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


DAMAGES = {
    "config not json": (lambda f: (f / "config.json").write_text("{"), "config.json: not a configuration"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json: not a configuration"),
    "newer format": (lambda f: edit(f, pyro_vae=99), "written in format 99, this version reads format 2"),
    "unknown recipe": (lambda f: edit(f, recipe="vea"), r"recipe: unknown 'vea', .*did you mean 'vae'"),
    "unknown argument": (
        lambda f: edit(f, arguments={"data_shape": 4, "width": 3}),
        "arguments that vae refuses.*width",
    ),
    "bad argument": (lambda f: edit(f, arguments={"data_shape": -4}), "arguments that vae refuses: data_shape"),
    "foreign class": (
        lambda f: edit(f, arguments={"data_shape": 4, "likelihood": {"class": "os.system"}}),
        "unknown class 'os.system'",
    ),
    "weights cut short": (
        lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-7]),
        "weights.safetensors: damaged",
    ),
    "weights empty": (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights.safetensors: damaged"),
    "weights of another pair": (
        lambda f: (
            pv.vae((4,), latent=2, hidden=(5,)).save(f)
            and edit(f, arguments={"data_shape": [4], "latent": 2, "hidden": [3]})
        ),
        r"weights of another pair; .*saved \(5, 4\), expected \(3, 4\)|weights of another pair",
    ),
    "weights of another program": (
        lambda f: safetensors.torch.save_file({"model.x": torch.zeros(1)}, f / "weights.safetensors"),
        "weights.safetensors: not written by pyro_vae",
    ),
    "weights missing a tensor": (
        lambda f: write_state(f / "weights.safetensors", {"model.x": torch.zeros(1)}),
        "weights of another pair; model.x: not in the pair",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_and_foreign_files_are_refused_by_name(name, tmp_path):
    act, message = DAMAGES[name]
    folder = saved(tmp_path)
    act(folder)
    with pytest.raises(ValueError, match=message):
        pv.load(folder)


def test_missing_weights_are_named(tmp_path):
    folder = saved(tmp_path)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights.safetensors: no such file"):
        pv.load(folder)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was executed')",))


def test_nothing_that_is_loaded_can_execute_code(tmp_path):
    folder = saved(tmp_path)
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="damaged"):
        pv.load(folder)
    np.save(tmp_path / "data.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array of numbers"):
        pv.data.load(tmp_path / "data.npy")


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    folder = saved(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fails(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        saved(tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_tied_weights_are_saved_once(tmp_path):
    shared = nn.Linear(4, 4)
    pair = pv.vae(
        (4,), latent=4, encoder=nn.Sequential(shared, nn.Linear(4, 8)), decoder=nn.Sequential(shared, nn.Linear(4, 4))
    )
    x = pair.sample(3)
    pair.save(tmp_path)
    other_shared = nn.Linear(4, 4)
    other = pv.vae(
        (4,),
        latent=4,
        encoder=nn.Sequential(other_shared, nn.Linear(4, 8)),
        decoder=nn.Sequential(other_shared, nn.Linear(4, 4)),
    )
    pv.load(tmp_path, into=other)
    assert torch.equal(other.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))


# ---------------------------------------------------------------------- memory

MEASURE = """
import torch
import pyro_vae as pv
torch.manual_seed(0)
pair = pv.vae((1, 28, 28), latent=40)
x = (torch.rand(10_000, 1, 28, 28) > 0.5).float()
first = [pair.elbo(x=x[:10], particles=5000)]        # the libraries are warm, and so is the allocator
terms = pair.terms(5000, x=x)
for _, (part, _) in zip(range(40), terms):
    pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)  # ru_maxrss would count the parent's memory too
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_five_thousand_particles_on_ten_thousand_images_is_bounded():
    """Each chunk is as large as the next, so that the first forty stand for all 12,000."""
    result = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 2048


def test_large_data_are_worked_on_in_smaller_parts():
    assert tracing.rows_for({"x": torch.zeros(1, 1, 28, 28)}) == 2048  # 6 MiB of floats
    assert tracing.rows_for({"x": torch.zeros(1, 3, 64, 64)}) == 170
    assert tracing.rows_for({"x": torch.zeros(1, 3, 1024, 1024)}) == 16


def test_numpy_scalars_are_saved_as_numbers(tmp_path):
    pair = pv.vae(np.array([1, 8, 8]), latent=np.int64(3), hidden=[np.int64(5)])
    assert pv.load(pair.save(tmp_path)).sample(2).shape == (2, 1, 8, 8)


def test_an_empty_encoder_is_an_encoder():
    assert len(pv.vae(4, latent=2, encoder=nn.Sequential()).guide.posterior.encoder.net) == 0
