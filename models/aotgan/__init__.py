"""AOT-GAN: aggregated contextual transformations for high-resolution image inpainting.

Zeng, Fu, Chao and Guo, IEEE Transactions on Visualization and Computer Graphics 2022. An encoder
and a decoder of a few convolutions each, and between them eight blocks that see a feature at four
dilations at once and mix the result into the features by a learned gate. The discriminator is
trained to find the hole: its target for a composite is the blurred mask (SM-PatchGAN).

We follow the authors' released code: widths, blocks, losses and their weights, masked images whose
hole is white, and masks and photographs augmented as there. Its text is not at hand, so no figure,
table or equation of the paper is cited here, and none of its ablation tables is repeated.

Where we differ from the code, and why:

- In the released adversarial loss the generator learns to make the discriminator see a hole
  everywhere, which makes its output easier to find. Here it learns to hide the hole, and only
  pixels inside it count. `adversarial_form` "released" computes the loss of the code.
- Adam's decays are those of the released code's options, 0.5 and 0.999. The paper has 0 and 0.9 as
  far as we remember: `--model.beta1 0 --model.beta2 0.9`.
- The blocks' padding repeats the edge where a feature map is too small to be reflected.
- The discriminator sees the original and the composite in one batch.
"""
