"""Aligned portraits: the stand-in for CelebA, in pixels of its 178x218 images."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageFilter

from ddpm.data.drawn.canvas import Canvas, Colour, Point, gradient, hsv, mix, shade

ZOOM = 2
FACE_SIZE = (178, 218)
EYES = ((69.0, 111.0), (108.0, 111.0))  # where the aligned images have them, mean of the landmarks
SKINS: list[Colour] = [
    (250, 220, 196), (241, 200, 168), (228, 180, 142), (206, 152, 112), (168, 116, 80), (126, 82, 56), (92, 60, 44),
]  # fmt: skip
HAIRS: list[Colour] = [
    (28, 24, 26), (52, 36, 28), (88, 58, 36), (128, 84, 48), (196, 150, 84), (228, 196, 130), (150, 62, 34), (168, 166, 168),
]  # fmt: skip
IRISES: list[Colour] = [(60, 40, 28), (92, 62, 36), (70, 110, 150), (84, 120, 72)]


def draw_face(rng: random.Random) -> Image.Image:
    """A 178x218 RGB portrait, looking straight ahead or a little aside; nothing but `rng` decides."""
    picture = Canvas(_backdrop(rng), ZOOM)
    tone = rng.randrange(len(SKINS) - 1)
    skin = mix(SKINS[tone], SKINS[tone + 1], rng.random())
    hair = shade(rng.choice(HAIRS), rng.uniform(0.85, 1.15))
    turn = rng.uniform(-5, 5)  # of the head: middle line and outline move against the eyes
    x, rx, chin = 88.5 + 0.5 * turn, rng.uniform(41, 48), rng.uniform(178, 190)
    style = rng.choice(["short", "short", "long", "long", "bob", "curls", "bun", "bald"])
    _hair_behind(picture, rng, style, hair, x, rx)
    _shoulders(picture, rng, skin, x)
    _head(picture, rng, skin, x, rx, chin)
    beard = rng.random() < 0.2 and style in ("short", "bald", "curls")
    if beard:
        _beard(picture, mix(skin, hair, 0.75), x, rx, chin)
    _features(picture, rng, skin, hair, x + 0.6 * turn, beard)
    _hair_before(picture, rng, style, hair, x, rx)
    return picture.shrunk(*FACE_SIZE)


def _backdrop(rng: random.Random) -> Image.Image:
    """A gradient with soft blots, as if out of focus; drawn small and enlarged, so smooth."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.55), rng.uniform(0.3, 0.95)
    across = rng.random()
    start = hsv(hue, saturation, value)
    end = hsv(hue + rng.uniform(-0.12, 0.12), saturation, value * rng.uniform(0.55, 0.9))
    small = Canvas(gradient(44, 54, start, end, (across, 1 - across)), 1)
    for _ in range(rng.randrange(4)):
        radius, x, y = rng.uniform(5, 13), rng.uniform(0, 44), rng.uniform(0, 54)
        small.ellipse(x, y, radius, radius, shade(mix(start, end, rng.random()), rng.uniform(0.8, 1.25)))
    size = FACE_SIZE[0] * ZOOM, FACE_SIZE[1] * ZOOM
    return small.image.filter(ImageFilter.GaussianBlur(3)).resize(size, Image.Resampling.BICUBIC)


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float, taper: float = 0.0) -> list[Point]:
    """Points on an ellipse from angle `start` to `end` in degrees (0 = right, 90 = down), narrower below by `taper`."""
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [(x + rx * math.cos(a) * (1 - taper * max(0.0, math.sin(a)) ** 2), y + ry * math.sin(a)) for a in angles]


def _hair_behind(picture: Canvas, rng: random.Random, style: str, hair: Colour, x: float, rx: float) -> None:
    dark = shade(hair, 0.8)
    if style == "long":
        half = rx + rng.uniform(8, 14)
        picture.ellipse(x, 106, half, 60, hair)
        picture.box(x - half, 104, x + half, 240, dark, 14)
        picture.box(x - half, 104, x + half, 175, hair, 10)
    elif style == "bob":
        half, bottom = rx + rng.uniform(9, 14), rng.uniform(158, 186)
        picture.ellipse(x, 104, half, 58, hair)
        picture.box(x - half, 102, x + half, bottom, hair, 16)
    elif style == "curls":
        reach = rng.uniform(9, 13)
        for px, py in _arc(x, 104, rx + 4, 52, 150, 390)[::4]:
            picture.ellipse(px, py, reach, reach, hair)
    elif style == "bun":
        picture.ellipse(x, 46, rng.uniform(15, 21), 16, dark)


def _shoulders(picture: Canvas, rng: random.Random, skin: Colour, x: float) -> None:
    cloth = hsv(rng.random(), rng.uniform(0.05, 0.8), rng.uniform(0.2, 0.9))
    picture.box(x - 21, 160, x + 21, 225, shade(skin, 0.82), 8)
    half = rng.uniform(66, 84)
    picture.polygon(_arc(x, 236, half, rng.uniform(34, 42), 180, 360), cloth)
    if rng.random() < 0.5:
        picture.polygon([(x - 20, 196), (x + 20, 196), (x, rng.uniform(210, 222))], shade(skin, 0.9))


def _head(picture: Canvas, rng: random.Random, skin: Colour, x: float, rx: float, chin: float) -> None:
    """Ears, then the face, lit from one side."""
    for side in (-1, 1):
        picture.ellipse(x + side * (rx + 1), 119, 6.5, 11, shade(skin, 0.86))
    outline = _arc(x, 116, rx, chin - 116, 0, 180, rng.uniform(0.05, 0.3)) + _arc(x, 116, rx, 58, 180, 360)
    mask = Image.new("L", picture.image.size)
    ImageDraw.Draw(mask).polygon([(px * ZOOM, py * ZOOM) for px, py in outline], fill=255)
    light, shadow = shade(skin, 1.06), shade(skin, 0.8)
    across = rng.uniform(0.45, 0.8)
    lit = gradient(89, 109, light, shadow, (across, 1 - across)).resize(picture.image.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        lit = lit.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cheeks = Image.new("L", (89, 109))
    for side in (-1, 1):
        cx, cy = (x + side * 25) / 2, 138 / 2
        ImageDraw.Draw(cheeks).ellipse((cx - 6, cy - 5, cx + 6, cy + 5), fill=rng.randrange(40, 110))
    cheeks = cheeks.filter(ImageFilter.GaussianBlur(3)).resize(picture.image.size, Image.Resampling.BICUBIC)
    lit.paste(mix(skin, (220, 70, 70), 0.55), mask=cheeks)
    picture.image.paste(lit, mask=mask)


def _beard(picture: Canvas, colour: Colour, x: float, rx: float, chin: float) -> None:
    outer = _arc(x, 128, rx, chin - 126, 5, 175, 0.18)
    inner = _arc(x, 126, rx - 12, 22, 175, 5)
    picture.polygon(outer + inner, colour)
    picture.polygon([*_arc(x, 150, 19, 9, 180, 360), (x - 19, 152)], colour)


def _features(picture: Canvas, rng: random.Random, skin: Colour, hair: Colour, x: float, beard: bool) -> None:
    """Eyes, brows, nose, mouth and, on some, glasses; `x` is the middle of nose and mouth."""
    iris, look, lid = rng.choice(IRISES), rng.uniform(-1.6, 1.6), rng.uniform(4.6, 6.6)
    brow, brow_y, brow_tilt = shade(mix(hair, skin, 0.15), 0.75), rng.uniform(95, 99), rng.uniform(-0.5, 1.5)
    dark = shade(skin, 0.5)
    made_up = rng.random() < 0.45 and not beard
    for (ex, ey), side in zip(EYES, (-1, 1), strict=True):
        picture.ellipse(ex, ey, 10.5, lid + 1.4, dark if made_up else shade(skin, 0.7))
        picture.ellipse(ex, ey + 0.5, 9.6, lid, (246, 244, 240))
        picture.ellipse(ex + look, ey + 0.3, min(5.0, lid), min(5.0, lid), iris)
        picture.ellipse(ex + look, ey + 0.3, 2.4, 2.4, (14, 12, 14))
        picture.ellipse(ex + look + 1.6, ey - 1.5, 1.2, 1.2, (255, 255, 255))
        arch = [(ex - side * 10, brow_y + 2 - brow_tilt), (ex, brow_y - 1.5), (ex + side * 11, brow_y + 1 + brow_tilt)]
        picture.line(arch, brow, 2.6 if made_up else 4.0)
    bridge = rng.choice([-1, 1])
    picture.line([(x + bridge * 3, 116), (x + bridge * 6.5, 133), (x, 137)], shade(skin, 0.78), 2.2)
    for side in (-1, 1):
        picture.ellipse(x + side * 4.5, 137, 1.9, 1.4, shade(skin, 0.58))
    _mouth(picture, rng, skin, x, made_up)
    if rng.random() < 0.2:
        frame = rng.choice([(24, 22, 24), (90, 50, 34), (150, 30, 40)])
        z, radius = ZOOM, rng.uniform(13.5, 16.5)
        for ex, ey in EYES:
            square = (ex - radius) * z, (ey - radius * 0.8) * z, (ex + radius) * z, (ey + radius * 0.9) * z
            picture.draw.rounded_rectangle(square, radius * 0.8 * z, outline=frame, width=5)
        picture.line([(EYES[0][0] + radius, 109), (EYES[1][0] - radius, 109)], frame, 2.4)


def _mouth(picture: Canvas, rng: random.Random, skin: Colour, x: float, made_up: bool) -> None:
    lips = mix(shade(skin, 0.85), (190, 30, 60) if made_up else (190, 80, 80), rng.uniform(0.6, 0.9) if made_up else 0.45)
    half, smile, y = rng.uniform(13, 19), rng.uniform(0, 6), 152.0
    corner = y - smile * 0.5
    if smile > 2.5 and rng.random() < 0.7:  # open, with teeth
        depth = rng.uniform(6, 11)
        bow = [(x - half - 2, corner - 3), (x, y - 6), (x + half + 2, corner - 3)]
        picture.polygon([*_arc(x, corner - 2, half + 2, depth + 5, 0, 180), *bow], lips)
        picture.polygon(_arc(x, corner, half - 1, depth, 0, 180), (110, 30, 36))
        picture.polygon(_arc(x, corner, half - 2, depth * 0.6, 0, 180), (250, 248, 244))
    else:
        full = rng.uniform(3.5, 6.5)
        lower = _arc(x, corner + smile * 0.4, half * 0.9, full + smile * 0.6, 0, 180)
        upper = [(x - half, corner), (x - 5, y - full), (x, y - full + 1.5), (x + 5, y - full), (x + half, corner)]
        picture.polygon(upper + lower, lips)
        low = y + smile * 0.15
        between = [(x - half, corner), (x - half / 2, low), (x, y + smile * 0.3), (x + half / 2, low), (x + half, corner)]
        picture.line(between, shade(lips, 0.6), 1.4)


def _hair_before(picture: Canvas, rng: random.Random, style: str, hair: Colour, x: float, rx: float) -> None:
    """The hair over the forehead, and strands beside the face."""
    if style == "bald":
        return
    side, line = rng.choice([-1, 1]), rng.uniform(76, 88)  # the parting's side and the height of the hairline
    half = rx + rng.uniform(2, 5)
    crown = _arc(x, 108, half, rng.uniform(58, 66), 180, 360)
    fringe = rng.choice(["parted", "straight", "swept"])
    if fringe == "parted":
        part = x + side * 10
        inner = [(x + half, 110), (x + rx - 5, 100), (part + 6, line - 8), (part - 6, line - 8), (x - rx + 5, 100)]
    elif fringe == "straight":
        inner = [(x + half, 112), (x + rx - 4, line + 8), (x, line + 5), (x - rx + 4, line + 8), (x - half, 112)]
    else:
        locks = sorted([(x + side * 18, line + 6), (x, line), (x - side * 24, line - 10)], reverse=True)
        inner = [(x + half, 112), (x + rx - 6, 98), *locks, (x - rx + 6, 98)]
    picture.polygon(crown + inner, hair)
    if style in ("long", "bob"):
        for flank in (-1, 1):
            outer, bottom = x + flank * (half + 3), 205 if style == "long" else 160
            within = [(x + flank * (rx - 2), bottom - 10), (x + flank * (rx + 1), 130), (x + flank * (rx - 6), 92)]
            picture.polygon([*within, (outer, 92), (outer, bottom)], shade(hair, 0.92))
