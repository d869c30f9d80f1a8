"""Large holes: refining against resizing and against tiles alone, by hole PSNR and LPIPS.

make bench ONLY=refinement
LPIPS=alexnet-owt-7be5be79.pth,alex.pth make bench ONLY=refinement

The network that comes with the package sees tiles of at most 128 px, so that the photographs
that installed packages carry are several times as large, as photographs of cameras are beside 512.
Photographs of the train split are left out.
"""

import os
from statistics import mean

import numpy as np
import torch
from pages import machine, table, write_section

from infill.pipeline.evaluation.metric_networks import load_networks
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.images import decode
from infill.pipeline.inference import Mode, TilingConfig, load
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.metrics import hole_psnr
from infill.pipeline.sources import open_source

MODES: dict[Mode, str] = {
    "resize": "resize: predicted reduced",
    "tile": "tile: full size, no tile sees the whole hole",
    "refine": "refine: structure reduced, detail of tiles",
}
TILING = TilingConfig(sides_px=(64, 128), least_crop_px=64)
HOLES = MaskConfig(recipe="strokes", min_hole_ratio=0.2, max_hole_ratio=0.4)
HOLES_PER_PHOTOGRAPH = int(os.environ.get("HOLES", "3"))
NOT_MEASURED = "not measured"


def photographs() -> dict[str, np.ndarray]:
    """Return the coloured photographs, uint8 [H, W, 3] by name."""
    source = open_source("bundled", "")
    decoded = {
        original.path: decode(source.read(original), 10**8).rgb
        for original in source.originals()
        if original.split != "train"
    }
    return {name: rgb for name, rgb in decoded.items() if (rgb[..., 0] != rgb[..., 2]).any()}


def test_refinement() -> None:
    backbone, _, linear = os.environ.get("LPIPS", "").partition(",")
    lpips = load_networks(NetworkConfig(lpips_backbone=backbone, lpips_linear=linear), "cpu").lpips
    inpaint = load("infill-base")
    inpaint.tiling = TILING  # The training size, which is larger, is no tile here.
    scores: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    names = photographs()
    for name, rgb in names.items():
        image = torch.from_numpy(rgb.copy())[None]
        for number in range(HOLES_PER_PHOTOGRAPH):
            hole = generate_mask(HOLES, name, number, 0, *rgb.shape[:2]).hole
            mask = torch.from_numpy(hole.astype(np.float32))[None, None]
            for mode in MODES:
                found = torch.from_numpy(inpaint(rgb, hole > 0, mode=mode))[None]
                distance = float(lpips(found, image)) if lpips else float("nan")
                scores[mode].append((float(hole_psnr(found, image, mask)), distance))
    rows = []
    for mode, title in MODES.items():
        psnr, distance = map(mean, zip(*scores[mode], strict=True))
        rows.append([title, f"{psnr:.2f}", f"{distance:.4f}" if lpips else NOT_MEASURED])
    count = f"{len(names)} photographs, {HOLES_PER_PHOTOGRAPH} holes each, tiles up to 128 px."
    header = ["Mode", "Hole PSNR, dB", "LPIPS"]
    write_section("refinement", f"{machine()}. {count}\n\n{table(header, rows)}")
