"""From the plan of a street to a picture and its labels.

The game's picture is the painted scene itself, almost sharp and in strong colours, duller when its
sky is grey. The camera's picture goes through air, lens and sensor:

- haze: ``t = exp(-z / V)`` of the scene and ``1 - t`` of the grey sky, V = 150-400 m,
- texture that nobody models (dirt, plaster, leaves): noise of two sizes that grows with roughness,
- less saturation, a greenish cast, lifted blacks, a soft shoulder,
- vignetting ``1 - a r²``, a blur of a pixel at most, and sensor noise whose variance has a
  constant part and a part that grows with the signal.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from uda.data.synthetic.streets.canvas import Canvas, Floats
from uda.data.synthetic.streets.fronts import paint_fronts, paint_sky
from uda.data.synthetic.streets.ground import paint_ground
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.looks import STYLES, Studio, StyleName
from uda.data.synthetic.streets.scene import plan_street
from uda.errors import DataError

_GREY = np.array([0.299, 0.587, 0.114])
_ROUGH = {"building": 0.07, "wall": 0.09, "fence": 0.08, "vegetation": 0.2, "terrain": 0.12}
_ROUGH |= {"sky": 0.0, "ego vehicle": 0.01, "car": 0.03}
_SMALLEST = (32, 64)


def render_street(
    number: int, style: StyleName, size: tuple[int, int], seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw street ``number`` in one of the two styles; the same arguments give the same pixels.

    Returns:
        The picture uint8 [h, w, 3] and the Cityscapes label ids uint8 [h, w].

    Raises:
        DataError: for another style, a negative number or seed, or a size below 32x64.
    """
    if style not in STYLES or min(number, seed) < 0 or size[0] < 32 or size[1] < 64:
        raise DataError(
            f"no street can be drawn of style {style!r}, number {number}, seed {seed}, "
            f"{size[0]}x{size[1]} pixels",
            expected="style 'game' or 'camera', numbers that are not negative, 32x64 pixels or more",
            fix="give the size as (rows, columns)",
        )
    look = STYLES[style]
    plan, paint, photo = (np.random.default_rng([seed, look.code, number, k]) for k in range(3))
    scene = plan_street(number, look, seed, plan)
    camera = look.camera(size, scene.offset, plan)
    canvas = Canvas.blank(camera, look.light(paint))
    studio = Studio(canvas, look, paint)
    paint_sky(studio)
    paint_ground(studio, scene)
    paint_fronts(studio, scene)
    for _, thing in scene.things:
        thing(studio)
    if scene.bonnet:
        _bonnet(studio)
    canvas.flatten()
    if style == "game":
        image = _game_picture(canvas, photo)
    else:
        image = _camera_picture(canvas, photo)
        _frame(canvas.ids)
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8), canvas.ids


def _bonnet(studio: Studio) -> None:
    """The front of the car that carries the camera, a flat arch at the lower edge."""
    camera, rng = studio.canvas.camera, studio.rng
    coat = studio.coat("ego vehicle", "bonnet")
    z, low = 2.0, camera.height - (camera.rows + 2 - camera.horizon) * 2.0 / camera.focal
    top = low + rng.uniform(0.06, 0.1) * camera.rows * z / camera.focal
    half = 0.5 * camera.cols * z / camera.focal
    middle = (camera.centre - camera.vanish) * z / camera.focal + camera.offset
    arch = [(middle + half * a, top - (top - low) * 0.55 * a**2) for a in np.linspace(-1, 1, 13)]
    corners = [(x, y, z) for x, y in arch] + [(middle + half, low, z), (middle - half, low, z)]
    studio.canvas.polygon(corners, coat, 1.0)
    inner = [(middle + 0.6 * (x - middle), low + 0.8 * (y - low), z) for x, y in arch]
    studio.canvas.polygon([*inner, (middle, low, z)], coat.times(1.25), 1.0)


def _frame(ids: NDArray[np.uint8]) -> None:
    """Cityscapes does not label the edge that the rectification of the lens leaves."""
    width = max(1, ids.shape[1] // 256)
    ids[:, :width] = ids[:, -width:] = LABEL_ID["rectification border"]
    ids[-width:] = LABEL_ID["out of roi"]


def _game_picture(canvas: Canvas, rng: Generator) -> Floats:
    """Saturation and contrast up, a touch of smoothing; no noise."""
    image = _hazy(canvas, _textured(canvas, rng, fine=0.3, broad=0.4), 600, (0.75, 0.78, 0.82))
    dull = 0.25 if canvas.light.overcast else 0.0
    vivid = _colored(image, _saturation(rng.uniform(1.0, 1.25) - dull))
    contrast, gain = rng.uniform(1.0, 1.2), rng.uniform(0.85, 1.1)
    return _blurred((0.5 + (vivid - 0.5) * contrast) * gain, min(0.0014 * canvas.camera.cols, 0.7))


def _camera_picture(canvas: Canvas, rng: Generator) -> Floats:
    """Haze, cast, lens and sensor."""
    camera = canvas.camera
    image = _textured(canvas, rng, fine=0.7, broad=0.7)
    image = _hazy(canvas, image, rng.uniform(150, 400), (0.86, 0.88, 0.87))
    cast = np.diag([0.96, 1.0, 0.95]) * rng.uniform(0.9, 1.12)
    image = _colored(image, cast @ _saturation(rng.uniform(0.65, 0.9)))
    rows, cols = np.ogrid[-1 : 1 : camera.rows * 1j, -1 : 1 : camera.cols * 1j]
    fall = 1 - rng.uniform(0.1, 0.22) * (rows**2 + cols**2) / 2
    toned = 0.04 + 0.92 * image * (1.12 - 0.12 * image)
    light = _blurred(toned * fall.astype(np.float32)[..., None], min(0.0028 * camera.cols, 1.0))
    deviation = np.sqrt(0.009**2 + 0.013**2 * np.maximum(light, 0))
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(light + deviation * noise, np.float32)


def _hazy(canvas: Canvas, image: Floats, sight: float, haze: tuple[float, float, float]) -> Floats:
    """Air between the scene and the camera; the sky is the haze's own light."""
    depth = np.where(canvas.ids == LABEL_ID["sky"], 0, canvas.depth)
    clear = np.exp(depth / np.float32(-sight))[..., None]
    veil = np.array(haze, np.float32)
    return np.asarray(veil + clear * (image - veil), np.float32)


def _colored(image: Floats, matrix: NDArray[np.float64]) -> Floats:
    """Each pixel's colour times a 3x3 matrix."""
    return np.asarray(cv2.transform(image, matrix), np.float32)


def _saturation(gain: float) -> NDArray[np.float64]:
    """The matrix that moves colours away from their grey (``gain`` > 1) or towards it."""
    return gain * np.eye(3) + (1 - gain) * _GREY


def _textured(canvas: Canvas, rng: Generator, fine: float, broad: float) -> Floats:
    """The paint with noise of one pixel and of a few, as strong as the surface is rough."""
    rough = np.full(256, 0.02, np.float32)
    for name, value in _ROUGH.items():
        rough[LABEL_ID[name]] = value
    rows, cols = canvas.ids.shape
    grain = fine * rng.standard_normal((rows, cols), dtype=np.float32)
    lumps = rng.standard_normal((rows // 4 + 1, cols // 4 + 1), dtype=np.float32)
    grain += broad * cv2.resize(lumps, (cols, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(canvas.albedo * (1 + rough[canvas.ids] * grain)[..., None], np.float32)


def _blurred(image: Floats, sigma: float) -> Floats:
    """A Gaussian blur; ``sigma`` in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
