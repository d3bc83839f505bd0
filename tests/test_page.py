"""The page that draws, in a real browser: the library's images, for any seed, number of steps, class and guidance."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from ddpm.base.faults import Fault
from ddpm.model.schedule import cosine_schedule, linear_schedule, noise_schedule
from ddpm.sampling import load
from ddpm.sampling.grid import timestep_grid
from ddpm.sampling.noise import NoiseStreams
from stages import WORK
from test_export import KINDS, model_of, too_early
from tiny import write_weights
from tools.page import __main__ as command

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

PIXELS = """name => {
  const canvas = document.getElementById(name);
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  [copy.canvas.width, copy.canvas.height] = [canvas.width, canvas.height];
  copy.drawImage(canvas, 0, 0);
  return [canvas.height, canvas.width, [...copy.getImageData(0, 0, canvas.width, canvas.height).data]];
}"""


@pytest.fixture(scope="session")
def runtime() -> Path:
    try:
        return command.archive(WORK / "npm")
    except Fault as fault:
        pytest.skip(str(fault))


def served(folder: Path) -> Iterator[str]:
    """The address at which `folder` is served as `python -m http.server` does."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model with five classes and a linear schedule."""
    return write_weights(tmp_path_factory.mktemp("weights") / "ema.safetensors", size=16, **KINDS["eps, classes"])


@pytest.fixture(scope="module")
def address(weights: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = ["page", "--checkpoint", str(weights), "--runtime", str(runtime), "--out", str(folder)]
        monkeypatch.setattr(sys, "argv", words)
        command.main(command.arguments())
    yield from served(folder)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page. In the end it must have asked nothing of any other address, and complained of nothing."""
    requests, complaints, contexts = [], [], []

    def open_page(address: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append((address, request.url)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_function("() => document.getElementById('status').textContent === 'Ready'", timeout=120_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for own, url in requests if not url.startswith((own, "data:,"))] == []
    assert complaints == []


def draw(page: Any, **asked: object) -> np.ndarray:
    """Fill in the form, draw, and return the picture of the images: uint8 (H, W, 3)."""
    for name, value in asked.items():
        if name == "kind":
            page.select_option("[name=class]", str(value))
        else:
            page.fill(f"[name={name}]", str(value))
    page.click("#draw")
    page.wait_for_function("() => /^(Drawn|This)/.test(document.getElementById('status').textContent)", timeout=300_000)
    assert page.inner_text("#status").startswith("Drawn")
    return pixels(page, "x")


def pixels(page: Any, name: str) -> np.ndarray:
    height, width, data = page.evaluate(PIXELS, name)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def tiles(picture: np.ndarray, count: int, size: int) -> np.ndarray:
    """The images in a picture, uint8 (count, size, size, 3)."""
    per_row = (picture.shape[1] + 1) // (size + 1)
    places = [divmod(i, per_row) for i in range(count)]
    return np.stack([picture[row * (size + 1) :, column * (size + 1) :][:size, :size] for row, column in places])


def test_the_images_are_the_library_s(address: str, weights: Path, opened: Any) -> None:
    page, model = opened(address), model_of(weights)
    cases: list[dict[str, Any]] = [
        {"seed": 0, "images": 7, "steps": 20, "guidance": 2},
        {"seed": 4_294_967_295, "images": 2, "steps": 7, "guidance": 0.5, "kind": 3},
        {"seed": 12, "images": 1, "steps": 1, "guidance": 1, "kind": 0},
        {"seed": 12, "images": 3, "steps": 40, "guidance": 3, "kind": ""},
    ]
    before = None
    for case in cases:
        kind = case.get("kind", "")
        expected = model.sample(
            case["images"], f"unipc {case['steps']}", case["seed"], None if kind == "" else [kind], case["guidance"]
        )
        found = tiles(draw(page, **case), case["images"], 16)
        assert np.abs(found.astype(int) - expected).max() <= 2, case
        assert before is None or not np.array_equal(found[0], before)
        before = found[0]


def test_the_way_is_shown_while_it_runs_and_again_by_the_slider(address: str, opened: Any) -> None:
    page = opened(address)
    page.evaluate(
        """() => {
          window.said = [];
          const status = document.getElementById("status");
          new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true });
        }"""
    )
    last = draw(page, seed=1, images=2, steps=9)
    said = page.evaluate("() => said")
    assert [line.split(",")[0] for line in said[:9]] == [f"Step {i} of 9" for i in range(1, 10)]
    slider = page.locator("#frame")
    assert (slider.get_attribute("max"), slider.input_value()) == ("8", "8")
    assert page.evaluate("() => document.getElementById('frame').labels[0].textContent.trim()") == "The way from noise to image"
    slider.focus()
    page.keyboard.press("Home")
    first = pixels(page, "x")
    assert slider.get_attribute("aria-valuetext").startswith("step 1 of 9, t = ")
    assert not np.array_equal(first, last)
    assert (first.min(), first.max()) == (0, 255), "noise is shown over its own range"
    page.keyboard.press("End")
    assert np.array_equal(pixels(page, "x"), last)


def test_a_phone_shows_it_whole_and_wrong_numbers_are_not_drawn(address: str, opened: Any) -> None:
    page = opened(address, viewport={"width": 360, "height": 740})
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for name, value in (("seed", "-1"), ("seed", "4294967296"), ("steps", "0"), ("steps", "41"), ("images", "65")):
        good = page.input_value(f"[name={name}]")
        page.fill(f"[name={name}]", value)
        page.click("#draw")
        assert not page.evaluate("() => document.getElementById('form').checkValidity()"), (name, value)
        assert page.inner_text("#status") == "Ready"
        page.fill(f"[name={name}]", good)
    draw(page, seed=3)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_its_noise_and_its_grids_are_the_library_s(address: str, weights: Path, opened: Any) -> None:
    page, schedule = opened(address), model_of(weights).schedule
    for seed, image, draws, count in ((0, 0, 1, 12), (2**32 - 1, 7, 3, 5), (123456789, 2**32 - 1, 2, 3000)):
        streams = NoiseStreams(seed, [image], (count,))
        expected = [streams.draw() for _ in range(draws)][-1][0].numpy()
        script = "async a => [...(await import('./sampler.js')).normal(...a)]"
        found = np.array(page.evaluate(script, [seed, image, draws - 1, count]), np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    script = "async a => (await import('./sampler.js')).timestepGrid(...a)"
    terminal = noise_schedule("linear", 40, zero_terminal_snr=True)
    for each in (schedule, cosine_schedule(1000), linear_schedule(1000), terminal):
        for steps in range(1, 41):
            found = page.evaluate(script, [each.alpha_bar.tolist(), steps])
            assert found == timestep_grid(each, steps, "karras"), steps


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["demo", "small"])
def test_the_shared_faces_appear_in_twenty_seconds(scale: str, runtime: Path, tmp_path: Path, opened: Any) -> None:
    path = f"models/{scale}/celeba/ema.safetensors"
    subprocess.run([sys.executable, "-m", "dvc", "get", ROOT, path, "--out", tmp_path / "ema.safetensors"], check=True)
    model, folder = load(tmp_path / "ema.safetensors", "cpu", "fp32"), tmp_path / "page"
    command.page(model, "faces", folder, runtime)
    for address in served(folder):
        page = opened(address)
        assert page.evaluate("() => [...document.querySelectorAll('.conditional')].every(label => label.hidden)")
        found = draw(page, seed=5, images=1, steps=20)
        seconds = float(page.inner_text("#status").split()[-2])
        assert seconds <= 20, "on two cores that do nothing else"
        assert np.abs(found.astype(int) - model.sample(1, "unipc 20", 5)[0]).max() <= 2


def test_another_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / command.ARCHIVE
    for content in (None, b"damaged"):
        if content:
            path.write_bytes(content)
        with pytest.raises(Fault, match=r"not the known archive; accepted: onnxruntime-web-\S+ of SHA-256 \w{64}"):
            command.unpack(path, tmp_path / "page")
    with tarfile.open(path, "w:gz") as other:
        other.add(__file__, "package/dist/ort.wasm.bundle.min.mjs")
    with pytest.raises(Fault, match="not the known archive"):
        command.unpack(path, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fault, match=r"npm is not on the PATH; accepted: npm, or --runtime onnxruntime-web-"):
        command.archive(tmp_path / "npm")
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'it has no network' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(Fault, match=r"said: it has no network; accepted: a network, or --runtime"):
        command.archive(tmp_path / "cache")


def test_what_stops_the_page_is_known_before_the_work(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["page", "--checkpoint", *map(str, words)])
        command.main(command.arguments())

    monkeypatch.setattr(command, "archive", too_early)
    with pytest.raises(Fault, match=r"^--out .*ema.safetensors: [\w ]+; accepted: a folder that you may write to$"):
        run(weights, "--out", weights)
    with pytest.raises(SystemExit):
        run(weights, "--scale", "small")
    assert "accepted: --scale with a recipe" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(Fault, match=r"^ONNX: .*onnxscript") as raised:
        run(weights, "--out", weights.parent / "page")
    assert "--format" not in str(raised.value), "an option of the other tool"


def test_what_the_page_says_is_no_markup(weights: Path) -> None:
    model = model_of(weights)
    model.metadata["data"]["origin"] = '<img src=x onerror="alert(1)">'
    texts = command.texts(model, "<b>faces</b> & more")
    assert texts["title"] == "Draw with &lt;b&gt;faces&lt;/b&gt; &amp; more"
    assert "&lt;img" in texts["origin"]
