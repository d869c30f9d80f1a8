"""The printed figures of the tables of the papers.

The authors measured them on their images, masks and machines; none are ours. Values have the unit
of :class:`~infill.pipeline.metrics.metric_registry.Metric`. A dash is a figure that the paper does
not give.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """One system's figures in one table."""

    system: str
    source: str
    """Paper and table, or who repeats it where the paper is not at hand."""
    values: dict[str, dict[str, str]]
    """Values by metric and column, as printed."""


def _table(source: str, columns: str, text: str) -> tuple[Published, ...]:
    """Read lines of ``system | metric | figures``, one figure per column."""
    names = [column.strip() for column in columns.split("|")]
    systems: dict[str, dict[str, dict[str, str]]] = {}
    for line in text.strip().splitlines():
        system, metric, figures = (part.strip() for part in line.split("|"))
        values = dict(zip(names, figures.split(), strict=True))
        found = {column: value for column, value in values.items() if value != "-"}
        if found:
            systems.setdefault(system, {})[metric] = found
    return tuple(
        Published(system=system, source=source, values=values) for system, values in systems.items()
    )


_MADF = _table(
    "MADF, Table I",
    "0.01-0.1 | 0.1-0.2 | 0.2-0.3 | 0.3-0.4 | 0.4-0.5 | 0.5-0.6 | all | regular",
    """
    PatchMatch | psnr | 32.28 26.37 23.55 21.40 19.70 17.58 23.48 19.70
    DeepFill v1 | psnr | 29.67 23.81 20.74 18.68 17.32 15.94 21.03 19.52
    EdgeConnect | psnr | 33.58 27.87 24.89 22.79 21.10 18.95 24.86 20.44
    PConv | psnr | 34.05 28.42 25.54 23.24 21.42 19.10 25.30 21.06
    GConv (DeepFill v2) | psnr | 32.45 26.68 23.73 21.45 19.70 17.40 23.57 19.11
    LBAM | psnr | 34.09 28.13 25.13 22.83 21.02 18.77 25.00 20.68
    PEN-Net | psnr | 31.61 25.76 23.04 21.07 19.39 18.29 23.19 20.20
    StructureFlow | psnr | 34.92 29.13 25.89 23.58 21.63 19.35 25.77 21.23
    MADF | psnr | 35.74 29.42 26.29 23.84 21.92 19.44 26.11 21.32
    PatchMatch | ssim | 0.979 0.935 0.877 0.806 0.724 0.573 0.816 0.717
    DeepFill v1 | ssim | 0.961 0.893 0.804 0.715 0.628 0.511 0.752 0.735
    EdgeConnect | ssim | 0.980 0.945 0.895 0.837 0.768 0.634 0.843 0.747
    PConv | ssim | 0.983 0.951 0.908 0.853 0.788 0.652 0.856 0.756
    GConv (DeepFill v2) | ssim | 0.979 0.939 0.886 0.822 0.751 0.609 0.831 0.726
    LBAM | ssim | 0.983 0.949 0.903 0.845 0.777 0.638 0.849 0.748
    PEN-Net | ssim | 0.976 0.910 0.835 0.753 0.6456 0.547 0.778 0.726
    StructureFlow | ssim | 0.985 0.957 0.913 0.861 0.796 0.654 0.863 0.767
    MADF | ssim | 0.988 0.961 0.922 0.873 0.812 0.679 0.872 0.768
    PatchMatch | fid | 4.99 12.69 22.33 31.94 43.42 52.29 11.38 12.68
    DeepFill v1 | fid | 7.13 16.25 28.48 40.31 52.89 60.46 15.84 11.42
    EdgeConnect | fid | 4.06 8.78 14.51 20.25 27.30 37.52 5.76 10.87
    PConv | fid | 4.64 10.01 16.47 22.93 31.69 43.31 7.53 15.91
    GConv (DeepFill v2) | fid | 4.18 9.93 16.93 24.25 32.44 44.42 7.88 13.22
    LBAM | fid | 4.21 9.34 15.69 22.25 30.31 42.38 7.06 12.07
    PEN-Net | fid | 4.32 11.81 19.16 27.27 35.44 48.73 8.29 10.91
    StructureFlow | fid | 3.11 6.82 13.78 19.82 24.97 37.33 5.54 8.24
    MADF | fid | 2.69 6.71 11.64 16.95 23.27 34.13 4.45 8.29
    """,
)

_SPN_COLUMNS = "0.2-0.4 | 0.4-0.6 | all"

_SPN_PLACES2 = _table(
    "SPN, Table 1",
    _SPN_COLUMNS,
    """
    EdgeConnect | uniform_ssim_11 | 0.847 0.695 0.832
    MFE | uniform_ssim_11 | 0.816 0.652 0.804
    RFR | uniform_ssim_11 | 0.856 0.704 0.839
    RN | uniform_ssim_11 | 0.875 0.726 0.855
    WF | uniform_ssim_11 | 0.855 0.647 0.820
    CTSDG | uniform_ssim_11 | 0.848 0.696 0.837
    SPL | uniform_ssim_11 | 0.894 0.759 0.875
    SPN | uniform_ssim_11 | 0.897 0.763 0.877
    EdgeConnect | psnr | 24.17 20.32 25.07
    MFE | psnr | 22.89 19.13 23.94
    RFR | psnr | 24.38 20.42 25.48
    RN | psnr | 25.44 21.08 26.37
    WF | psnr | 24.57 19.31 24.77
    CTSDG | psnr | 24.16 20.36 25.54
    SPL | psnr | 26.47 22.05 27.55
    SPN | psnr | 26.65 22.18 27.72
    EdgeConnect | grey_l1 | 0.221 0.456 0.248
    MFE | grey_l1 | 0.266 0.542 0.296
    RFR | grey_l1 | 0.212 0.445 0.240
    RN | grey_l1 | 0.187 0.412 0.218
    WF | grey_l1 | 0.216 0.583 0.285
    CTSDG | grey_l1 | 0.220 0.452 0.237
    SPL | grey_l1 | 0.164 0.363 0.191
    SPN | grey_l1 | 0.158 0.351 0.185
    EdgeConnect | fid | 9.63 23.04 6.08
    MFE | fid | 21.07 48.74 15.38
    RFR | fid | 8.43 21.82 5.27
    RN | fid | 9.27 25.00 6.10
    WF | fid | 7.75 42.46 9.37
    CTSDG | fid | 15.88 42.19 12.36
    SPL | fid | 8.30 23.98 5.56
    SPN | fid | 7.68 20.73 4.73
    """,
)

_SPN_CELEBA = _table(
    "SPN, Table 1",
    _SPN_COLUMNS,
    """
    EdgeConnect | uniform_ssim_11 | 0.922 0.815 0.905
    MFE | uniform_ssim_11 | 0.916 0.807 0.900
    RFR | uniform_ssim_11 | 0.931 0.838 0.917
    RN | uniform_ssim_11 | 0.941 0.852 0.925
    CTSDG | uniform_ssim_11 | 0.923 0.819 0.907
    SPL | uniform_ssim_11 | 0.950 0.869 0.935
    SPN | uniform_ssim_11 | 0.952 0.871 0.937
    EdgeConnect | psnr | 29.47 24.08 30.34
    MFE | psnr | 29.03 23.85 30.13
    RFR | psnr | 30.33 25.09 31.38
    RN | psnr | 31.17 25.51 32.17
    CTSDG | psnr | 29.48 24.21 30.62
    SPL | psnr | 32.17 26.43 33.23
    SPN | psnr | 32.39 26.54 33.52
    EdgeConnect | grey_l1 | 0.111 0.274 0.140
    MFE | grey_l1 | 0.119 0.284 0.145
    RFR | grey_l1 | 0.099 0.237 0.121
    RN | grey_l1 | 0.091 0.229 0.115
    CTSDG | grey_l1 | 0.109 0.267 0.135
    SPL | grey_l1 | 0.080 0.203 0.102
    SPN | grey_l1 | 0.077 0.200 0.099
    EdgeConnect | fid | 10.41 14.40 7.24
    MFE | fid | 11.12 15.42 7.95
    RFR | fid | 10.22 14.57 7.15
    RN | fid | 11.39 18.00 8.16
    CTSDG | fid | 11.32 17.57 8.14
    SPL | fid | 10.27 12.94 6.88
    SPN | fid | 10.16 12.38 6.77
    """,
)

_SPN_PARIS = _table(
    "SPN, Table 1",
    _SPN_COLUMNS,
    """
    EdgeConnect | uniform_ssim_11 | 0.880 0.740 0.849
    MFE | uniform_ssim_11 | 0.872 0.707 0.834
    RFR | uniform_ssim_11 | 0.893 0.763 0.863
    RN | uniform_ssim_11 | 0.891 0.756 0.861
    WF | uniform_ssim_11 | 0.895 0.765 0.864
    CTSDG | uniform_ssim_11 | 0.888 0.746 0.855
    SPL | uniform_ssim_11 | 0.911 0.790 0.882
    SPN | uniform_ssim_11 | 0.916 0.795 0.886
    EdgeConnect | psnr | 27.65 22.81 27.50
    MFE | psnr | 27.22 22.07 27.07
    RFR | psnr | 28.32 23.71 28.36
    RN | psnr | 28.44 23.53 28.37
    WF | psnr | 28.66 23.88 28.21
    CTSDG | psnr | 28.08 23.39 28.11
    SPL | psnr | 29.34 24.47 29.38
    SPN | psnr | 29.76 24.67 29.69
    EdgeConnect | grey_l1 | 0.148 0.364 0.204
    MFE | grey_l1 | 0.159 0.412 0.226
    RFR | grey_l1 | 0.134 0.324 0.182
    RN | grey_l1 | 0.136 0.337 0.187
    WF | grey_l1 | 0.132 0.330 0.185
    CTSDG | grey_l1 | 0.138 0.338 0.189
    SPL | grey_l1 | 0.115 0.292 0.161
    SPN | grey_l1 | 0.109 0.282 0.154
    EdgeConnect | fid | 43.45 87.70 44.95
    MFE | fid | 47.22 100.85 50.33
    RFR | fid | 37.51 77.15 39.44
    RN | fid | 64.78 134.00 66.54
    WF | fid | 33.20 73.31 38.36
    CTSDG | fid | 46.52 98.76 49.19
    SPL | fid | 41.41 93.41 46.13
    SPN | fid | 34.00 70.76 36.82
    """,
)

_SPN_PROBABILISTIC = _table(
    "SPN, Table 2",
    "0-0.2 | 0.2-0.4 | 0.4-0.6 | all",
    """
    PIC, CelebA-HQ | uniform_ssim_11 | 0.962 0.875 0.742 0.860
    DSI, CelebA-HQ | uniform_ssim_11 | 0.964 0.880 0.758 0.868
    SPN, CelebA-HQ | uniform_ssim_11 | 0.971 0.894 0.777 0.881
    PIC, Paris | uniform_ssim_11 | 0.944 0.844 0.660 0.802
    SPN, Paris | uniform_ssim_11 | 0.966 0.896 0.763 0.865
    PIC, CelebA-HQ | psnr | 33.80 26.56 22.13 27.49
    DSI, CelebA-HQ | psnr | 34.42 26.92 22.75 28.03
    SPN, CelebA-HQ | psnr | 35.72 27.68 23.32 28.90
    PIC, Paris | psnr | 31.96 26.16 21.28 25.93
    SPN, Paris | psnr | 35.03 28.71 23.66 28.56
    PIC, CelebA-HQ | grey_l1 | 0.046 0.161 0.359 0.187
    DSI, CelebA-HQ | grey_l1 | 0.044 0.155 0.329 0.175
    SPN, CelebA-HQ | grey_l1 | 0.038 0.140 0.305 0.160
    PIC, Paris | grey_l1 | 0.067 0.185 0.473 0.261
    SPN, Paris | grey_l1 | 0.045 0.127 0.323 0.179
    PIC, CelebA-HQ | fid | 8.82 16.44 27.82 8.71
    DSI, CelebA-HQ | fid | 7.15 12.98 21.34 6.30
    SPN, CelebA-HQ | fid | 3.22 8.99 16.54 4.08
    PIC, Paris | fid | 40.42 72.43 120.10 68.00
    SPN, Paris | fid | 34.07 45.66 78.86 46.97
    """,
)

_PENNET = _table(
    "PEN-Net, Table 3",
    "random",
    """
    PatchMatch | l1 | 12.90
    GL | l1 | 9.27
    PConv | l1 | 8.92
    DeepFill v1 | l1 | 9.91
    PEN-Net | l1 | 9.94
    PatchMatch | ms_ssim | 0.6000
    GL | ms_ssim | 0.7340
    PConv | ms_ssim | 0.7467
    DeepFill v1 | ms_ssim | 0.7302
    PEN-Net | ms_ssim | 0.7809
    PatchMatch | places_score | 43.03
    GL | places_score | 42.05
    PConv | places_score | 47.00
    DeepFill v1 | places_score | 44.81
    PEN-Net | places_score | 50.51
    PatchMatch | fid | 20.36
    GL | fid | 19.18
    PConv | fid | 18.39
    DeepFill v1 | fid | 18.34
    PEN-Net | fid | 15.19
    """,
)

_DEEPFILL = _table(
    "DeepFill v1, Table 1 (from memory, not checked against the print)",
    "96-128 px",
    """
    PatchMatch | l1 | 16.1
    DeepFill v1 without attention | l1 | 9.4
    DeepFill v1 | l1 | 8.6
    PatchMatch | l2 | 3.9
    DeepFill v1 without attention | l2 | 2.4
    DeepFill v1 | l2 | 2.1
    PatchMatch | psnr | 16.62
    DeepFill v1 without attention | psnr | 18.15
    DeepFill v1 | psnr | 18.91
    PatchMatch | total_variation | 25.0
    DeepFill v1 without attention | total_variation | 25.7
    DeepFill v1 | total_variation | 25.3
    """,
)


def _deepgin(text: str, size: str = "256 x 256") -> tuple[Published, ...]:
    return _table(f"DeepGIN, Table 2 ({size})", "rectangles | three types", text)


_DEEPGIN_FFHQ = _deepgin(
    """
    DeepFill v1 | psnr | 21.55 22.87
    DeepFill v2 | psnr | 22.52 22.75
    DeepGIN | psnr | 24.36 24.71
    DeepFill v1 | ssim | 0.836 0.683
    DeepFill v2 | ssim | 0.845 0.716
    DeepGIN | ssim | 0.867 0.760
    DeepFill v1 | hole_l1 | 13.631 16.812
    DeepFill v2 | hole_l1 | 12.029 17.472
    DeepGIN | hole_l1 | 9.797 13.417
    DeepFill v1 | fid | 26.276 80.952
    DeepFill v2 | fid | 19.336 75.555
    DeepGIN | fid | 37.577 64.542
    DeepFill v1 | lpips | 0.144 0.310
    DeepFill v2 | lpips | 0.128 0.293
    DeepGIN | lpips | 0.142 0.274
    """
)

_DEEPGIN_OXFORD = _deepgin(
    """
    DeepFill v1 | psnr | 19.49 21.64
    DeepFill v2 | psnr | 18.88 20.80
    DeepGIN | psnr | 21.90 23.60
    DeepFill v1 | ssim | 0.795 0.686
    DeepFill v2 | ssim | 0.789 0.702
    DeepGIN | ssim | 0.819 0.744
    DeepFill v1 | hole_l1 | 16.851 18.835
    DeepFill v2 | hole_l1 | 18.308 20.687
    DeepGIN | hole_l1 | 12.995 14.659
    DeepFill v1 | fid | 58.588 81.009
    DeepFill v2 | fid | 66.615 82.671
    DeepGIN | fid | 74.866 79.927
    DeepFill v1 | lpips | 0.169 0.284
    DeepFill v2 | lpips | 0.174 0.266
    DeepGIN | lpips | 0.185 0.265
    """
)

_DEEPGIN_FFHQ_ORIGINAL = _deepgin(
    """
    DeepFill v1 | psnr | 20.22 25.12
    DeepFill v2 | psnr | 20.95 29.70
    DeepGIN | psnr | 26.05 32.36
    DeepFill v1 | ssim | 0.872 0.839
    DeepFill v2 | ssim | 0.903 0.912
    DeepGIN | ssim | 0.923 0.929
    DeepFill v1 | hole_l1 | 16.523 11.363
    DeepFill v2 | hole_l1 | 14.607 7.994
    DeepGIN | hole_l1 | 7.183 4.071
    DeepFill v1 | fid | 97.630 64.534
    DeepFill v2 | fid | 92.070 36.940
    DeepGIN | fid | 20.849 14.327
    DeepFill v1 | lpips | 0.173 0.232
    DeepFill v2 | lpips | 0.170 0.188
    DeepGIN | lpips | 0.137 0.156
    """,
    "original size",
)

_DEEPGIN_OXFORD_ORIGINAL = _deepgin(
    """
    DeepFill v1 | psnr | 19.20 21.48
    DeepFill v2 | psnr | 18.58 24.68
    DeepGIN | psnr | 21.92 27.57
    DeepFill v1 | ssim | 0.767 0.741
    DeepFill v2 | ssim | 0.766 0.802
    DeepGIN | ssim | 0.861 0.871
    DeepFill v1 | hole_l1 | 20.322 23.460
    DeepFill v2 | hole_l1 | 21.204 19.195
    DeepGIN | hole_l1 | 12.067 7.268
    DeepFill v1 | fid | 67.193 61.958
    DeepFill v2 | fid | 77.636 38.315
    DeepGIN | fid | 63.744 38.016
    DeepFill v1 | lpips | 0.187 0.237
    DeepFill v2 | lpips | 0.192 0.179
    DeepGIN | lpips | 0.170 0.191
    """,
    "original size",
)

_DEEPGIN_CELEBAHQ = _table(
    "DeepGIN, Table 1",
    "three types",
    """
    DeepGIN, coarse only | psnr | 31.55
    DeepGIN, StdResBlk | psnr | 31.34
    DeepGIN, StdResBlk-SA | psnr | 31.60
    DeepGIN, StdResBlk-MSSA | psnr | 32.66
    DeepGIN, DilatedResBlk-MSSA | psnr | 32.71
    DeepGIN, SPDResBlk-MSSA | psnr | 32.88
    DeepGIN, SPDResBlk-MSSA-BP | psnr | 33.26
    DeepGIN, StdResBlk | ssim | 0.923
    DeepGIN, StdResBlk-SA | ssim | 0.925
    DeepGIN, StdResBlk-MSSA | ssim | 0.933
    DeepGIN, DilatedResBlk-MSSA | ssim | 0.933
    DeepGIN, SPDResBlk-MSSA | ssim | 0.935
    DeepGIN, SPDResBlk-MSSA-BP | ssim | 0.939
    DeepGIN, StdResBlk | hole_l1 | 4.710
    DeepGIN, StdResBlk-SA | hole_l1 | 4.510
    DeepGIN, StdResBlk-MSSA | hole_l1 | 4.067
    DeepGIN, DilatedResBlk-MSSA | hole_l1 | 4.034
    DeepGIN, SPDResBlk-MSSA | hole_l1 | 3.884
    DeepGIN, SPDResBlk-MSSA-BP | hole_l1 | 3.666
    DeepGIN, coarse only | fid | 23.824
    DeepGIN, StdResBlk | fid | 19.436
    DeepGIN, StdResBlk-SA | fid | 18.239
    DeepGIN, StdResBlk-MSSA | fid | 12.843
    DeepGIN, DilatedResBlk-MSSA | fid | 12.548
    DeepGIN, SPDResBlk-MSSA | fid | 12.335
    DeepGIN, SPDResBlk-MSSA-BP | fid | 11.424
    DeepGIN, coarse only | lpips | 0.182
    DeepGIN, StdResBlk | lpips | 0.191
    DeepGIN, StdResBlk-SA | lpips | 0.180
    DeepGIN, StdResBlk-MSSA | lpips | 0.148
    DeepGIN, DilatedResBlk-MSSA | lpips | 0.149
    DeepGIN, SPDResBlk-MSSA | lpips | 0.143
    DeepGIN, SPDResBlk-MSSA-BP | lpips | 0.132
    """,
)

_AOTGAN = _table(
    "AOT-GAN, as MMagic's page of the model repeats it",
    "0.01-0.1 | 0.1-0.2 | 0.2-0.3 | 0.3-0.4 | 0.4-0.5 | 0.5-0.6",
    """
    AOT-GAN | l1 | 0.55 1.19 2.11 3.20 4.51 7.07
    AOT-GAN | psnr | 34.79 29.49 26.03 23.58 21.65 19.01
    AOT-GAN | ssim | 0.976 0.940 0.890 0.835 0.773 0.682
    """,
)

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "madf-places2": _MADF,
    "spn-places2": _SPN_PLACES2,
    "spn-celeba": _SPN_CELEBA,
    "spn-paris": _SPN_PARIS,
    "spn-prob": _SPN_PROBABILISTIC,
    "pennet-places2": _PENNET,
    "pennet-dtd": (),  # votes, which a study shows beside its own
    "deepfill-places2": _DEEPFILL,
    "deepgin-ffhq": _DEEPGIN_FFHQ,
    "deepgin-oxford": _DEEPGIN_OXFORD,
    "deepgin-celebahq": _DEEPGIN_CELEBAHQ,
    "deepgin-ffhq-original": _DEEPGIN_FFHQ_ORIGINAL,
    "deepgin-oxford-original": _DEEPGIN_OXFORD_ORIGINAL,
    "aotgan-places2": _AOTGAN,
}
"""Published figures by protocol."""
