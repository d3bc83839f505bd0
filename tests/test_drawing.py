"""A model loaded from a file draws: the same image at any batch size, the class that is asked for, without DVC or stages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.model.pixels import to_uint8
from ddpm.model.schedule import linear_schedule
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.sampling import Model, load
from ddpm.sampling.denoiser import Autoguided
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import METHODS
from ddpm.sampling.settings import Sampler, sampler_of
from stages import timing
from tiny import randomised, train_config

ROOT = Path(__file__).resolve().parents[1]
KINDS = ["hero", "monster", "food", "spell", "side"]
FACTS = {"size": 8, "count": 3, "origin": "test", "dataset": "sprites", "source": "synthetic"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = train_config(context_dim=5, num_timesteps=20, prediction="v", schedule="linear", beta_max=0.5)
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": FACTS, "classes": KINDS}
    path = tmp_path_factory.mktemp("weights") / "ema.safetensors"
    save_weights(path, randomised(build_network(config)), metadata)
    return path


@pytest.fixture(scope="module")
def other(weights: Path) -> Path:
    """As `weights`, of an earlier step."""
    config = train_config(context_dim=5, num_timesteps=20, prediction="v", schedule="linear", beta_max=0.5)
    metadata = {"config": config.model_dump(), "step": 3, "kind": "raw", "data": FACTS, "classes": KINDS}
    path = weights.with_name("raw.safetensors")
    save_weights(path, randomised(build_network(config), seed=1), metadata)
    return path


@pytest.fixture
def model(weights: Path) -> Model:
    return load(weights, "cpu")


@pytest.fixture
def unconditional(tmp_path: Path) -> Model:
    config = train_config(num_timesteps=20)
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": FACTS, "classes": []}
    save_weights(tmp_path / "ema.safetensors", randomised(build_network(config)), metadata)
    return load(tmp_path / "ema.safetensors", "cpu")


# --- Samplers by name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "karras"])
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_network_calls(method: str, spacing: str) -> None:
    """Heun takes two a step, but for the last and those that are too long for its correction: never more than asked."""
    schedule = linear_schedule(1000)
    for steps in (1, 2, 5, 20, 21):
        calls = []

        def denoiser(x_t: Tensor, t: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(int(t[0]))
            return 0.5 * x_t

        noise = NoiseStreams(0, range(2), (3, 4, 4))
        sampler = sampler_of(f"{method} {steps} {spacing}")
        states = list(sampler.run(denoiser, schedule, noise.draw(), noise))
        assert states[-1].t == 0
        assert calls[0] == 1000
        if METHODS[method].calls == 1:
            assert len(calls) == steps
        else:
            assert len(calls) <= steps
            if steps > 20 and spacing == "uniform":
                assert len(calls) == steps


def test_a_sampler_s_name_says_all_but_its_options() -> None:
    assert sampler_of("heun 9 quadratic") == Sampler("heun", 9, "quadratic")
    assert sampler_of("heun 9 quadratic").label == "Heun 9, quadratic"
    assert sampler_of("ddim 3 quadratic", eta=0.5) == Sampler("ddim", 3, "quadratic", eta=0.5)
    assert sampler_of("unipc 3", eta=0.5) == Sampler("unipc", 3, "karras"), "eta is ddim's"
    suited = {"ddpm": "uniform", "ddim": "uniform", "dpm_solver_pp": "karras", "unipc": "karras", "heun": "karras"}
    assert {method: sampler_of(f"{method} 3").spacing for method in suited} == suited
    for name in ("ddim 3", "ddim 3 karras", "unipc 3", "unipc 3 uniform"):
        assert sampler_of(name).name == name
    assert sampler_of("unipc 3 uniform").spacing == "uniform", "what is said wins"
    assert [sampler_of(f"ddpm {steps}").variance for steps in (300, 301)] == ["small", "large"]
    assert sampler_of("ddpm 7", variance="large").variance == "large"
    for wrong in ("ddim", "ddim 0", "ddim 5 cubic", "euler 5", "", "ddim 5 uniform 7", "ddim  5"):
        with pytest.raises(Fault, match=r"^sampler = .*; accepted: a method, its network calls"):
            sampler_of(wrong)


def test_who_follows_the_ode() -> None:
    follows = {name for name in METHODS if Sampler(name, 5).follows_ode}
    assert follows == {"ddim", "dpm_solver_pp", "unipc", "heun"}
    assert not Sampler("ddim", 5, eta=0.1).follows_ode


def test_options_reach_the_samplers(model: Model) -> None:
    """Each option changes the images of the method that has it, and of no other."""
    plain = {name: model.sample(2, sampler_of(f"{name} 5")) for name in METHODS}
    for name, method in METHODS.items():
        for option, changed in (("eta", {"eta": 1.0}), ("variance", {"variance": "large"})):
            images = model.sample(2, sampler_of(f"{name} 5", **changed))
            assert np.array_equal(images, plain[name]) == (option not in method.options), (name, option)


# --- Images --------------------------------------------------------------------------------------------------------


def test_images_are_the_last_state(model: Model) -> None:
    images = model.sample(3, "unipc 5", seed=4, classes=["food"])
    assert (images.shape, images.dtype) == ((3, 8, 8, 3), np.uint8)
    states = list(model.states(3, "unipc 5", seed=4, classes=["food"]))
    assert [state.t for state in states] == [16, 9, 2, 1, 0]
    assert np.array_equal(images, to_uint8(states[-1].x_t))
    noise = model.noise(4, range(3))
    own = model.sampler("unipc 5").run(model.denoiser(model.context(3, ["food"])), model.schedule, noise.draw(), noise)
    assert torch.equal(list(own)[-1].x_t, states[-1].x_t), "the denoiser is the one that the states are drawn with"


def test_an_image_keeps_its_noise_and_class_in_batches_of_any_size(model: Model) -> None:
    whole = model.sample(7, "ddim 3").astype(int)
    for batch_size in (1, 2, 3):
        assert np.abs(model.sample(7, "ddim 3", batch_size=batch_size) - whole).max() <= 1
    assert np.abs(model.sample(4, "ddim 3") - whole[:4]).max() <= 1
    part = list(model.states(range(2, 5), "ddim 3"))[-1].x_t
    assert np.abs(to_uint8(part).astype(int) - whole[2:5]).max() <= 1
    turned = model.sample(7, "ddim 3", classes=[1, 2, 3, 4, 0])
    assert all(np.abs(a - b).max() > 3 for a, b in zip(turned, whole, strict=True)), "each has another class now"


# --- Autoguidance --------------------------------------------------------------------------------------------------


def test_autoguidance_undoes_an_error_of_which_the_guide_has_more() -> None:
    """Where the model errs by e and its guide by 3 e, the scale that finds the truth is 3 / 2."""
    x_t, truth, error = (scale * torch.randn(2, 3, 4, 4) for scale in (1, 0.1, 0.01))
    t = torch.ones(2)
    guided = Autoguided(lambda x, _: truth * x + error, lambda x, _: truth * x + 3 * error, 1.5)
    assert torch.allclose(guided(x_t, t), truth * x_t, atol=1e-6)
    far = Autoguided(lambda x, _: x, lambda x, _: -x, 100.0)(x_t, t)
    assert torch.allclose(far, (199 * x_t).clamp(-1, 1), atol=1e-4), "clipped as a denoiser is"


def test_a_model_is_guided_away_from_its_guide(weights: Path, other: Path) -> None:
    plain, worse, guided = load(weights, "cpu"), load(other, "cpu"), load(weights, "cpu", guide=other)
    assert np.array_equal(guided.sample(3, "ddim 3"), plain.sample(3, "ddim 3")), "by no scale but the one that is asked for"
    images = guided.sample(3, "ddim 1", guidance=1, autoguidance=1.5)
    noise = plain.noise(0, range(3))
    t = torch.full((3,), 20)
    ours, theirs = (model.denoiser(model.context(3), 1)(noise.draw(), t) for model, noise in (
        (plain, noise), (worse, plain.noise(0, range(3)))))  # fmt: skip
    assert np.abs(images.astype(int) - to_uint8((1.5 * ours - 0.5 * theirs).clamp(-1, 1))).max() <= 1
    one = guided.sample(3, "ddim 3", batch_size=1, autoguidance=1.5).astype(int)
    assert np.abs(one - guided.sample(3, "ddim 3", autoguidance=1.5)).max() <= 1


def test_a_guide_of_other_images_or_none_is_refused(weights: Path, model: Model, unconditional: Model, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"^autoguidance = 2.* accepted: 1, which is none, of a model that was loaded without"):
        model.sample(1, "ddim 1", autoguidance=2)
    with pytest.raises(Fault, match=r"ema\.safetensors: is no guide for this model; accepted: one of the same size"):
        load(weights, "cpu", guide=tmp_path / "ema.safetensors")
    with pytest.raises(Fault, match=r"^autoguidance = nan; accepted: a finite number"):
        load(weights, "cpu", guide=weights).sample(1, "ddim 1", autoguidance=float("nan"))


def test_classes_are_names_numbers_or_contexts(model: Model) -> None:
    assert model.classes == tuple(KINDS)
    by_name = model.sample(3, "ddim 3", classes=["spell", "hero"])
    assert np.array_equal(by_name, model.sample(3, "ddim 3", classes=[3, 0]))
    context = torch.eye(5)[[3, 0, 3]]
    assert np.array_equal(by_name, model.sample(3, "ddim 3", classes=context))
    assert torch.equal(model.context(7), torch.eye(5)[[0, 1, 2, 3, 4, 0, 1]]), "all in turn"
    half = model.sample(3, "ddim 3", classes=torch.tensor([[0.5, 0, 0, 0.5, 0]]))
    assert not np.array_equal(half, by_name), "fractions, and the last one for all that follow"
    for wrong in (["dragon"], [5], ["-1"]):
        with pytest.raises(Fault, match=r"^class .*; accepted: hero, monster, food, spell, side, or 0 to 4"):
            model.sample(1, "ddim 3", classes=wrong)
    with pytest.raises(Fault, match=r"accepted: a row an image of 5 numbers"):
        model.sample(1, "ddim 3", classes=torch.zeros(1, 4))


def test_guidance_is_asked_of_the_denoiser(model: Model) -> None:
    none, one, two = (model.sample(2, "ddim 3", guidance=scale).astype(int) for scale in (0.0, 1.0, 2.0))
    assert np.abs(none - one).max() > 0
    assert np.abs(two - one).max() > 0
    assert np.array_equal(none, model.sample(2, "ddim 3", classes=[4], guidance=0.0)), "0 asks for no class"


def test_a_model_without_classes_takes_none(unconditional: Model) -> None:
    assert unconditional.context(3) is None
    assert unconditional.sample(2, "ddim 3").shape == (2, 8, 8, 3)
    with pytest.raises(Fault, match="this model is unconditional"):
        unconditional.sample(2, "ddim 3", classes=["hero"])


def test_more_calls_than_steps_of_the_process_are_refused(model: Model) -> None:
    with pytest.raises(Fault, match=r"^sampler = 'DDIM 21'; accepted: at most 20 network calls"):
        model.sample(1, "ddim 21")


def test_a_file_or_device_that_is_not_there_is_named(weights: Path) -> None:
    with pytest.raises(Fault, match=r"nowhere.safetensors: no such file"):
        load("nowhere.safetensors")
    with pytest.raises(Fault, match=r"^device = 'tpu'; accepted: auto, cpu, cuda or cuda:N"):
        load(weights, "tpu")


SCRIPT = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dvc", "stages", "tools", "yaml", "matplotlib"):
            raise ImportError(name)
sys.meta_path.insert(0, Refusing())
from ddpm.sampling import load
model = load(sys.argv[1], "cpu")
images = model.sample(4, "unipc 5", seed=0, classes=["hero", "spell"])
assert images.shape == (4, 8, 8, 3) and images.dtype == "uint8" and images.std() > 0
assert "torch._dynamo" not in sys.modules, "which takes as long to import as torch"
"""


def test_the_library_draws_without_dvc_and_without_the_stages(weights: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(Path(sys.executable).absolute()), "-c", SCRIPT, weights], cwd=tmp_path, env=env, check=True)


@pytest.mark.parametrize("sampler", ["unipc 10", "heun 10", "ddim 10"])
def test_projected_seconds_are_those_of_all_steps(weights: Path, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    """By a clock that counts the network's calls. Heun makes two in a step, or one: its projection is near, not double."""
    model, calls = load(weights, "cpu"), []
    network = model.denoiser

    def counting(*rest: object) -> object:
        denoise = network(*rest)
        return lambda *given: (calls.append(1), denoise(*given))[1]

    def measured(run: Callable[[], None], device: torch.device) -> float:
        before = len(calls)
        run()
        return float(len(calls) - before)

    monkeypatch.setattr(model, "denoiser", counting)
    monkeypatch.setattr(timing, "measure_seconds", measured)
    whole = measured(lambda: [*model.states(2, sampler)], model.device)
    assert timing.seconds(model, sampler_of(sampler), 2, 1.0, 100.0) == (whole, False)
    assert timing.seconds(model, sampler_of(sampler), 2, 1.0, 5.0) == (pytest.approx(whole, rel=0.4), True)
