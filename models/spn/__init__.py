"""SPN: image inpainting with a learned semantic pyramid.

Zhang, Wang, Ni and Yang, "Fully Context-Aware Image Inpainting with a Learned Semantic Pyramid",
Pattern Recognition 2023. A prior learner looks at the masked image and predicts what a
multi-label classifier would have seen in the complete one, at three scales; a generator fills
the hole under the guidance of that pyramid, through SPADE.

We follow the authors' released code wherever it differs from the paper's text, because only it
gives the published parameter counts: dense blocks in the prior learner, region normalisation in
the image encoder, SPADE with 1 + gain, hole_emphasis 2 where the paper says 4. Loss forms that
differ have a field each (``hole_emphasis``, ``perceptual_layer_weights``, ``diversity_form``,
``latent_form``). Two rows of the ablations are defined by no release, so their layers are ours:
``prior_levels=2`` rises the last level as SPL does, ``fusion="concat"`` concatenates every prior
once and normalises without modulation.

Where we differ from the code, and why:

- Images are in [-1, 1] outside; networks and losses work in [0, 1] inside, as the authors'.
- The discriminator gives logits, and the cross-entropy takes them: a sigmoid before it is refused
  under autocast and loses precision.
- Originals and predictions pass the discriminator together, so that its spectral norms take one
  power iteration there instead of two.
- The teacher sees the image doubled bilinearly instead of a second, larger copy of the original.
- Teachers of Fig. 8: the paper names YOLOv5 and HRNet, not their sizes or layers. We take
  YOLOv5-L and HRNetV2-W48 at the levels of the pyramid: two branches of HRNet's last stage, and
  both stems as the finest. "edge" is the steepness of grey in place of Canny's edge maps.
- A latent's deviation is at least 0.001, so that its divergence stays finite; and the generator
  uses the latent's mean unless it is given noise, so that serving is deterministic.
- A layer of VGG-19 in which the hole has vanished is left out of the diversity loss, where the
  code divides by zero. That loss inverts a sum over this worker's share of the batch, as the
  code does, so it is the one term that depends on the number of workers.
- From ``prior_stop_step`` on the teacher is no longer used; the heads get gradients of zero.
- The learning rate of Paris StreetView drops in the last third (after 50 of 75 epochs), as in the
  code; the paper says the last quarter (Sec. 4.1.3).
- Schedules count steps, not epochs.
"""
