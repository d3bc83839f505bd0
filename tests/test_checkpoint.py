"""Weights to share: what is written comes back, in the same bytes on every run, and nothing else is accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm.base.faults import Fault
from ddpm.base.files import whole_file, write_json
from ddpm.model.settings import ModelConfig
from ddpm.model.unet import build_network
from ddpm.model.weights import EARLIER, EARLIER_CLASSES, load_network, save_weights
from tiny import SETTINGS, randomised, train_config

ROOT = Path(__file__).resolve().parents[1]
FACTS = {"dataset": "cifar10", "size": 8, "count": 3, "origin": "a test"}


def metadata(**changes: Any) -> dict[str, Any]:
    names = [f"class {number}" for number in range(changes.get("context_dim", 0))]
    return {"config": train_config(**changes).model_dump(), "step": 7, "kind": "ema", "data": FACTS, "classes": names}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "ema.safetensors"
    save_weights(path, randomised(build_network(train_config())), metadata())
    return path


def test_round_trip_through_fp16(tmp_path: Path) -> None:
    config = train_config()
    network = randomised(build_network(config))
    path = tmp_path / "ema.safetensors"
    save_weights(path, network, metadata())
    loaded, loaded_config, loaded_metadata = load_network(path)
    assert loaded_config == ModelConfig(**{name: getattr(config, name) for name in ModelConfig.model_fields})
    assert loaded_metadata == metadata()
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    for (name, new), old in zip(loaded.named_parameters(), network.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert not new.requires_grad
        assert torch.equal(new, old.detach().half().float()), name
        assert float((new - old).detach().abs().max()) < 2e-3
    assert not any(module.training for module in loaded.modules())
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 90])
    torch.testing.assert_close(loaded(x, t), network.eval()(x, t).detach(), rtol=0.02, atol=0.05)


def test_weights_of_another_version_load_if_network_and_process_are_known(tmp_path: Path) -> None:
    """How they were trained may have been spelled otherwise; a shared file must not go stale for that."""
    other = metadata()
    del other["config"]["accumulate"]
    other["config"]["channels_last"] = True
    save_weights(tmp_path / "old.safetensors", build_network(train_config()), other)
    assert load_network(tmp_path / "old.safetensors")[1].channels == train_config().channels


def test_checkpoints_from_before_a_setting_was_there_load_as_what_they_are(tmp_path: Path) -> None:
    """Those of the first versions, which could do no other, name none of these settings."""
    old = metadata()
    for name in EARLIER:
        del old["config"][name]
    network = randomised(build_network(train_config()))
    save_weights(tmp_path / "old.safetensors", network, old)
    loaded, config, _ = load_network(tmp_path / "old.safetensors")
    assert config == ModelConfig(**{name: getattr(train_config(), name) for name in ModelConfig.model_fields})
    assert torch.equal(loaded.head[2].weight, network.head[2].weight.detach().half().float())


def test_classes_of_files_from_before_they_were_named(tmp_path: Path) -> None:
    """They are those of the data set, where the network knows classes; a name in the file comes first."""
    path = tmp_path / "old.safetensors"
    for context_dim, data_set, expected in ((5, "sprites", EARLIER_CLASSES["sprites"]), (0, "sprites", []), (0, "celeba", [])):
        old = metadata(context_dim=context_dim) | {"data": FACTS | {"dataset": data_set}}
        del old["classes"]
        save_weights(path, build_network(train_config(context_dim=context_dim)), old)
        assert load_network(path)[2]["classes"] == expected
    named = metadata(context_dim=2) | {"data": FACTS | {"dataset": "sprites"}, "classes": ["cat", "dog"]}
    save_weights(path, build_network(train_config(context_dim=2)), named)
    assert load_network(path)[2]["classes"] == ["cat", "dog"]


def test_gray_images_and_batch_norm_s_statistics(tmp_path: Path) -> None:
    config = train_config(norm="batch", activation="relu", context_dim=5)
    network = randomised(build_network(config, in_channels=1))
    for value in range(3):
        network(torch.randn(4, 1, 8, 8) + value, torch.tensor([1, 2, 3, 4]))
    save_weights(tmp_path / "gray.safetensors", network, metadata(norm="batch", activation="relu", context_dim=5))
    loaded, _, _ = load_network(tmp_path / "gray.safetensors")
    assert loaded.stem.in_channels == 1
    norm, expected = loaded.head[0], network.head[0]
    assert int(norm.num_batches_tracked) == 3
    assert float(norm.running_mean.abs().max()) > 0
    torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-3, atol=1e-4)


WRITER = """
import sys
from pathlib import Path
from ddpm.model.weights import save_weights
from ddpm.model.unet import build_network
from tiny import train_config
config = train_config()
save_weights(Path(sys.argv[1]), build_network(config), {"config": config.model_dump(), "step": 1, "kind": "raw", "data": {}})
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """DVC compares by hash. Sets and the libraries' hash maps are ordered differently in each process."""
    contents = []
    for seed in "12":
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
        subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / seed)], env=env, check=True, timeout=120)
        contents.append((tmp_path / seed).read_bytes())
    assert contents[0] == contents[1]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"nothing\.safetensors: no such file; `dvc pull`"):
        load_network(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_file(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(Fault, match=r"ema\.safetensors: not a whole safetensors file"):
        load_network(weights)


def test_a_pickle_is_no_weights_file(weights: Path) -> None:
    torch.save({"a": torch.zeros(3)}, weights)
    with pytest.raises(Fault, match="not a whole safetensors file"):
        load_network(weights)


def test_a_foreign_file(weights: Path) -> None:
    save_file({"a": torch.zeros(3)}, weights, {"format": "pt"})
    with pytest.raises(Fault, match="not written by this project"):
        load_network(weights)


@pytest.mark.parametrize("change", [{"channels": [8, 12]}, {"neck_length": 2}, {"attention": [False, False]}])
def test_weights_of_another_network(weights: Path, change: dict[str, Any]) -> None:
    save_weights(weights, build_network(train_config()), metadata(**change))
    with pytest.raises(Fault, match=r"ema\.safetensors: the weights do not fit"):
        load_network(weights)


def test_settings_of_another_version(weights: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "num_res"} | {"residual_blocks": 1}
    save_weights(weights, build_network(train_config()), metadata() | {"config": settings})
    with pytest.raises(Fault, match=r"ema\.safetensors: its settings .*train\.num_res: missing"):
        load_network(weights)


def test_what_killed_writers_left_goes_when_the_same_file_is_written_again(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    dead = int(ended.stdout)
    left = [tmp_path / f".{dead}.tmp-a[1].json", tmp_path / ".99999999999999999999.tmp-a[1].json"]
    kept = [tmp_path / f".{os.getppid()}.tmp-a[1].json", tmp_path / f".{dead}.tmp-a1.json", tmp_path / ".x.tmp-a[1].json"]
    for file in (*left, *kept):
        file.touch()
    write_json(tmp_path / "a[1].json", [1])
    assert {*tmp_path.iterdir()} == {tmp_path / "a[1].json", *kept, left[1]}, "a number beyond all processes says nothing"


def test_an_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with whole_file(path) as temporary:
        temporary.write_text("[1]")

    def fail() -> None:
        with whole_file(path, 1_500_000) as temporary:
            temporary.write_text("[2")
            raise OSError("disk full")

    with pytest.raises(Fault, match=r"a\.json: disk full \(1\.5 MB to write, .* free there\)"):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "[1]"
