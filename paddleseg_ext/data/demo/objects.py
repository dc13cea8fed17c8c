"""What moves or stands on the street: vehicles, people, poles, trees.

Each function paints one thing at (x, z): x its middle in metres from the street's axis, z its near end. `away` says
whether it shows its back. Colours are RGB, 0..255.
"""

from __future__ import annotations

import numpy as np

from paddleseg_ext.data.demo.canvas import CIRCLE, LABEL_ID, Canvas, Color, shaded

GLASS: Color = (48, 62, 78)
TYRE: Color = (24, 24, 26)
SKIN: tuple[Color, ...] = ((226, 180, 150), (200, 150, 118), (150, 104, 78), (98, 66, 50))
PAINT: tuple[Color, ...] = (
    (178, 30, 34),
    (30, 62, 140),
    (222, 222, 218),
    (38, 40, 44),
    (128, 132, 138),
    (60, 110, 74),
    (206, 160, 50),
    (104, 150, 190),
    (120, 52, 40),
)
CLOTHES: tuple[Color, ...] = (
    (170, 46, 50),
    (44, 70, 130),
    (60, 60, 66),
    (208, 200, 186),
    (86, 120, 76),
    (214, 150, 60),
    (120, 70, 120),
    (70, 140, 150),
)

JACKETS: tuple[Color, ...] = ((236, 210, 40), (240, 120, 30), (150, 230, 60))  # signal colours


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """One of several colours, a little lighter or darker."""
    base = colors[int(rng.integers(len(colors)))]
    return shaded(base, float(rng.uniform(0.85, 1.15)))


class Solid:
    """Paints parts of one rigid thing: faces of boxes, and rectangles on them.

    Args:
        canvas: where.
        x: middle of the thing.
        z: its near end.
        ident: its id.
        light: brightness of its sides, (left, right).
    """

    def __init__(self, canvas: Canvas, x: float, z: float, ident: int, light: tuple[float, float]) -> None:
        self.canvas, self.x, self.z, self.ident, self.light = canvas, x, z, ident, light
        seen_from = x + canvas.camera.shift(z) - canvas.camera.lane
        self.side = -1.0 if seen_from > 0 else 1.0  # which of its sides the camera sees
        self.side_light = light[0] if self.side < 0 else light[1]

    def front(self, left: float, right: float, low: float, high: float, color: Color, dz: float = 0.0) -> None:
        """A rectangle across the street, `dz` behind the near end."""
        self.shape([(left, low), (right, low), (right, high), (left, high)], color, dz)

    def shape(self, corners: list[tuple[float, float]], color: Color, dz: float = 0.0) -> None:
        """A polygon of (x, y) corners across the street."""
        points = [(self.x + x, y, self.z + dz) for x, y in corners]
        self.canvas.paint(points, color, self.ident, rigid_z=self.z)

    def flank(self, half: float, near: float, far: float, low: float, high: float, color: Color) -> None:
        """A rectangle along the street on the side that the camera sees, `half` from the middle."""
        x, z = self.x + self.side * half, self.z
        points = [(x, low, z + near), (x, low, z + far), (x, high, z + far), (x, high, z + near)]
        self.canvas.paint(points, shaded(color, self.side_light), self.ident, rigid_z=z)

    def top(self, half: float, near: float, far: float, high: float, color: Color) -> None:
        """A horizontal rectangle, seen if it is below the camera."""
        if high < self.canvas.camera.height:
            x, z = self.x, self.z
            points = [(x - half, high, z + near), (x + half, high, z + near)]
            points += [(x + half, high, z + far), (x - half, high, z + far)]
            self.canvas.paint(points, shaded(color, 1.12), self.ident, rigid_z=z)

    def box(self, half: float, near: float, far: float, low: float, high: float, color: Color) -> None:
        """The three visible faces of a box."""
        self.top(half, near, far, high, color)
        self.flank(half, near, far, low, high, color)
        self.front(-half, half, low, high, color, near)

    def wheel(self, half: float, dz: float, radius: float) -> None:
        """A wheel on the visible side, its hub `dz` behind the near end."""
        x = self.x + self.side * half
        for r, color in ((radius, TYRE), (0.55 * radius, (130, 130, 134))):
            points = [(x, radius + r * up, self.z + dz + r * along) for along, up in CIRCLE]
            self.canvas.paint(points, color, self.ident, rigid_z=self.z)

    def shadow(self, half: float, length: float) -> None:
        """Its shadow on the ground."""
        x, z = self.x, self.z
        points = [(x - half, 0, z - 0.3), (x + half, 0, z - 0.3), (x + half, 0, z + length), (x - half, 0, z + length)]
        self.canvas.shade(points, 0.45, rigid_z=z)


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, away: bool, ident: int, light) -> None:
    """A passenger car, 1.8 m wide and 4.2 m long."""
    car = Solid(canvas, x, z, ident, light)
    paint = pick(rng, PAINT)
    tall = float(rng.uniform(1.4, 1.75))
    rear = 0.25 if away else 1.2
    car.shadow(1.1, 4.4)
    for wheel in (0.8, 3.3):
        car.wheel(0.9, wheel, 0.36)
    roof_near, roof_far = rear + 0.4, 3.4 if away else 3.9
    car.flank(0.72, roof_near, roof_far, 0.85, tall, paint)
    for window in (0.12, 1.42):
        car.flank(0.73, roof_near + window, roof_near + window + 1.15, 0.9, tall - 0.13, GLASS)
    car.top(0.72, roof_near, roof_far, tall, paint)
    car.shape([(-0.84, 0.85), (0.84, 0.85), (0.64, tall), (-0.64, tall)], paint, rear)
    car.shape([(-0.7, 0.9), (0.7, 0.9), (0.56, tall - 0.12), (-0.56, tall - 0.12)], GLASS, rear)
    car.box(0.9, 0.0, 4.2, 0.3, 0.88, paint)
    car.front(-0.85, -0.55, 0.0, 0.32, TYRE)
    car.front(0.55, 0.85, 0.0, 0.32, TYRE)
    car.front(-0.88, 0.88, 0.3, 0.45, shaded(paint, 0.6))
    lamp = (206, 24, 22) if away else (250, 244, 206)
    for side in (-1, 1):
        car.front(*sorted((side * 0.84, side * 0.52)), 0.6, 0.78, lamp)
    car.front(-0.26, 0.26, 0.46, 0.58, (236, 236, 230))


def draw_bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, away: bool, ident: int, light) -> None:
    """A city bus, 2.5 m wide and 11 m long, with windows all around."""
    bus = Solid(canvas, x, z, ident, light)
    paint = pick(rng, ((206, 44, 40), (232, 190, 40), (64, 140, 84), (236, 236, 232)))
    bus.shadow(1.4, 11.2)
    bus.box(1.25, 0.0, 11.0, 0.35, 3.1, paint)
    for wheel in (2.2, 8.6):
        bus.wheel(1.26, wheel, 0.48)
    for window in range(6):
        bus.flank(1.26, 0.5 + 1.75 * window, 1.95 + 1.75 * window, 1.45, 2.6, GLASS)
    bus.front(-1.1, 1.1, 1.25 if away else 1.05, 2.5, GLASS)
    bus.front(-0.8, 0.8, 2.62, 2.95, (34, 30, 20))
    bus.front(-0.7, 0.3, 2.7, 2.88, (250, 180, 40))
    bus.front(-1.2, 1.2, 0.35, 0.55, shaded(paint, 0.55))
    lamp = (206, 24, 22) if away else (250, 244, 206)
    for side in (-1, 1):
        bus.front(*sorted((side * 1.15, side * 0.8)), 0.65, 0.9, lamp)
        bus.front(*sorted((side * 1.1, side * 0.8)), 0.0, 0.35, TYRE)


def draw_truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, away: bool, ident: int, light) -> None:
    """A lorry, 2.5 m wide and 8.5 m long: a closed box without windows, and a cab."""
    truck = Solid(canvas, x, z, ident, light)
    cab = pick(rng, PAINT)
    cargo = pick(rng, ((228, 226, 220), (150, 156, 160), (214, 206, 176), (96, 130, 170)))
    truck.shadow(1.4, 8.7)
    for wheel in (1.2, 6.2):
        truck.wheel(1.2, wheel, 0.5)
    truck.box(1.1, 0.1, 8.4, 0.45, 0.95, (46, 46, 50))
    if away:
        truck.box(1.15, 6.7, 8.5, 0.6, 2.7, cab)
        truck.box(1.25, 0.0, 6.4, 0.95, 3.4, cargo)
        truck.front(-0.04, 0.04, 0.95, 3.4, shaded(cargo, 0.55))
        for rail in (1.6, 2.4):
            truck.front(-1.2, 1.2, rail, rail + 0.07, shaded(cargo, 0.75))
        truck.front(-1.2, 1.2, 0.55, 0.85, (60, 60, 64))
        for stripe in range(6):
            color = (214, 40, 36) if stripe % 2 else (240, 236, 224)
            truck.front(-1.2 + 0.4 * stripe, -0.8 + 0.4 * stripe, 0.62, 0.8, color)
    else:
        truck.box(1.25, 2.1, 8.5, 0.95, 3.4, cargo)
        truck.box(1.15, 0.0, 1.9, 0.5, 2.6, cab)
        truck.front(-1.0, 1.0, 1.6, 2.4, GLASS)
        truck.flank(1.16, 0.4, 1.3, 1.6, 2.3, GLASS)
        truck.front(-0.9, 0.9, 0.7, 1.2, shaded(cab, 0.5))
        for side in (-1, 1):
            truck.front(*sorted((side * 1.08, side * 0.75)), 0.6, 0.85, (250, 244, 206))
    for side in (-1, 1):
        truck.front(*sorted((side * 1.05, side * 0.7)), 0.0, 0.55, TYRE)


def draw_train(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, away: bool, ident: int, light) -> None:
    """A tram, 2.6 m wide and 26 m long: two colours, a rounded head, many windows."""
    tram = Solid(canvas, x, z, ident, light)
    skirt = pick(rng, ((186, 36, 40), (36, 96, 72), (40, 76, 150)))
    cream: Color = (238, 228, 196)
    tram.shadow(1.5, 26.2)
    tram.box(1.3, 0.3, 26.0, 0.25, 1.35, skirt)
    tram.box(1.3, 0.3, 26.0, 1.35, 3.5, cream)
    for window in range(11):
        tram.flank(1.31, 0.9 + 2.3 * window, 2.7 + 2.3 * window, 1.5, 2.75, GLASS)
    tram.shape([(-1.3, 0.25), (1.3, 0.25), (1.2, 1.35), (-1.2, 1.35)], skirt)
    tram.shape([(-1.25, 1.35), (1.25, 1.35), (1.0, 3.3), (0.5, 3.55), (-0.5, 3.55), (-1.0, 3.3)], cream)
    tram.shape([(-1.05, 1.45), (1.05, 1.45), (0.85, 2.8), (-0.85, 2.8)], GLASS)
    tram.front(-0.5, 0.5, 2.95, 3.25, (250, 190, 60))
    lamp = (206, 24, 22) if away else (250, 244, 206)
    tram.front(-0.18, 0.18, 0.7, 1.0, lamp)


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, ident: int) -> None:
    """Somebody on foot, 1.55 to 1.9 m tall."""
    size = float(rng.uniform(1.55, 1.9)) / 1.75
    step = float(rng.uniform(0.05, 0.28))
    trousers, shirt, skin = pick(rng, CLOTHES), pick(rng, CLOTHES), pick(rng, SKIN)
    body = Solid(canvas, x, z, ident, (1, 1))
    canvas.shade(
        [(x - 0.35, 0, z - 0.15), (x + 0.35, 0, z - 0.15), (x + 0.35, 0, z + 0.4), (x - 0.35, 0, z + 0.4)], 0.6
    )

    def part(corners: list[tuple[float, float]], color: Color) -> None:
        body.shape([(px * size, py * size) for px, py in corners], color)

    for side in (-1, 1):
        foot = side * step
        part([(foot - 0.09, 0), (foot + 0.13, 0), (side * 0.02 + 0.12, 0.85), (side * 0.02 - 0.12, 0.85)], trousers)
    for side in (-1, 1):
        part([(side * 0.36, 0.85), (side * 0.27, 0.8), (side * 0.17, 1.4), (side * 0.26, 1.42)], shaded(shirt, 0.8))
    part([(-0.2, 0.8), (0.2, 0.8), (0.25, 1.42), (-0.25, 1.42)], shirt)
    canvas.disc((x, 1.6 * size, z), (0.13 * size, 0.16 * size), skin, ident, rigid_z=z)
    hair = [(-0.14, 1.62), (0.14, 1.62), (0.11, 1.76), (-0.11, 1.76)]
    part(hair, pick(rng, ((40, 30, 24), (90, 62, 36), (170, 140, 90), (60, 60, 62))))


def draw_cyclist(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, vehicle: str, ident: int, rider: int | None
) -> None:
    """A bicycle or motorcycle, seen from the side at some angle, with or without its rider.

    Args:
        canvas: where.
        rng: for colours and pose.
        x: middle.
        z: distance.
        vehicle: "bicycle" or "motorcycle".
        ident: id of the vehicle.
        rider: id of the rider; None if nobody is on it.
    """
    turn = float(rng.uniform(0.6, 1.0)) * (1 if rng.random() < 0.5 else -1)
    bike = Solid(canvas, x, z, ident, (1, 1))
    canvas.shade([(x - 0.9, 0, z - 0.2), (x + 0.9, 0, z - 0.2), (x + 0.9, 0, z + 0.3), (x - 0.9, 0, z + 0.3)], 0.6)
    if vehicle == "bicycle":
        _draw_bicycle(bike, rng, turn)
    else:
        _draw_motorcycle(bike, rng, turn)
    if rider is not None:
        _draw_rider(canvas, rng, x, z, turn, rider, helmet=vehicle == "motorcycle" or rng.random() < 0.7)


def _draw_bicycle(bike: Solid, rng: np.random.Generator, turn: float) -> None:
    frame = pick(rng, PAINT)
    for hub in (-0.56, 0.56):
        for radius, color in ((0.37, TYRE), (0.28, (112, 112, 112)), (0.07, TYRE)):
            center = (bike.x + turn * hub, 0.37, bike.z)
            bike.canvas.disc(center, (abs(turn) * radius, radius), color, bike.ident, rigid_z=bike.z)
    bars = (
        ((-0.56, 0.37), (-0.15, 0.85)),
        ((-0.56, 0.37), (0.0, 0.34)),
        ((0.0, 0.34), (-0.18, 0.95)),
        ((0.0, 0.34), (0.42, 0.86)),
        ((-0.15, 0.85), (0.42, 0.86)),
        ((0.56, 0.37), (0.4, 1.05)),
    )
    for (x0, y0), (x1, y1) in bars:
        bike.shape(
            [(turn * x0, y0 - 0.045), (turn * x1, y1 - 0.045), (turn * x1, y1 + 0.045), (turn * x0, y0 + 0.045)], frame
        )
    bike.shape([(turn * -0.32, 0.95), (turn * -0.02, 0.95), (turn * -0.02, 1.03), (turn * -0.32, 1.03)], TYRE)
    bike.shape([(turn * 0.28, 1.0), (turn * 0.5, 1.03), (turn * 0.5, 1.11), (turn * 0.28, 1.08)], TYRE)


def _draw_motorcycle(bike: Solid, rng: np.random.Generator, turn: float) -> None:
    paint = pick(rng, PAINT)
    for hub in (-0.68, 0.68):
        for radius, color in ((0.36, TYRE), (0.19, (150, 150, 154))):
            center = (bike.x + turn * hub, 0.36, bike.z)
            bike.canvas.disc(center, (abs(turn) * radius, radius), color, bike.ident, rigid_z=bike.z)

    def part(corners: list[tuple[float, float]], color: Color) -> None:
        bike.shape([(turn * px, py) for px, py in corners], color)

    part([(-0.6, 0.35), (0.5, 0.3), (0.45, 0.62), (-0.55, 0.66)], (66, 66, 70))
    part([(-0.35, 0.28), (-0.75, 0.3), (-0.75, 0.4), (-0.35, 0.42)], (186, 186, 190))
    part([(-0.15, 0.6), (0.5, 0.56), (0.62, 0.9), (0.1, 1.02)], paint)
    part([(-0.85, 0.7), (-0.1, 0.66), (-0.02, 0.86), (-0.85, 0.92)], (30, 28, 28))
    part([(0.42, 0.7), (0.72, 0.36), (0.8, 0.4), (0.6, 1.12), (0.48, 1.12)], (120, 120, 124))
    part([(0.58, 0.78), (0.78, 0.8), (0.78, 1.0), (0.58, 1.0)], (250, 240, 190))


def _draw_rider(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, turn: float, ident: int, *, helmet: bool
) -> None:
    shirt, trousers = pick(rng, JACKETS), pick(rng, CLOTHES)
    body = Solid(canvas, x, z, ident, (1, 1))

    def part(corners: list[tuple[float, float]], color: Color) -> None:
        body.shape([(turn * px, py) for px, py in corners], color)

    part([(-0.3, 0.92), (-0.1, 0.92), (0.16, 0.62), (0.02, 0.2), (-0.12, 0.22), (-0.02, 0.6)], trousers)
    part([(-0.34, 0.88), (-0.04, 0.88), (0.2, 1.5), (-0.08, 1.56)], shirt)
    part([(0.08, 1.44), (0.18, 1.36), (0.5, 1.02), (0.42, 1.0), (0.1, 1.2)], shaded(shirt, 0.8))
    head = (x + turn * 0.16, 1.68, z)
    canvas.disc(head, (0.15, 0.17), pick(rng, SKIN), ident, rigid_z=z)
    if helmet:
        color = pick(rng, PAINT)
        part([(0.0, 1.7), (0.32, 1.7), (0.3, 1.84), (0.16, 1.9), (0.02, 1.84)], color)


def draw_pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, kind: str, inward: float) -> None:
    """A pole at the kerb with what it carries.

    Args:
        canvas: where.
        rng: for colours and sizes.
        x: its middle.
        z: distance.
        kind: "lamp", "light" (a traffic light) or "sign".
        inward: -1 or 1, the direction of the street.
    """
    grey = shaded((108, 110, 112), float(rng.uniform(0.7, 1.3)))
    pole = Solid(canvas, x, z, LABEL_ID["pole"], (1, 1))
    tall = {"lamp": 6.5, "light": 4.0, "sign": 3.3}[kind]
    half = 0.17 if kind == "lamp" else 0.15
    pole.front(-half, half, 0, tall, grey)
    pole.front(-half, -half / 3, 0, tall, shaded(grey, 1.3))
    if kind == "lamp":
        pole.front(*sorted((0.0, inward * 1.6)), tall - 0.16, tall, grey)
        pole.front(*sorted((inward * 1.0, inward * 1.9)), tall - 0.26, tall - 0.06, shaded(grey, 1.5))
    elif kind == "light":
        _draw_traffic_light(canvas, rng, x, z, tall)
    else:
        _draw_sign(canvas, rng, x, z, tall)


def _draw_traffic_light(canvas: Canvas, rng: np.random.Generator, x: float, z: float, top: float) -> None:
    ident = LABEL_ID["traffic light"]
    case = Solid(canvas, x, z - 0.1, ident, (1, 1))
    case.front(-0.32, 0.32, top - 1.3, top + 0.15, (22, 24, 24))
    lit = int(rng.integers(3))
    for lamp, color in enumerate(((236, 40, 34), (250, 196, 40), (50, 214, 110))):
        shown = color if lamp == lit else shaded(color, 0.28)
        canvas.disc((x, top - 0.08 - 0.46 * lamp, z - 0.1), (0.19, 0.19), shown, ident, rigid_z=z)


def _draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float, top: float) -> None:
    ident = LABEL_ID["traffic sign"]
    plate = Solid(canvas, x, z - 0.1, ident, (1, 1))
    middle, kind = top - 0.35, int(rng.integers(4))
    if kind == 0:  # a red ring
        canvas.disc((x, middle, z - 0.1), (0.5, 0.5), (204, 26, 30), ident, rigid_z=z)
        canvas.disc((x, middle, z - 0.1), (0.34, 0.34), (240, 240, 236), ident, rigid_z=z)
    elif kind == 1:  # a warning triangle
        plate.shape([(-0.58, middle - 0.45), (0.58, middle - 0.45), (0, middle + 0.55)], (204, 26, 30))
        plate.shape([(-0.34, middle - 0.31), (0.34, middle - 0.31), (0, middle + 0.26)], (240, 240, 236))
    elif kind == 2:  # blue, square
        plate.front(-0.48, 0.48, middle - 0.48, middle + 0.48, (30, 84, 176))
        plate.front(-0.18, 0.18, middle - 0.3, middle + 0.3, (238, 238, 238))
    else:  # priority road: a yellow lozenge
        plate.shape([(-0.58, middle), (0, middle - 0.58), (0.58, middle), (0, middle + 0.58)], (242, 240, 232))
        plate.shape([(-0.42, middle), (0, middle - 0.42), (0.42, middle), (0, middle + 0.42)], (246, 200, 30))


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, size: float = 1.0) -> None:
    """A broad-leaved tree about 6 m tall, its trunk included in the vegetation as Cityscapes does."""
    ident = LABEL_ID["vegetation"]
    trunk = Solid(canvas, x, z, ident, (1, 1))
    bark = shaded((84, 66, 50), float(rng.uniform(0.8, 1.2)))
    trunk.shape([(-0.2, 0), (0.2, 0), (0.13, 3.0), (-0.13, 3.0)], bark)
    green = pick(rng, ((62, 98, 40), (80, 112, 50), (48, 84, 44), (104, 116, 46)))
    crown = 4.2 * size
    canvas.shade([(x - 1.4, 0, z - 0.6), (x + 1.4, 0, z - 0.6), (x + 1.4, 0, z + 1.2), (x - 1.4, 0, z + 1.2)], 0.75)
    for leaf in range(14):
        up = -1.0 + 2.2 * leaf / 13
        angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.3, 1.3))
        center = (x + size * reach * np.cos(angle), crown + size * (up + 0.3 * np.sin(angle)), z)
        radius = size * float(rng.uniform(0.6, 1.0))
        color = shaded(green, 0.72 + 0.2 * (up + 1) + float(rng.uniform(-0.08, 0.08)))
        canvas.disc(center, (radius, 0.85 * radius), color, ident, rigid_z=z)


def draw_bush(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bush about 1 m tall."""
    green = pick(rng, ((70, 100, 46), (54, 88, 44), (96, 108, 50)))
    for _ in range(6):
        center = (x + float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.3, 0.7)), z)
        canvas.disc(
            center, (0.55, 0.45), shaded(green, float(rng.uniform(0.75, 1.15))), LABEL_ID["vegetation"], rigid_z=z
        )


def draw_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A litter bin: `static`, which no class of the training ids covers."""
    bin_ = Solid(canvas, x, z, LABEL_ID["static"], (0.8, 0.9))
    bin_.box(0.3, 0.0, 0.6, 0.0, 1.0, pick(rng, ((60, 74, 66), (90, 90, 94), (150, 76, 40))))
