"""From the faces of a street to a picture and its labels.

The game's picture is the painted scene itself, almost sharp and in strong colours, duller under a
grey sky. The camera's picture goes through air, lens and sensor:

- haze: ``t = exp(-z / V)`` of the scene and ``1 - t`` of the grey sky, V = 150-400 m,
- texture that nobody models (dirt, plaster, leaves): noise of two sizes that grows with roughness,
- less saturation and contrast, a greenish cast,
- vignetting ``1 - a r²``, a blur of a pixel at most, and sensor noise whose variance has a
  constant part and a part that grows with the signal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from uda.data.synthetic.streets.canvas import Canvas, Color, Floats, Range
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.scene import Street
from uda.errors import DataError

StyleName: TypeAlias = Literal["game", "camera"]

_GREY = np.array([0.299, 0.587, 0.114])
_ROUGH = np.full(256, 0.03, np.float32)
"""Deviation of the texture of each label's surface, relative to its colour."""
for _names, _value in (
    (("sky", "ego vehicle"), 0.0),
    (("building", "wall", "fence"), 0.08),
    (("vegetation", "terrain"), 0.18),
):
    _ROUGH[[LABEL_ID[name] for name in _names]] = _value


class _Look(NamedTuple):
    """The sky and the way of the light into a picture; ranges are drawn from once an image.

    ``sight`` (m) and ``low``: how far one sees through the haze, and its colour, the horizon's too.
    ``blur``: sigma in picture widths. ``noise``: constant, and what grows with the signal.
    """

    sky: Color
    low: Color
    cloud: float
    texture: float
    sight: Range
    saturation: Range
    cast: Color
    gain: Range
    contrast: Range
    vignette: Range
    blur: float
    noise: Range


_LOOKS: dict[StyleName, _Look] = {
    "game": _Look(
        *((0.72, 0.78, 0.86), (0.76, 0.82, 0.9), 0.97, 0.35, (500, 700), (1.0, 1.25)),
        *((1.0, 1.0, 1.0), (0.85, 1.1), (1.0, 1.2), (0.0, 0.0), 0.0014, (0.0, 0.0)),
    ),
    "camera": _Look(
        *((0.87, 0.89, 0.9), (0.9, 0.91, 0.9), 0.81, 0.7, (150, 400), (0.65, 0.9)),
        *((0.96, 1.0, 0.95), (0.9, 1.12), (0.86, 0.92), (0.1, 0.22), 0.0028, (0.009, 0.013)),
    ),
}
_BLUE = (0.37, 0.58, 0.92)


def render_street(
    number: int, style: StyleName, size: tuple[int, int], seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw street ``number`` in one of the two styles; the same arguments give the same pixels.

    Returns:
        The picture uint8 [h, w, 3] and the Cityscapes label ids uint8 [h, w].

    Raises:
        DataError: for another style, a negative number or seed, or a size below 32x64.
    """
    if style not in _LOOKS or min(number, seed) < 0 or size[0] < 32 or size[1] < 64:
        raise DataError(
            f"no street can be drawn of style {style!r}, number {number}, seed {seed}, "
            f"{size[0]}x{size[1]} pixels",
            expected="style 'game' or 'camera', numbers that are not negative, 32x64 pixels or more",
            fix="give the size as (rows, columns)",
        )
    code, look = list(_LOOKS).index(style), _LOOKS[style]
    rng = np.random.default_rng([seed, code + 1, number, 1])
    canvas = Street(number, code, size, seed).canvas
    color, ids, depth = canvas.paint(_sky(canvas, look, rng))
    image = _picture(color, ids, depth, look, 0.25 * (canvas.light.overcast and code == 0), rng)
    if style == "camera":
        # Cityscapes does not label the edge that the rectification of the lens leaves.
        width = max(1, size[1] // 256)
        ids[:, :width] = ids[:, -width:] = LABEL_ID["rectification border"]
        ids[-width:] = LABEL_ID["out of roi"]
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8), ids


def _sky(canvas: Canvas, look: _Look, rng: Generator) -> Floats:
    """A gradient down to the horizon, and clouds."""
    camera, overcast = canvas.camera, canvas.light.overcast
    top = np.array(look.sky if overcast else _BLUE) * rng.uniform(0.9, 1.05)
    fall = np.clip(np.arange(camera.rows) / max(camera.horizon, 1), 0, 1)[:, None, None]
    clear = top + (np.array(look.low) - top) * fall
    noise = rng.standard_normal((5, 7)).astype(np.float32)
    cover = cv2.resize(noise, (camera.cols, camera.rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(cover * 0.8 - (0.2 if overcast else 0.4), 0, 0.8)[..., None]
    return np.asarray(clear + (look.cloud - clear) * cover, np.float32)


def _picture(
    color: Floats, ids: NDArray[np.uint8], depth: Floats, look: _Look, dull: float, rng: Generator
) -> Floats:
    """Texture, haze, colours, lens and sensor."""
    rows, cols = ids.shape
    grain = rng.standard_normal((rows, cols), dtype=np.float32)
    lumps = rng.standard_normal((rows // 4 + 1, cols // 4 + 1), dtype=np.float32)
    grain += cv2.resize(lumps, (cols, rows), interpolation=cv2.INTER_LINEAR)
    image = color * (1 + look.texture * _ROUGH[ids] * grain)[..., None]
    far = np.where(ids == LABEL_ID["sky"], 0, depth)
    clear = np.exp(far / np.float32(-rng.uniform(*look.sight)))[..., None]
    veil = np.array(look.low, np.float32)
    image = veil + clear * (image - veil)
    vivid = rng.uniform(*look.saturation) - dull
    cast = np.diag(look.cast) * rng.uniform(*look.gain)
    image = cv2.transform(image, cast @ (vivid * np.eye(3) + (1 - vivid) * _GREY))
    image = 0.5 + (image - 0.5) * np.float32(rng.uniform(*look.contrast))
    v, u = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    image *= (1 - rng.uniform(*look.vignette) * (v**2 + u**2) / 2).astype(np.float32)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), min(look.blur * cols, 1.0))
    deviation = np.sqrt(look.noise[0] ** 2 + look.noise[1] ** 2 * np.maximum(image, 0))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + deviation * noise, np.float32)
