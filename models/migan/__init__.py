"""MI-GAN: a simple baseline for image inpainting on mobile devices.

Sargsyan, Navasardyan, Xu and Shi, ICCV 2023. A small encoder and decoder of depthwise separable
convolutions with skip connections, whose kernels are sums of nine in training and one when served.
Its discriminator and its arithmetic are StyleGAN's. It learns from a teacher, Co-Mod-GAN: what that
adds to the image at each size, inside the hole.

We follow the authors' released code and its configurations, which serve 256 and 512 px. The
paper's text is not at hand, so no figure, table or equation of it is cited here, and none of its
ablation tables is repeated.

Where we differ from the code, and why:

- Frames of any multiple of 64 px (128 px at 512) are taken: constant noise is repeated beyond the
  size that it was made for, and the discriminator averages its deepest maps to 4 px.
- The output is cut to [-1, 1]; losses see it uncut.
- The teacher's noise is its constant one, and its latent code follows the batch's seed.
- The penalty is taken in the discriminator's step, not in one of its own. The learning rates are
  those that the code corrects for it; Adam's decays are not corrected.
- The discriminator measures the deviation of images in groups whose size divides the batch, and
  runs in full precision.
- Masks are strokes and boxes of our own recipes, not those of the code.
"""
