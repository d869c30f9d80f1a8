"""MADF: mask-aware dynamic filtering and end-to-end cascaded refinement.

Zhu, He, Li, Li, Li, Liu, Ding and Zhang, "Image Inpainting by End-to-End Cascaded Refinement with
Mask Awareness", IEEE Transactions on Image Processing 2021. The encoder filters the masked image
with kernels that it makes from the mask, one per position; a recovery decoder predicts a first
image, and K refinement decoders rise beside it, each normalised under the features of the one
before. There is no discriminator: supervision grows from L1 to perceptual and style losses, from
the first image to the last.

We follow the authors' released code wherever it differs from the paper's text: 16 to 128 filters
per level, 1 + gain in the point-wise norm, ReLU after the recovery decoder's merges, the entry as
skip connection of the last level, total variation over the whole composite, and PyTorch's
initialisation (the paper's variance of 0.01 lets the outputs grow past any use).

Where we differ from the code, and why:

- Images are in [-1, 1] and masks count 1 as hole outside; networks and losses work in ImageNet's
  normalised colours with 1 as known, as the authors'. Any mask value but 0 is hole; theirs may
  lie between.
- Kernels are never stored per position: static filters run first and the mask's features mix
  them, which is the same sum in another order (models/madf/filtering.py).
- A refinement decoder's features become three colours before they are doubled, not after: a 1x1
  convolution and a bilinear doubling commute.
- The encoder's batch norms, which the code declares and never runs, are not built, unless
  ``dead_norms`` includes them; even then they are not trained.
- The style loss grades the last image; the released index is off by one for K = 2
  (``style_target``). Coarse-to-fine supervision is on, where the code has a flag.
- Losses see known pixels from the original in composites, bit for bit.

Batch norms take their statistics over each worker's share, as under the authors' data
parallelism, on three images there. Rows that are in the tables and not in the code are ours: K = 3,
batch norm in the point-wise norms' place, GConv and PConv.
"""
