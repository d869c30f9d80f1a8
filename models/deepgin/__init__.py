"""DeepGIN: deep generative inpainting network for extreme image inpainting.

Li, Siu, Liu, Wang and Lun, ECCV Workshops 2020. A coarse network with pyramids of dilated
convolutions, a second one that also looks around at three sizes, and back projection: a small
image says how the large one has to be corrected. No normalisation anywhere in the generator.

We follow the authors' released code wherever it differs from the paper's text: replicated borders,
back projection from the composite, squared style and variation losses, the layers and size at
which VGG-19 looks. Fields of the configuration choose the printed form.

Where we differ from the code, and why:

- Images are in [-1, 1] outside; networks and losses work in [0, 1] inside. ``final`` is cut to its
  range; losses use the unclipped output.
- A pyramid's border is replicated once, for the widest dilation, and activated once, with the
  border of what follows; padding keeps nothing for the backward pass (blocks.py).
- Attention never holds all pairs: a fused kernel, on contiguous rows (blocks.py).
- VGG-19 looks at the original once and at both images together, three passes instead of four.
- Originals and completed images pass the discriminators together, so that their spectral norms
  take one power iteration there instead of two; their vectors are kept.
- No clipping of gradients, which came to the code after publication.
- Photographs are reduced to 512 px by the mean of the area, where the code takes the bicubic
  interpolation, which aliases.
- The learning rates are constant for eleven epochs of the second stage, as in the code; the paper
  says ten (``constant_epochs``).
- A warm-up of L1 losses is a stage of the same run, after which the optimizers begin anew.

``segmentation_guided`` is the form that the authors released for the challenge's track with
segmentation: a label map of the whole image, three channels, comes last in both networks' input.
Its label maps take the nearest pixels when images are resized.

Batches are used as they are. The authors generate three masks for each image of a batch of four;
with twelve photographs and one mask each the losses have the same mean over kinds of holes.
"""
