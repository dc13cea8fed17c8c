"""A street scene: ground, plots on both sides, traffic, light. All choices come from one generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_ext.data.demo import objects
from paddleseg_ext.data.demo.canvas import LABEL_ID, Camera, Canvas, Color, shaded

CANVAS_HEIGHT = 384  # scenes are painted about this tall and shrunk, which smooths edges
FAR = 90.0
_GROUP_BEYOND = 34.0  # vehicles farther away form a group: one id for all, as Cityscapes annotates crowds

# How rough each class looks: fine and coarse noise, in grey levels.
_ROUGHNESS = {
    "road": (5, 5),
    "sidewalk": (5, 4),
    "building": (4, 4),
    "wall": (7, 4),
    "vegetation": (12, 16),
    "terrain": (9, 8),
    "sky": (0, 3),
}


@dataclass(frozen=True)
class Scene:
    """A finished picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label_ids: (H, W) uint8, Cityscapes label ids.
        instance_ids: (H, W) int32; label id, or label id * 1000 + k.
    """

    image: np.ndarray
    label_ids: np.ndarray
    instance_ids: np.ndarray


@dataclass(frozen=True)
class _Weather:
    sky: tuple[Color, Color]  # at the top and at the horizon
    light: tuple[float, float]  # brightness of faces that look left and right
    tint: Color
    visibility: float
    has_shadows: bool


@dataclass(frozen=True)
class _Layout:
    """Half the street's cross-section, in metres from its axis."""

    road: float
    sidewalk: float
    front: float  # where the plots begin


def render(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paints one scene.

    Args:
        rng: decides everything.
        size: (H, W) of the picture.
    """
    scale = max(1, round(CANVAS_HEIGHT / size[0]))
    height, width = size[0] * scale, size[1] * scale
    weather = _draw_weather(rng)
    canvas = Canvas(_draw_camera(rng, height, width), haze=weather.sky[1], visibility=weather.visibility)
    road = float(rng.uniform(3.4, 4.8))
    sidewalk = road + float(rng.uniform(2.4, 3.6))
    layout = _Layout(road, sidewalk, sidewalk + (float(rng.uniform(2.5, 4.5)) if rng.random() < 0.6 else 0.0))
    _paint_sky(canvas, rng, weather)
    _paint_ground(canvas, rng, layout)
    for side in (-1, 1):
        _paint_plots(canvas, rng, layout, side, weather)
    if weather.has_shadows:
        _paint_shadows(canvas, rng, layout)
    for _, paint in sorted(_things(canvas, rng, layout, weather), key=lambda thing: -thing[0]):
        paint()
    _paint_hood(canvas, rng)
    return _develop(canvas, rng, weather, size, scale)


def _draw_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    return Camera(
        size=(height, width),
        focal=width * float(rng.uniform(0.8, 0.95)),
        horizon=height * float(rng.uniform(0.4, 0.48)),
        center=width * float(rng.uniform(0.42, 0.58)),
        height=float(rng.uniform(1.5, 1.9)),
        lane=float(rng.uniform(0.6, 2.0)),
        slope=float(rng.uniform(-0.02, 0.02)),
        bend=float(rng.uniform(-0.0012, 0.0012)),
    )


def _draw_weather(rng: np.random.Generator) -> _Weather:
    kind = rng.choice(4, p=[0.4, 0.35, 0.15, 0.1])
    sun_left = rng.random() < 0.5
    sunny = (1.1, 0.7) if sun_left else (0.7, 1.1)
    if kind == 0:  # clear
        return _Weather(((96, 146, 206), (196, 214, 228)), sunny, (1.04, 1.0, 0.95), 160.0, True)
    if kind == 1:  # overcast
        return _Weather(((176, 182, 188), (214, 216, 216)), (0.88, 0.92), (0.94, 0.96, 1.0), 110.0, False)
    if kind == 2:  # low sun
        return _Weather(((132, 140, 176), (240, 206, 168)), sunny, (1.1, 0.98, 0.84), 120.0, True)
    return _Weather(((150, 156, 160), (190, 192, 192)), (0.85, 0.85), (0.86, 0.88, 0.92), 60.0, False)  # haze


def _paint_sky(canvas: Canvas, rng: np.random.Generator, weather: _Weather) -> None:
    height, width = int(canvas.camera.horizon) + 2, canvas.camera.size[1]
    top, low = (np.array(color, np.float32) for color in weather.sky)
    share = np.linspace(0, 1, height // 4, dtype=np.float32)[:, None, None]
    shape = (width // 4, height // 4)  # the sky has no detail: a quarter of the resolution will do
    clouds = cv2.resize(rng.random((3, 9), np.float32), shape, interpolation=cv2.INTER_CUBIC)
    clouds += 0.5 * cv2.resize(rng.random((7, 24), np.float32), shape, interpolation=cv2.INTER_CUBIC)
    cover = np.clip((clouds - np.float32(rng.uniform(0.6, 1.1))) * 1.6, 0, 0.8)[:, :, None]
    sky = (1 - cover) * ((1 - share) * top + share * low) + cover * 238
    canvas.image[:height] = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, height))
    canvas.image[height:] = low.astype(np.uint8)


def _strip(canvas: Canvas, left: float, right: float, near: float, far: float, color: Color, ident: int) -> None:
    """Ground between two distances from the axis, bending with the street."""
    stops = (near, far) if far < 1.2 * near else np.geomspace(near, far, int(8 * np.log(far / near)) + 2)
    points = [(left, 0.0, float(z)) for z in stops] + [(right, 0.0, float(z)) for z in reversed(stops)]
    canvas.fill(canvas.camera.project(points), canvas.faded(color, (near * far) ** 0.5), ident)


def _bands(canvas: Canvas, left: float, right: float, color: Color, ident: int) -> None:
    """A strip from the near edge of the picture to the horizon, in bands that fade."""
    edges = np.geomspace(0.6 * canvas.camera.nearest, FAR, 9)
    for near, far in reversed(list(zip(edges[:-1], edges[1:]))):
        _strip(canvas, left, right, float(near), float(far) * 1.02, color, ident)


def _paint_ground(canvas: Canvas, rng: np.random.Generator, layout: _Layout) -> None:
    grass = objects.pick(rng, ((134, 142, 72), (118, 140, 66), (150, 140, 88)))
    paving = objects.pick(rng, ((172, 162, 154), (158, 152, 150), (186, 172, 160)))
    asphalt = objects.pick(rng, ((92, 92, 96), (108, 106, 104), (80, 82, 88)))
    _bands(canvas, -60.0, 60.0, grass, LABEL_ID["terrain"])
    _bands(canvas, -layout.sidewalk, layout.sidewalk, paving, LABEL_ID["sidewalk"])
    nearest = 0.6 * canvas.camera.nearest
    for row in np.arange(np.ceil(nearest), 40.0, 1.6):
        _strip(
            canvas,
            -layout.sidewalk,
            layout.sidewalk,
            float(row),
            float(row) + 0.07,
            shaded(paving, 0.82),
            LABEL_ID["sidewalk"],
        )
    for side in (-1, 1):
        if rng.random() < 0.22:  # no pavement here
            _bands(canvas, side * layout.road, side * layout.sidewalk, shaded(grass, 1.05), LABEL_ID["terrain"])
    kerb = layout.road + 0.22
    _bands(canvas, -kerb, kerb, shaded(paving, 1.14), LABEL_ID["sidewalk"])
    _bands(canvas, -layout.road, layout.road, asphalt, LABEL_ID["road"])
    _paint_markings(canvas, rng, layout, asphalt)


def _paint_markings(canvas: Canvas, rng: np.random.Generator, layout: _Layout, asphalt: Color) -> None:
    road, white = LABEL_ID["road"], shaded((226, 226, 220), float(rng.uniform(0.8, 1.0)))
    for _ in range(int(rng.integers(2, 6))):  # mended places
        x, z = float(rng.uniform(-layout.road + 1, layout.road - 1.5)), float(rng.uniform(5, 30))
        patch = shaded(asphalt, float(rng.uniform(0.8, 1.15)))
        _strip(canvas, x, x + float(rng.uniform(0.5, 1.5)), z, z + float(rng.uniform(1, 5)), patch, road)
    start = float(rng.uniform(0, 6))
    for z in np.arange(4.0 + start, 70.0, 6.0):
        _strip(canvas, -0.08, 0.08, float(z), float(z) + 3.0, white, road)
    if rng.random() < 0.5:
        for edge in (-layout.road + 0.35, layout.road - 0.35):
            _strip(canvas, edge - 0.06, edge + 0.06, 0.6 * canvas.camera.nearest, 60.0, white, road)
    if rng.random() < 0.35:
        z = float(rng.uniform(9, 22))
        for x in np.arange(-layout.road + 0.4, layout.road - 0.5, 1.0):
            _strip(canvas, float(x), float(x) + 0.5, z, z + 3.0, white, road)


def _paint_plots(canvas: Canvas, rng: np.random.Generator, layout: _Layout, side: int, weather: _Weather) -> None:
    """Houses, parks, walls and fences along one side, far ones first."""
    lengths, near = [], 1.5
    while near < FAR - 5:
        length = float(rng.uniform(8, 16))
        lengths.append((near, near + length))
        near += length
    kinds = rng.choice(["house", "park", "wall", "fence"], len(lengths), p=[0.42, 0.12, 0.2, 0.26])
    light = weather.light[1] if side < 0 else weather.light[0]
    _paint_backdrop(canvas, rng, side)
    for (near, far), kind in reversed(list(zip(lengths, kinds))):
        if kind == "house":
            _paint_house(canvas, rng, side * layout.front, near, far, light)
            continue
        for _ in range(int(rng.integers(1, 4))):
            away = side * (layout.front + float(rng.uniform(2.0, 7.0)))
            objects.draw_tree(canvas, rng, away, float(rng.uniform(near + 1, far)), size=float(rng.uniform(0.9, 1.4)))
        if kind == "park":
            for _ in range(int(rng.integers(1, 4))):
                bush = side * (layout.front + float(rng.uniform(0.8, 2.5)))
                objects.draw_bush(canvas, rng, bush, float(rng.uniform(near + 1, far)))
        elif kind == "wall":
            _paint_wall(canvas, rng, side * layout.front, near, far, light)
        else:
            _paint_fence(canvas, rng, side * layout.front, near, far, light)


def _paint_backdrop(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """The end of the street: tree tops and roofs in the distance."""
    for x in np.arange(0.0, 70.0, 7.0):
        tall = float(rng.uniform(5, 14))
        name = "vegetation" if rng.random() < 0.5 else "building"
        color = (76, 98, 58) if name == "vegetation" else objects.pick(rng, ((150, 140, 132), (168, 150, 130)))
        corners = [(side * x, 0.0, FAR), (side * (x + 8), 0.0, FAR)]
        corners += [(side * (x + 8), tall, FAR), (side * (x + 4), tall * 1.15, FAR), (side * x, tall, FAR)]
        canvas.paint(corners, color, LABEL_ID[name])


def _upright(
    canvas: Canvas, x: float, near: float, far: float, low: float, high: float, color: Color, ident: int
) -> None:
    """A rectangle that stands along the street."""
    stops = (near, far) if far < 1.3 * near else np.geomspace(near, far, int(6 * np.log(far / near)) + 2)
    points = [(x, low, float(z)) for z in stops] + [(x, high, float(z)) for z in reversed(stops)]
    canvas.fill(canvas.camera.project(points), canvas.faded(color, (near * far) ** 0.5), ident)


def _paint_house(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float, light: float) -> None:
    ident, side = LABEL_ID["building"], 1 if x > 0 else -1
    plaster = objects.pick(
        rng, ((196, 176, 148), (172, 110, 88), (206, 200, 186), (150, 140, 136), (186, 160, 120), (160, 172, 180))
    )
    floors = int(rng.integers(2, 6))
    tall = 3.1 * floors + 0.8
    end = [(x, 0.0, near), (x + side * 14, 0.0, near), (x + side * 14, tall, near), (x, tall, near)]
    canvas.paint(end, shaded(plaster, 0.78), ident)
    if rng.random() < 0.5:  # a tiled roof
        tiles = objects.pick(rng, ((150, 72, 54), (96, 84, 84), (120, 60, 48)))
        ridge = [(x, tall, near), (x, tall, far), (x + side * 4, tall + 2.8, far), (x + side * 4, tall + 2.8, near)]
        canvas.paint(ridge, shaded(tiles, light), ident)
        canvas.paint(
            [(x, tall, near), (x + side * 4, tall + 2.8, near), (x + side * 8, tall, near)],
            shaded(plaster, 0.78),
            ident,
        )
    _upright(canvas, x, near, far, 0.0, tall, shaded(plaster, light), ident)
    _upright(canvas, x, near, far, 0.0, 0.7, shaded(plaster, 0.7 * light), ident)
    _upright(canvas, x, near, far, tall - 0.35, tall, shaded(plaster, 0.8 * light), ident)
    _paint_windows(canvas, rng, x, near, far, floors, light)


def _paint_windows(
    canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float, floors: int, light: float
) -> None:
    ident = LABEL_ID["building"]
    step = float(rng.uniform(2.2, 3.2))
    glass = objects.pick(rng, ((58, 70, 86), (84, 100, 116), (44, 50, 58)))
    has_shop = rng.random() < 0.4
    frame = shaded((220, 214, 204), light)
    for floor in range(floors):
        low = 1.0 + 3.1 * floor
        for z in np.arange(near + 0.7, far - 1.4, step):
            if canvas.camera.focal / z < 12:  # a metre is only a few pixels there
                continue
            if floor == 0 and has_shop:
                _upright(canvas, x, float(z) - 0.3, float(z) + step - 0.8, 0.5, 2.5, shaded(glass, 0.9), ident)
                continue
            _upright(canvas, x, float(z) - 0.1, float(z) + 1.3, low - 0.1, low + 1.7, frame, ident)
            lit = shaded(glass, float(rng.uniform(0.8, 1.5)))
            _upright(canvas, x, float(z), float(z) + 1.2, low, low + 1.6, lit, ident)
    if has_shop:
        awning = shaded(objects.pick(rng, ((170, 44, 44), (40, 90, 70), (60, 70, 120), (200, 160, 60))), light)
        _upright(canvas, x, near + 0.3, far - 0.3, 2.6, 3.2, awning, ident)


def _paint_wall(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float, light: float) -> None:
    ident, tall = LABEL_ID["wall"], float(rng.uniform(2.0, 2.8))
    stone = objects.pick(rng, ((166, 128, 108), (150, 146, 140), (176, 150, 126)))
    _upright(canvas, x, near, far, 0.0, tall, shaded(stone, light), ident)
    for course in np.arange(0.35, tall, 0.35):
        _upright(canvas, x, near, far, float(course), float(course) + 0.06, shaded(stone, 0.72 * light), ident)
    _upright(canvas, x, near, far, tall, tall + 0.2, shaded(stone, 1.25 * light), ident)


def _paint_fence(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float, light: float) -> None:
    ident, tall = LABEL_ID["fence"], float(rng.uniform(1.7, 2.3))
    wood = objects.pick(rng, ((206, 150, 78), (58, 116, 76), (84, 112, 160)))  # no colour that a wall has
    _upright(canvas, x, near, far, 0.0, tall, shaded(wood, 0.45 * light), ident)
    for z in np.arange(near, min(far, 45.0), 0.36):
        _upright(canvas, x, float(z), float(z) + 0.2, 0.0, tall + 0.12, shaded(wood, light), ident)
    for rail in (0.4, tall - 0.3):
        _upright(canvas, x, near, far, rail, rail + 0.14, shaded(wood, 0.85 * light), ident)


def _paint_shadows(canvas: Canvas, rng: np.random.Generator, layout: _Layout) -> None:
    """Shadows of houses across the street."""
    side = 1 if rng.random() < 0.5 else -1
    for z in np.arange(4.0, 60.0, 14.0):
        if rng.random() < 0.6:
            reach, near = float(rng.uniform(0.2, 1.6)) * layout.road, float(z) + float(rng.uniform(0, 4))
            edge, tip = side * layout.front, side * (layout.front - reach - 2)
            canvas.shade([(edge, 0, near), (tip, 0, near + 2), (tip, 0, near + 8), (edge, 0, near + 9)], 0.68)


_Thing = tuple[float, Callable[[], None]]


def _things(canvas: Canvas, rng: np.random.Generator, layout: _Layout, weather: _Weather) -> list[_Thing]:
    """What stands on the street, with its distance; ids are given when it is painted, far things first."""
    things = _traffic(canvas, rng, layout, weather)
    for side in (-1, 1):
        things += _kerb(canvas, rng, layout, side)
        things += _people(canvas, rng, layout, side)
    return things


def _traffic(canvas: Canvas, rng: np.random.Generator, layout: _Layout, weather: _Weather) -> list[_Thing]:
    drawers = {
        "car": (objects.draw_car, 4.2),
        "truck": (objects.draw_truck, 8.5),
        "bus": (objects.draw_bus, 11.0),
        "train": (objects.draw_train, 26.0),
    }

    def painter(name: str, x: float, z: float, away: bool) -> Callable[[], None]:
        def paint() -> None:
            ident = LABEL_ID[name] if z > _GROUP_BEYOND else canvas.new_id(name)
            drawers[name][0](canvas, rng, x, z, away=away, ident=ident, light=weather.light)

        return paint

    things: list[_Thing] = []
    for lane in (-1, 1):
        z = float(rng.uniform(8, 26) if lane > 0 else rng.uniform(6, 22))
        while z < 55:
            name = str(rng.choice(list(drawers), p=[0.52, 0.17, 0.16, 0.15]))
            x = lane * 0.42 * layout.road + float(rng.uniform(-0.3, 0.3))
            things.append((z, painter(name, x, z, lane > 0)))
            z += drawers[name][1] + float(rng.uniform(5, 20))
        if layout.road > 4.0 and rng.random() < 0.6:  # parked cars
            z = float(rng.uniform(6, 14))
            while z < 45:
                things.append(
                    (z, painter("car", lane * (layout.road - 0.95), z, bool(rng.random() < 0.6 + 0.3 * lane)))
                )
                z += 4.2 + float(rng.uniform(0.8, 14))
    return things


def _kerb(canvas: Canvas, rng: np.random.Generator, layout: _Layout, side: int) -> list[_Thing]:
    """Poles, trees and bins along one kerb."""

    def pole(x: float, z: float, kind: str) -> Callable[[], None]:
        return lambda: objects.draw_pole(canvas, rng, x, z, kind=kind, inward=-side)

    def tree(x: float, z: float, size: float) -> Callable[[], None]:
        return lambda: objects.draw_tree(canvas, rng, x, z, size=size)

    def litter_bin(x: float, z: float) -> Callable[[], None]:
        return lambda: objects.draw_bin(canvas, rng, x, z)

    things: list[_Thing] = []
    x, z = side * (layout.road + 0.45), float(rng.uniform(5, 9))
    while z < 50:
        things.append((z, pole(x, z, str(rng.choice(["lamp", "light", "sign"], p=[0.3, 0.35, 0.35])))))
        z += float(rng.uniform(6, 12))
    if layout.front > layout.sidewalk:
        for z in np.arange(float(rng.uniform(6, 12)), 60.0, float(rng.uniform(7, 12))):
            row = side * (layout.sidewalk + 0.5 * (layout.front - layout.sidewalk))
            things.append((float(z), tree(row, float(z), float(rng.uniform(0.7, 1.1)))))
    if rng.random() < 0.3:
        z = float(rng.uniform(6, 20))
        things.append((z, litter_bin(side * (layout.road + 0.9), z)))
    return things


def _people(canvas: Canvas, rng: np.random.Generator, layout: _Layout, side: int) -> list[_Thing]:
    """Pedestrians, riders and parked two-wheelers on one side."""

    def walker(x: float, z: float) -> Callable[[], None]:
        return lambda: objects.draw_person(canvas, rng, x, z, ident=canvas.new_id("person"))

    def two_wheeler(x: float, z: float, vehicle: str, ridden: bool) -> Callable[[], None]:
        def paint() -> None:
            ident = canvas.new_id(vehicle)
            rider = canvas.new_id("rider") if ridden else None
            objects.draw_cyclist(canvas, rng, x, z, vehicle=vehicle, ident=ident, rider=rider)

        return paint

    things: list[_Thing] = []
    for _ in range(int(rng.integers(2, 6))):
        z = float(rng.uniform(5.5, 15))
        things.append((z, walker(side * float(rng.uniform(layout.road + 0.7, layout.sidewalk - 0.2)), z)))
    if rng.random() < 0.25:  # somebody crosses
        z = float(rng.uniform(6, 18))
        things.append((z, walker(side * float(rng.uniform(0.5, layout.road)), z)))
    ridden = bool(rng.random() < 0.5)
    z = float(rng.uniform(4.8, 8))
    for _ in range(int(rng.integers(1, 4))):
        vehicle = str(rng.choice(["bicycle", "motorcycle"], p=[0.55, 0.45]))
        on_road, on_pavement = (0.5, 1.4), (-0.6, layout.road - layout.sidewalk)
        inward = float(rng.uniform(*sorted(on_road if ridden else on_pavement)))
        things.append((z, two_wheeler(side * (layout.road - inward), z, vehicle, ridden)))
        z, ridden = z + float(rng.uniform(1.2, 4.5)), not ridden
    return things


def _paint_hood(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera."""
    height, width = canvas.camera.size
    tall = height * float(rng.uniform(0.05, 0.08))
    paint = objects.pick(rng, ((40, 42, 46), (96, 100, 104), (60, 70, 90)))
    columns = np.linspace(0, width, 25)
    rows = height - tall * (1 - 0.55 * (2 * columns / width - 1) ** 2)
    outline = np.concatenate([np.stack([columns, rows], 1), [[width, height], [0, height]]])
    canvas.fill(outline, paint, LABEL_ID["ego vehicle"])
    gloss = np.concatenate([np.stack([columns, rows], 1), np.stack([columns, rows + 0.2 * tall], 1)[::-1]])
    canvas.fill(gloss, shaded(paint, 1.5), LABEL_ID["ego vehicle"])


def _develop(canvas: Canvas, rng: np.random.Generator, weather: _Weather, size: tuple[int, int], scale: int) -> Scene:
    """Roughness of surfaces, light and the camera's noise; then the picture at its final size."""
    height, width = canvas.camera.size
    classes = _classes(canvas.ids)
    table = np.full((256, 2), 2, np.float32)
    for name, rough in _ROUGHNESS.items():
        table[LABEL_ID[name]] = rough
    fine = rng.standard_normal((height // 2, width // 2), dtype=np.float32)
    coarse = rng.standard_normal((height // 10, width // 10), dtype=np.float32)
    noise = cv2.resize(fine, (width, height)) * cv2.LUT(classes, table[:, 0])
    noise += cv2.resize(coarse, (width, height)) * cv2.LUT(classes, table[:, 1])
    small = cv2.resize(canvas.image, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32)
    small += cv2.resize(noise, (size[1], size[0]), interpolation=cv2.INTER_AREA)[:, :, None]
    small *= np.array(weather.tint, np.float32) * np.float32(rng.uniform(0.78, 1.12))
    small += float(rng.uniform(1, 4)) * rng.standard_normal(small.shape, dtype=np.float32)
    half = scale // 2
    ids = canvas.ids[half::scale, half::scale].copy()
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        ids[edge] = LABEL_ID["out of roi"]
    return Scene(np.clip(small, 0, 255).astype(np.uint8), _classes(ids), ids)


def _classes(ids: np.ndarray) -> np.ndarray:
    return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
