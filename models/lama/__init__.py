"""LaMa: resolution-robust large mask inpainting with Fourier convolutions.

Suvorov, Logacheva, Mashikhin et al., WACV 2022. A residual network whose convolutions see the whole
frame: three quarters of its feature maps are mixed in the frequency domain (fast Fourier
convolution, FFC). Trained with wide masks, a loss of features with a high receptive field, and a
discriminator that takes images outside the hole for originals.

We follow the authors' released code and its configuration of Big LaMa: 18 residual blocks at an
eighth of the size, 512 maps of which 384 are global, no local Fourier unit, real and imaginary
parts interleaved, orthonormal transforms, batch norms after every convolution, a sigmoid at the
end, and no L1 inside the hole. The input is the masked image in [0, 1], zero in its hole, and the
mask. The paper's text is not at hand: the numbers of its equations, sections and tables, here and
in the other files, are from memory and not checked.

Where we differ from the code, and why:

- Images are in [-1, 1] outside; networks and losses work in [0, 1] inside.
- Fourier transforms, and the discriminator with its penalty on gradients, stay in full precision
  under autocast.
- The discriminator looks at the original without a graph in the generator's step.
- `generates_again`: as in the code, the updated generator runs again for the discriminator's step;
  False spares that pass, and then the discriminator's gradients differ by more than a half.
- Batch norms take their statistics over each worker's share.
"""
