"""Simulate MR and CT scans of the phantom: tissue signals, noise and artefacts.

**MR**: a respiratory-gated whole-heart balanced steady-state free precession scan at 1.5 T, the
sequence of MM-WHS: T2 preparation, fat saturation, surface coils. The steady state for TR << T2 and
alternating pulses (Freeman-Hill formula) is::

    S = PD sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) * sqrt(E2)
    E1 = exp(-TR / T1), E2 = exp(-TR / T2), TE = TR / 2

times (1 + exp(-TE_prep / T2)) / 2: about half of the contrast of the preparation is left over a
readout train that drives the magnetisation back to the steady state. Subjects come from several
sites with different protocols: TR 3.2-4.6 ms, flip angle 60-100 degrees (power limits), TE_prep
0-50 ms (some sites use no preparation).

- T1 / T2 in ms, the usual 1.5 T literature values (relaxometry of samples and of volunteers), 5 %
  between people: blood 1440 / 250 arterial, 1440 / 180 venous (deoxygenation shortens T2),
  myocardium 1030 / 50, muscle 1010 / 44, liver 580 / 46, spleen 1060 / 79, fat 340 / 58, vertebral
  marrow 550 / 49. Lung and cortical bone: almost no signal (few protons, T2* below 2 ms).
- Fat saturation leaves 10-60 % of fat (field inhomogeneity), and of the fatty half of marrow.
- Coils: loops of 60 mm radius on the front and the back of the chest, Biot-Savart fall-off on the
  axis, root of the sum of squares, to the power 0.25-0.5 that vendor normalisation leaves.
- Complex Gaussian noise, 3-6 % of blood, before the magnitude: the image is Rician. An in-plane
  k-space window (a fifth zero-filled, cosine edge) gives noise and edges one point spread.

**CT**: a contrast-enhanced scan in the coronary phase at 100-120 kV, Hounsfield units of radiology
textbooks.

- Left heart and aorta 320-480, right heart 90-400 and upper vein up to 500 more (timing of the
  bolus, saline chaser), lower vein 60-140 (not mixed yet), myocardium 90-130 (first pass), muscle
  45-65, liver 60-110, spleen 100-140, fat -110 to -90, lung -880 to -800, marrow 120-240, cortical
  bone 700-1000, air -1000.
- Noise 18-32 HU (3-4 mm slices, soft kernel) with the spectrum of filtered back-projection: square
  root of the ramp times the kernel; stronger from rays that cross the chest sideways, which fewer
  photons survive.
- Streaks fan out of an upper vein denser than 300 HU (beam hardening and pulsation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import zoom

from uda.data.synthetic.phantom.shapes import Floats

_RELAXATION: dict[str, tuple[float, float, float]] = {
    "blood_left": (1440, 250, 0.95),
    "blood_right": (1440, 180, 0.95),
    "blood_upper_vein": (1440, 170, 0.95),
    "blood_lower_vein": (1440, 180, 0.95),
    "myocardium": (1030, 50, 0.80),
    "vessel_wall": (900, 45, 0.70),
    "muscle": (1010, 44, 0.80),
    "liver": (580, 46, 0.75),
    "spleen": (1060, 79, 0.80),
    "stomach": (1300, 120, 0.85),
    "fat": (340, 58, 0.90),
    "marrow": (550, 49, 0.60),
    "spinal_fluid": (4000, 1500, 1.0),
    "lung": (1200, 40, 0.15),
    "bone": (1000, 10, 0.05),
    "gas": (1000, 10, 0.0),
}
"""Tissue: T1 (ms), T2 (ms), proton density relative to water."""


def mr_values(rng: Generator) -> dict[str, float]:
    """Random MR signal of each tissue, relative to blood of the left heart."""
    flip, repetition = np.deg2rad(rng.uniform(60, 100)), rng.uniform(3.2, 4.6)
    preparation, left_over = rng.uniform(0, 50), rng.uniform(0.1, 0.6)
    kept = {"fat": left_over, "marrow": (1 + left_over) / 2}
    signal = {}
    for tissue, (t1, t2, density) in _RELAXATION.items():
        t1, t2 = np.array([t1, t2]) * np.clip(rng.normal(1, 0.05, 2), 0.85, 1.15)
        e1, e2 = np.exp(-repetition / t1), np.exp(-repetition / t2)
        steady = np.sin(flip) * (1 - e1) / (1 - (e1 - e2) * np.cos(flip) - e1 * e2) * np.sqrt(e2)
        signal[tissue] = (
            density * kept.get(tissue, 1.0) * steady * (1 + np.exp(-preparation / t2)) / 2
        )
    return {tissue: float(value / signal["blood_left"]) for tissue, value in signal.items()}


def ct_values(rng: Generator) -> dict[str, float]:
    """Random CT value of each tissue, in Hounsfield units."""
    left, right = rng.uniform(320, 480), rng.uniform(90, 400)
    return {
        "blood_left": left,
        "blood_right": right,
        "blood_upper_vein": right + rng.uniform(0, 500),
        "blood_lower_vein": rng.uniform(60, 140),
        "myocardium": rng.uniform(90, 130),
        "vessel_wall": 50.0,
        "muscle": rng.uniform(45, 65),
        "liver": rng.uniform(60, 110),
        "spleen": rng.uniform(100, 140),
        "stomach": rng.uniform(10, 40),
        "fat": rng.uniform(-110, -90),
        "marrow": rng.uniform(120, 240),
        "spinal_fluid": 20.0,
        "lung": rng.uniform(-880, -800),
        "bone": rng.uniform(700, 1000),
        "gas": -1000.0,
    }


@dataclass(frozen=True)
class Frame:
    """Spacing (mm), and the voxel index of the middle of the heart, to which the coils refer."""

    spacing: NDArray[np.float64]
    centre: NDArray[np.float64]

    def frequencies(self, size: tuple[int, ...]) -> tuple[Floats, Floats]:
        """In-plane frequencies, 1 = the Nyquist frequency: shapes (x, 1, 1) and (1, y, 1)."""
        fx, fy = (2 * np.fft.fftfreq(n).astype(np.float32) for n in size[:2])
        return fx[:, None, None], fy[None, :, None]


def mr_image(signal: Floats, frame: Frame, rng: Generator) -> NDArray[np.int16]:
    """MR image of a signal: coils, complex noise, k-space window, magnitude; blood has a few hundred units."""
    noise = rng.uniform(0.03, 0.06)
    received = signal * _coil_profile(signal.shape, frame, rng)
    parts = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise)
    sampled = fft.fft2(received + parts[0] + 1j * parts[1], axes=(0, 1))
    fx, fy = frame.frequencies(signal.shape)
    sampled *= _window(np.abs(fx), 0.8) * _window(np.abs(fy), 0.8)
    magnitude = np.abs(fft.ifft2(sampled, axes=(0, 1)))
    gain = rng.uniform(400, 900)
    return np.asarray(np.rint(np.clip(gain * magnitude, 0, 32767)), np.int16)


def _window(frequency: Floats, edge: float) -> Floats:
    """1 below ``edge`` - 0.2, 0 above ``edge``, half a cosine in between."""
    fall = np.clip((frequency - (edge - 0.2)) / 0.2, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * fall), np.float32)


def _coil_profile(shape: tuple[int, ...], frame: Frame, rng: Generator) -> Floats:
    """Residual receive sensitivity, mean 1, of four coil loops in front and two behind (mm)."""
    coarse = [np.linspace(0, n - 1, 20) for n in shape]
    axes = [
        (c - mid) * step for c, mid, step in zip(coarse, frame.centre, frame.spacing, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    loops = [(sx, 95, sz) for sx in (-70, 70) for sz in (-60, 60)] + [(-60, -140, 0), (80, -140, 0)]
    power = np.zeros(x.shape)
    for place in loops:
        cx, cy, cz = rng.normal(place, 15)
        square = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        power += (60.0**3 / (60.0**2 + square) ** 1.5) ** 2
    profile = np.sqrt(power) ** rng.uniform(0.25, 0.5)
    scale = [n / 20 for n in shape]
    fine = zoom((profile / profile.mean()).astype(np.float32), scale, order=1, grid_mode=False)
    return np.asarray(fine, np.float32)


def ct_image(
    signal: Floats, frame: Frame, vein: Floats, density: float, rng: Generator
) -> NDArray[np.int16]:
    """CT image of a signal in Hounsfield units: kernel, correlated noise, streaks.

    ``vein`` (slices, 2) is the voxel index at which the upper vein crosses each slice (nan where it does
    not), ``density`` is its value (HU).
    """
    fx, fy = frame.frequencies(signal.shape)
    square = fx**2 + fy**2
    kernel = np.exp(-2 * 0.55**2 * square)
    sideways = 1 + 0.8 * fy**2 / np.maximum(square, np.float32(1e-6))
    spectrum = np.sqrt(np.sqrt(square)) * kernel * sideways
    white = rng.standard_normal(signal.shape, dtype=np.float32)
    grain = fft.ifft2(fft.fft2(white, axes=(0, 1)) * spectrum, axes=(0, 1)).real
    grain *= rng.uniform(18, 32) / grain.std()
    sharp = fft.ifft2(fft.fft2(signal, axes=(0, 1)) * kernel, axes=(0, 1)).real
    strength = 0.1 * max(density - 300.0, 0.0)
    image = sharp + grain + strength * _streaks(signal.shape, frame, vein, rng)
    return np.asarray(np.rint(np.clip(image, -1024, 3071)), np.int16)


def _streaks(shape: tuple[int, ...], frame: Frame, vein: Floats, rng: Generator) -> Floats:
    """Streaks from the vein: a random function of the angle, about 1 at 20 mm, then falling as 1 / r."""
    orders, turns = np.arange(3, 12), np.linspace(-np.pi, np.pi, 181)
    phase = np.cumsum(rng.normal(0, 0.5, (shape[2], orders.size)), axis=0)
    phase += rng.uniform(0, 2 * np.pi, orders.size)
    streaks = np.zeros(shape, np.float32)
    for k in np.nonzero(np.isfinite(vein[:, 0]))[0]:
        dx, dy = (
            (np.arange(n, dtype=np.float32) - at) * np.float32(step)
            for n, at, step in zip(shape[:2], vein[k], frame.spacing[:2], strict=True)
        )
        angle = np.arctan2(dy[None, :], dx[:, None])
        far = np.hypot(dx[:, None], dy[None, :])
        wave = np.cos(orders * turns[:, None] + phase[k]).sum(1) / np.sqrt(orders.size / 2)
        streaks[:, :, k] = np.interp(angle, turns, wave) * 40 / (20 + far)
    return streaks
