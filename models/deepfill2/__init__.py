"""DeepFill v2: free-form image inpainting with gated convolution, the baseline of two papers.

Yu, Lin, Yang, Shen, Lu and Huang, "Free-Form Image Inpainting with Gated Convolution", ICCV 2019.
The two stages and the attention of version 1, whose tables and attention we share; every
convolution is gated, and one patch discriminator with spectral normalisation, which sees the
mask, takes the place of the two critics.

We follow the authors' released code, version 2.0.0: both halves of the hinge loss weigh 0.5
(discriminator_weight), and the second stage is given the composite alone. The paper's text
is not at hand: the numbers of its equations, sections and tables, here and in the other files, are
from memory and not checked.

Where we differ from the code, and why:

- A step halves its batch between discriminator and generator, so "batch" here is twice theirs.
- Each image may have its own mask.
- Images are red-green-blue; imported weights are turned from blue-green-red.
- The gradient stops at the vectors of the power iteration, as in PyTorch's own normalisation.
- The variant guided by edges is left out, as no sample here carries any.
"""
