"""Flat things that stand across the street: lamps and signs on posts, people, clutter."""

import numpy as np

from .canvas import BLACK, BLUE, GREEN, GREY, PALE, RED, YELLOW, Id, any_colour, disc, hull, limb, mix, rectangle
from .scene import Part, Scene


def post(scene: Scene, height: float, radius: float) -> list[Part]:
    """A round post, brighter where the sun is."""
    colour = mix(GREY * np.float32(scene.rng.uniform(0.15, 0.75)), scene.paint(), scene.rng.uniform(0, 0.25))
    body = np.array([(-radius, 0), (radius, 0), (0.8 * radius, height), (-0.8 * radius, height)])
    sun = np.sign(scene.light.towards[0]) * radius
    bright, dark = body * (0.3, 1) + (0.45 * sun, 0), body * (0.3, 1) - (0.6 * sun, 0)
    return [(body, colour, Id.POLE), (bright, colour * 1.4, None), (dark, colour * 0.65, None)]


def add_lamp(scene: Scene, x: float, z: float) -> None:
    """A street lamp, its head too wide to count as pole, or a bare mast."""
    rng = scene.rng
    height, radius, reach = rng.uniform(5, 9), rng.uniform(0.26, 0.36), -np.sign(x) * rng.uniform(0.8, 2.2)
    parts = post(scene, height, radius)
    if rng.random() < 0.6:
        beam = limb((0, height - 0.1), (reach, height + 0.3), 0.7 * radius, 0.6 * radius)
        parts.append((beam, parts[0][1], Id.POLE))
        parts.append((disc(reach, height + 0.2, 0.45, 0.16), PALE * np.float32(rng.uniform(0.3, 1.2)), Id.STATIC))
    scene.stand(x, z, height, radius, parts)


def sign_plate(rng: np.random.Generator, size: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """A traffic sign about (0, 0): outlines [n, 2] in metres with their colours, the whole plate first."""
    half, kind = size / 2, rng.integers(5)
    if kind == 0:  # a board with lines of text
        wide, high = half * rng.uniform(1.0, 1.7), half * rng.uniform(0.7, 1.1)
        ground = rng.integers(4)
        ink = (PALE, PALE, BLACK, BLACK)[ground]
        plate = rectangle(-wide, wide, -high, high)
        lines = [
            (rectangle(-0.75 * wide, rng.uniform(0, 0.75) * wide, y * high, (y + 0.22) * high), ink)
            for y in (-0.6, -0.1, 0.4)
        ]
        return [(plate, ink), (plate * 0.92, (BLUE, GREEN, PALE, YELLOW)[ground]), *lines]
    corners, turn, inner, rim, ground, ink = {
        1: (20, 0, 0.74, RED, PALE, BLACK),  # prohibition
        2: (20, 0, 0.92, PALE, BLUE, PALE),  # order
        3: (3, np.pi / 2, 0.68, RED, PALE if rng.random() < 0.7 else YELLOW, BLACK),  # warning
        4: (8, np.pi / 8, 0.88, PALE, RED, PALE) if rng.random() < 0.5 else (4, 0, 0.7, PALE, YELLOW, YELLOW),
    }[kind]
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    plate = disc(0, 0, half, half, corners) @ turned
    bars = rng.uniform(-0.35, 0.35, (2, 2, 2)) * half
    return [(plate, rim), (plate * inner, ground), *((limb(a, b, 0.1 * half, 0.1 * half), ink) for a, b in bars)]


def add_sign(scene: Scene, x: float, z: float) -> None:
    """One or two traffic signs on a post."""
    rng = scene.rng
    radius, size, y, fading = rng.uniform([0.14, 1.2, 2.2, 0], [0.18, 1.6, 3.0, 0.25])
    parts = post(scene, y + 0.4 * size, radius)
    grey = GREY * np.float32(rng.uniform(0.4, 0.7))
    for height in (y, y - 1.02 * size)[: 1 + (rng.random() < 0.35)]:
        for step, (outline, colour) in enumerate(sign_plate(rng, size)):
            parts.append((outline + (0, height), mix(colour, grey, fading), None if step else Id.TRAFFIC_SIGN))
    scene.stand(x, z, y, radius, parts)


def add_person(scene: Scene, x: float, z: float) -> None:
    """Somebody who stands or walks. Outlines are in shares of the height, facing right, before they are scaled."""
    rng = scene.rng
    tall = rng.uniform(1.55, 1.95) if rng.random() < 0.85 else rng.uniform(1.1, 1.4)
    stride, hem = rng.uniform(0.02, 0.16), 0.3 if rng.random() < 0.35 else 0.45
    bag, shoe, hair = (any_colour(rng) * tone for tone in (1, 0.5, 0.5))
    trousers = mix(BLUE, BLACK, rng.uniform(0, 0.8)) * np.float32(rng.uniform(0.7, 1.2))
    top = mix((RED, YELLOW, PALE)[rng.integers(3)], any_colour(rng), rng.uniform(0, 0.35))
    skin = np.float32([0.85, 0.62, 0.5]) * np.float32(rng.uniform(0.35, 1.1))
    shin, hand = skin if rng.random() < 0.25 else trousers, (0.12 + stride, 0.5)
    elbow = (0.13 + 0.3 * stride, 0.64)
    parts = [(limb((-0.1, 0.77), (-0.13 - 0.6 * stride, 0.5), 0.036, 0.03), top * 0.7, Id.PERSON)]
    for foot, tone in ((-stride, 0.75), (stride, 1.0)):
        knee = (0.6 * foot + 0.02, 0.27)
        parts.append((limb((0.25 * foot, 0.48), knee, 0.065, 0.048), trousers * tone, Id.PERSON))
        parts.append((limb(knee, (foot, 0.045), 0.048, 0.034), shin * tone, Id.PERSON))
        parts.append((limb((foot, 0.025), (foot + 0.07, 0.02), 0.026, 0.02), shoe * tone, Id.PERSON))
    half = [(0, 0.855), (0.07, 0.855), (0.13, 0.8), (0.1, 0.6), (0.115, hem), (0, hem)]
    body = np.array(half + [(-a, b) for a, b in half[::-1]])
    parts += [(body, top, Id.PERSON), (body * (0.35, 1) - (0.07, 0.01), top * 0.8, None)]
    if rng.random() < 0.25:
        parts += [(rectangle(-0.1, 0.1, y, y + 0.03), trousers, None) for y in np.arange(hem + 0.04, 0.8, 0.08)]
    parts += [
        (disc(0, 0.86, 0.03, 0.05), skin * 0.85, Id.PERSON),
        (disc(0, 0.93, 0.055, 0.07), skin, Id.PERSON),
        (hull(disc(-0.01, 0.965, 0.055, 0.035), disc(-0.04, 0.91, 0.02, 0.02)), hair, Id.PERSON),
        (limb((0.11, 0.78), elbow, 0.038, 0.032), top * 1.12, Id.PERSON),
        (limb(elbow, hand, 0.03, 0.026), top * 1.12, Id.PERSON),
        (disc(*hand, 0.028, 0.028), skin, Id.PERSON),
    ]
    if rng.random() < 0.35:
        parts.append((np.array([(-0.22, 0.6), (-0.1, 0.62), (-0.1, 0.8), (-0.2, 0.79)]), bag, Id.PERSON))
    scale = tall * rng.choice([-1, 1]) * rng.uniform(0.85, 1.25), tall
    scene.stand(x, z, tall, 0.22, [(outline * scale, colour, label) for outline, colour, label in parts])


def add_clutter(scene: Scene, x: float, z: float, label: Id) -> None:
    """A box on wheels that evaluation ignores: a bin, a cart, a parked trailer, some rubbish."""
    rng = scene.rng
    sizes = {Id.STATIC: (0.6, 1.1), Id.DYNAMIC: (0.7, 0.9), Id.TRAILER: (1.9, 2.2), Id.UNLABELED: (1.2, 0.6)}
    wide, high = rng.uniform(0.8, 1.2, 2) * sizes[label]
    colour, lid = scene.paint(), any_colour(rng)
    parts = [
        (rectangle(-wide / 2, wide / 2, 0.1, high), colour, label),
        (rectangle(-0.42 * wide, 0.42 * wide, 0.2 * high, 0.7 * high), colour * 0.85, None),
        (rectangle(-0.53 * wide, 0.53 * wide, 0.88 * high, high), lid, label),
        *((disc(wheel * wide, 0.12, 0.12, 0.12), BLACK, label) for wheel in (-0.35, 0.35)),
    ]
    scene.stand(x, z, high, wide / 2, parts)
