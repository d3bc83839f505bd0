"""Game sprites in five kinds: the stand-in for a labelled 16x16 sprite set.

Pixel art laid down as letters, one a pixel; the generator picks shape, colours, height and place. Few shapes a kind, each
where its kind always stands: a small network that is told the kind learns the kinds in minutes.
"""

from __future__ import annotations

import random

from PIL import Image

from ddpm.data.drawn.canvas import Colour, hsv, shade

SPRITE_KINDS = ("hero", "monster", "food", "spell", "side")
SIZE = 16

Art = tuple[str, ...]


def _cut(block: str) -> list[Art]:
    """The drawings that stand side by side in `block`, parted by spaces."""
    return list(zip(*(line.split() for line in block.strip().splitlines()), strict=True))


# Letters: . white ground, o outline, w white, k black, s skin, h hair, m metal, r wood, g leaf; a the main colour, b another,
# capitals their shadows.
HERO_HEADS = _cut("""
....oooooo.... ....oooooo.... ......oo...... ....oooooo....
...ohhhhhho... ...ohhhhhho... .....obbo..... ...ommmmmmo...
..ohhhhhhhho.. ..ohhhhhhhho.. ....obbbbo.... ..ommmmmmmmo..
..ohhhsshhho.. ..ohhsssshho.. ..oobbbbBBoo.. ..ommmmmmmmo..
..ohsksskhho.. ..ohskssksho.. .obbbbbbbBBBo. ..oMsksskSMo..
..oosksskSoo.. ..ohskssksho.. ..oosksskSoo.. ..oMsksskSMo..
...osssssSo... ..ohsssssSho.. ...osssssSo... ..oMMssssMMo..
....oooooo.... .ohhhoooohhho. ....oooooo.... ....oooooo....
""")
HERO_BODIES = _cut("""
..oaaaaaaaAo.. ..oaaaaaaaAo..
.oaaaaaaaaAAo. .oaaaaaaaaAAo.
osoaaaaaaaAoso osoaaaaaaaAoso
osoaaaaaaaAoso osoaaaaaaaAoso
.oobbbbbbbBoo. .oobbbbbbbBoo.
..obbboobbBo.. ..oaaaaaaaAo..
..oooo..oooo.. ..oooooooooo..
""")
MONSTERS = _cut("""
.............. .....oooo..... .o..........o.
.............. ...oowwaaoo... ooo..o..o..ooo
.....oooo..... ..owwaaaaaao.. oAAo.oooo.oAAo
...oowwaaoo... .owaaaaaaaaAo. oAAAoaaaaoAAAo
..owwaaaaaao.. .oawwaaawwaAo. oAAoaaaaaaoAAo
.owaaaaaaaaAo. .oawkaaawkaAo. oAAowkaawkoAAo
.oawwaaawwaAo. .oawkaaawkaAo. .oAowkaawkoAo.
oaawkaaawkaAAo .oaaaaaaaaaAo. ..ooaaaaaaoo..
oaawkaaawkaAAo .oaaakkkkaaAo. ....oawwao....
oaaaaaaaaaaAAo .oaaaakkaaaAo. .....oAAo.....
oaaaakkkkaaAAo .oaaaaaaaaAAo. ......oo......
oAaaaaaaaaAAAo .oaaoaaAoaAAo. ..............
.oAAAAAAAAAAo. .oao.oAo.oAo.. ..............
..oooooooooo.. ..o...o...o... ..............
""")
FOODS = _cut("""
......o....... ........rgg... ....oooooo....
......ro.gg... .......rrggg.. ..oowwaaaaoo..
..oooorooggo.. ......r.r..... .owwaaaaaaaao.
.oaaaarraaaao. .....r...r.... .owaaaaaaaaAo.
oaawwaaaaaaaAo ....r....r.... .oaaaaaaaaAAo.
oawwaaaaaaaaAo ..oooo...oooo. ooaaaaaaaAAAoo
oawaaaaaaaaAAo .oaaaao.oaaaao .oobbbbbbbBoo.
oaaaaaaaaaaAAo oawwaaaooawaAo ..obBbbBbbBo..
oaaaaaaaaaaAAo oawaaaAooaaaAo ...obbBbbBo...
oaaaaaaaaaAAAo oaaaaAAo.oooo. ...oBbbBbBo...
.oaaaaaaaAAAo. oaaaAAAo...... ....obBbBo....
.oAaaaaaAAAAo. .oAAAAo....... ....obbBBo....
..ooAAooAAoo.. ..oooo........ .....oBBo.....
....oo..oo.... .............. ......oo......
""")
SPELLS = _cut("""
...........ooo .....oooo..... .........oooo.
..........owmo .....orro..... ........obbaao
.........owmMo .....ommo..... .......oobwaao
........owmMo. .....ommo..... ......oaawwbao
.......owmMo.. .....ommo..... ......oaabbaAo
......owmMo... ....ommmmo.... ......oaaaaAo.
.ao..owmMo.... ...owmmmmmo... ......ooAAAo..
.aaoowmMo..... ..owaaaaaamo.. .....orooooo..
..aaomMo...... .omawaaaaaaAo. ....oro.......
...aaoo....... .omwaaaaaaAAo. ...oro........
..orraao...... .omaaaaaaAAAo. ..oro.........
.orro.aaa..... ..oaaaaaAAAo.. .oro..........
orro...a...... ...oAAAAAAo... oro...........
.oo........... ....oooooo.... .o............
""")
WALKERS = _cut("""
...oooo.... ...oooo.... ...oooo....
..ohhhhoo.. ..ohhhhoo.. ..obbbboo..
.ohhhhhhho. .ohhhhhhho. .obbbbbbBo.
.ohhhhsssho .ohhhhhsso. .obbbbbBBBo
.ohhhssksso .ohhhssksso .oohhssksso
.oohhssksso ohhhhssksso ..ohsssksso
..oohsssso. ohhhsssSso. ..oossssSo.
...ooooo... ohoooooo... ...ooooo...
""")
STRIDES = _cut("""
...oaaAo... ...oaaAo... ...oaaAo...
...oasAo... ..oaasAAo.. ...oasAo...
...oasso... .ososaAoso. ...oasso...
...obbBo... ..oobbBoo.. ...obbBo...
..obooBBo.. ...obbBo... ...obBo....
..obo.oBo.. ...obbBo... ...obBo....
..oo...oo.. ...ooooo... ...oooo....
""")
SKINS: tuple[Colour, ...] = ((250, 214, 182), (238, 190, 150), (196, 140, 98), (126, 82, 56))
HAIRS: tuple[Colour, ...] = ((38, 30, 34), (104, 64, 36), (168, 92, 36), (232, 190, 84), (190, 190, 200))
GLOWS = (0.0, 0.04, 0.12, 0.5, 0.6, 0.78, 0.88)
FOOD_HUES = ((0.0, 0.98, 0.13, 0.27), (0.97, 0.99), (0.93, 0.1, 0.42, 0.07))


def draw_sprite(kind: int, rng: random.Random) -> Image.Image:
    """A 16x16 RGB sprite of SPRITE_KINDS[kind] on white; nothing but `rng` decides. Raises IndexError for another kind."""
    main, other = rng.random(), rng.random()
    name = SPRITE_KINDS[kind]
    if name == "hero":
        art = rng.choice(HERO_HEADS) + _trimmed(rng.choice(HERO_BODIES), 1, rng)
    elif name == "side":
        art = rng.choice(WALKERS) + _trimmed(rng.choice(STRIDES), 4, rng)
    elif name == "monster":
        art = _trimmed(rng.choice(MONSTERS), 9, rng)
    elif name == "food":
        shape = rng.randrange(len(FOODS))
        art, main, other = FOODS[shape], rng.choice(FOOD_HUES[shape]) + 0.02 * main, 0.08 + 0.03 * other
    else:
        art, main = rng.choice(SPELLS), rng.choice(GLOWS) + 0.03 * main
    if name in ("spell", "side") and rng.random() < 0.5:
        art = tuple(row[::-1] for row in art)
    return _painted(art, _palette(main, other, rng), rng)


def _trimmed(art: Art, row: int, rng: random.Random) -> Art:
    """`art`, or as often `art` a row lower: without `row`."""
    return art if rng.random() < 0.5 else art[:row] + art[row + 1 :]


def _palette(main: float, other: float, rng: random.Random) -> dict[str, Colour]:
    """A colour for every letter, around the two hues."""
    palette: dict[str, Colour] = {
        "o": hsv(main, 0.3, rng.uniform(0.1, 0.2)),
        "w": (255, 255, 255),
        "k": (20, 18, 26),
        "a": hsv(main, rng.uniform(0.7, 0.9), rng.uniform(0.75, 1.0)),
        "b": hsv(other, rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95)),
        "s": rng.choice(SKINS),
        "h": rng.choice(HAIRS),
        "m": hsv(0.58, 0.12, rng.uniform(0.75, 0.92)),
        "r": hsv(0.07, 0.6, rng.uniform(0.4, 0.6)),
        "g": hsv(0.33, 0.75, rng.uniform(0.5, 0.75)),
    }
    return palette | {letter.upper(): shade(palette[letter], 0.72) for letter in "absm"}


def _painted(art: Art, palette: dict[str, Colour], rng: random.Random) -> Image.Image:
    """`art` on white ground, in the middle or a pixel to the right, its feet on the lowest row."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    left = (SIZE - len(art[0])) // 2 + rng.randrange(2)
    top = SIZE - len(art)
    for y, row in enumerate(art):
        for x, letter in enumerate(row):
            if letter != ".":
                image.putpixel((left + x, top + y), palette[letter])
    return image
