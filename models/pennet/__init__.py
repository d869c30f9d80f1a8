"""PEN-Net: a pyramid-context encoder that fills every skip connection, from deep to shallow.

Zeng, Fu, Chao and Guo, "Learning Pyramid-Context Encoder Network for High-Quality Image
Inpainting", CVPR 2019. A U-Net in which attention found on a deeper, already filled map (ATN)
says from which patches the next shallower one is made; every scale of the decoder is supervised.

We follow the authors' PyTorch code, the only complete description: layers, widths, attention,
losses, optimiser. The published tables come from an earlier program that was never released.
``PENNetConfig.as_printed`` takes the paper's attention and its two loss terms instead. Its pyramid
loss (Eq. 6) includes the full-size image: without it no term would compare that image with the
original, and Eq. 6 sums over all maps of the decoder, the finest included. Of the
paper's form the transposed convolutions, the heads on the decoder's maps alone and the
unhalved discriminator loss are not offered: they are described too loosely to count.

Where we differ from the code, and why:

- Attention is computed without unfolding patches (``attention.py``): the same function, in a
  sixth of the multiplications, for the whole batch, and without ever holding all pairs.
- Keys have no smallest weight of 1e-8: it costs a pass, lets the hole's own features in, and
  moves outputs by 1.5e-5 (``attention_floor``).
- The squared length of a patch is clamped, not the length: an empty patch has a gradient.
- The generator returns its images coarsest first, in the order of its decoder.
- Originals and composites pass the discriminator together, so that its spectral norms take one
  power iteration there instead of two; its loss takes logits, not sigmoids.
- The discriminator's weights have no gradient in the generator's pass.
- A batch without a hole, or with nothing else, has a loss of 0 there, not a division by 0.
- Learning rates drop at named steps instead of by two interacting numbers.

Ours, as the paper names its ablations (Table 6) without describing them: the level of the single
attention and of patch swap is 2, the 64 x 64 map of a 256 x 256 image, where others attend;
same-layer attention compares the map itself at half its size; a patch swap without any known
patch leaves the map as it is.
"""
