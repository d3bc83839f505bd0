"""The report in a real browser: it asks for nothing outside, its sliders and players obey, and it can be read everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import Checkout
from results_tree import FRAMES, Tree
from tools.report import __main__ as command

SLIDER, PLAYER = ".player:not(:has(button))", ".player:has(button)"
PHONE = {"width": 360, "height": 740}
Open = Callable[..., Any]

# The ratio of WCAG 2.2 (relative luminance, then contrast ratio) of each text against the nearest ground behind it.
LOW_CONTRAST = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length === 3) return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script, title)")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const ink = parts(element.closest("svg") ? style.fill : style.color);
    const [light, dark] = [luminance(ink), luminance(ground(element))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (!(ratio >= 4.5)) found.push(`${ratio.toFixed(2)}: ${element.textContent.slice(0, 40)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a tree, and one of two of its revisions."""
    path = tmp_path_factory.mktemp("tree")
    tree = Tree(path)
    tree.checkpoint("cifar10")
    checkout = Checkout(path)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.commit("first")
    tree.change("cifar10", "config/train.json", lr=0.5)
    for name in ("grid.png", "samplers.png"):
        (tree.metrics("cifar10") / name).write_bytes((tree.metrics("cifar10") / "data.png").read_bytes())
    wanted = {"one": ["--rev", "main"], "two": ["--rev", "main", "--rev", "workspace"]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        tree.use(monkeypatch)
        for name, words in wanted.items():
            monkeypatch.setattr(sys, "argv", ["report", *words, "--out", str(path / f"{name}.html")])
            command.main(command.arguments())
    return {name: path / f"{name}.html" for name in wanted}


@pytest.fixture
def opened(browser: Any, files: dict[str, Path]) -> Iterator[Open]:
    """Opens a page. In the end it must have asked for no other file, and complained of nothing."""
    requests, complaints, contexts = [], [], []

    def open_page(name: str = "one", motion: str = "reduce", **options: Any) -> Any:
        context = browser.new_context(reduced_motion=motion, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(files[name].as_uri(), wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    outside = [url for url in requests if not url.startswith(("data:image/webp", *(file.as_uri() for file in files.values())))]
    assert requests
    assert outside == []
    assert complaints == []


def test_it_loads_whole_and_without_a_complaint(opened: Open) -> None:
    page = opened()
    assert page.title() == "Diffusion models at demo scale"
    broken = "() => [...document.images].filter(image => !image.complete || !image.naturalWidth || !image.alt).length"
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    assert page.evaluate(broken) == 0
    assert page.evaluate("() => document.images.length") > 20
    assert page.evaluate("() => [...document.images].every(image => getComputedStyle(image).imageRendering === 'pixelated')")


def test_the_slider_obeys_the_keyboard_and_changes_the_picture(opened: Open) -> None:
    page = opened()
    figure = page.locator(SLIDER).first
    slider, image, output = figure.locator("input"), figure.locator("img"), figure.locator("output")
    assert output.inner_text() == "step 6"
    last = image.screenshot()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert output.inner_text() == "step 4"
    assert slider.get_attribute("aria-valuetext") == "step 4"
    assert image.screenshot() != last
    page.keyboard.press("Home")
    assert output.inner_text() == "step 2"
    page.keyboard.press("End")
    assert image.screenshot() == last
    assert page.evaluate("() => document.activeElement.labels[0].textContent") == "Training step"


def test_the_player_plays_pauses_and_scrubs(opened: Open) -> None:
    page = opened()
    figure = page.locator(PLAYER).first
    slider, image, button, output = (figure.locator(name) for name in ("input", "img", "button", "output"))
    figure.scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    assert (slider.input_value(), button.inner_text()) == ("0", "Play"), "who wants little motion starts it himself"
    first = image.screenshot()
    button.focus()
    page.keyboard.press("Enter")
    assert button.inner_text() == "Pause"
    page.wait_for_function("slider => slider.value > 0", arg=slider.element_handle())
    page.keyboard.press("Enter")
    stopped = slider.input_value()
    assert (button.inner_text(), int(stopped) > 0) == ("Play", True)
    assert image.screenshot() != first
    page.wait_for_timeout(2000)  # a frame takes 1.5 s
    assert slider.input_value() == stopped
    slider.fill(str(FRAMES - 1))
    assert output.inner_text() == "t = 0"
    button.click()  # from the last frame: again from the start
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert button.inner_text() == "Play", "a hand on the slider stops it"
    page.keyboard.press("Home")
    assert output.inner_text() == "t = 8"
    assert image.screenshot() == first


def test_the_player_starts_by_itself_when_it_comes_into_sight(opened: Open) -> None:
    page = opened(motion="no-preference")
    figure = page.locator(PLAYER).first
    assert figure.locator("button").inner_text() == "Play"
    figure.scroll_into_view_if_needed()
    page.wait_for_function("slider => slider.value > 0", arg=figure.locator("input").element_handle())
    assert figure.locator("button").inner_text() == "Pause"
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_function("button => button.textContent === 'Play'", arg=figure.locator("button").element_handle())


def test_every_control_can_be_reached_and_its_focus_is_seen(opened: Open) -> None:
    page = opened()
    wanted = page.locator("a, button, input, [tabindex]").count()
    seen = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle"))
    assert seen == ["solid"] * wanted
    unnamed = "() => [...document.querySelectorAll('input')].filter(input => !input.labels[0].textContent).length"
    assert page.evaluate(unnamed) == 0
    levels = page.evaluate("() => [...document.querySelectorAll('h1, h2, h3, h4')].map(heading => +heading.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_phone_scrolls_in_one_direction(opened: Open, name: str) -> None:
    page = opened(name, viewport=PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
    wide = "() => [...document.images].filter(image => image.getBoundingClientRect().right > innerWidth).length"
    assert page.evaluate(wide) == 0


@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 900}])
def test_light_and_dark_can_be_read(opened: Open, viewport: dict[str, int]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = opened("two", color_scheme=scheme, viewport=viewport)
        grounds[scheme] = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert page.evaluate(LOW_CONTRAST) == []
    assert grounds["light"] != grounds["dark"]


def test_two_revisions_stand_beside_each_other(opened: Open) -> None:
    page = opened("two", viewport={"width": 1280, "height": 900})
    titles = page.locator("#cifar10 .columns h4").filter(has_text="this working tree")
    assert titles.count() >= 1
    right = titles.first.bounding_box()
    left = page.locator("#cifar10 .columns h4").filter(has_text="main (").first.bounding_box()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    page.set_viewport_size(PHONE)
    below = titles.first.bounding_box()
    above = page.locator("#cifar10 .columns h4").filter(has_text="main (").first.bounding_box()
    assert (above["x"], above["y"] < below["y"]) == (below["x"], True), "one column on a phone"


def test_without_scripts_all_but_the_controls_is_there(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator(".controls").first.is_hidden()
    assert page.locator(PLAYER).first.locator("img").is_visible()
