"""DeepFill v1: generative image inpainting with contextual attention.

Yu, Lin, Yang, Shen, Lu and Huang, "Generative Image Inpainting with Contextual Attention", CVPR
2018. A coarse network predicts a rough image. Its composite is the input of a second network of two
branches: one imagines with dilated convolutions, one copies, rebuilding every feature patch from
known ones by attention. Both images are held to the original, the hole's rim above all; a global
and a local Wasserstein critic score the final one.

We follow the authors' released code, version 1.0.0, wherever it differs from the paper's text:
zeros laid out as TensorFlow does instead of mirrored borders, a channel of ones, narrower
encoders in the second stage, ReLU before the attention, similarities divided by the norm of the
background patch alone and propagated before the softmax, a discount of 0.9 instead of 0.99, an L1
on known pixels. Fields of the configuration choose the paper's form where they say so.

Where we differ from the code, and why:

- A step cuts its batch into critic_updates + 1 slices, so "batch" here is six times theirs: each
  update still has images of its own. critic_batches "shared" gives all of them to every update.
- Each image may have its own mask. Means over known or hole pixels are taken per image, then over
  images, so that the result does not depend on how a batch is spread over workers.
- The window that the local critic and the discount see is centred on the hole's bounding box. For
  the authors' holes that is exactly their box; free-form holes have one too.
- Features are thinned out by taking every second value; theirs, which depends on the size of the
  image, is attention.downsample "align_corners", which imported weights use.
- Images are red-green-blue; imported weights are turned from blue-green-red.
- Attention works by matrix products over the batch (attention.py), and a doubled map is never
  made (layers.py). The same numbers, up to rounding.
- Critics have an optimizer of their own; theirs shares one, whose step count runs six times as
  fast and only matters in the first steps.
- The critics stay in full precision under autocast.
- The blend of a gradient penalty is a function of the sample's name, not of a generator's state.
"""
