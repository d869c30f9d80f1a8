"""A small U-Net that corrects a smooth first guess: the network that comes with this package.

No paper has it. Its parts are known ones: the contracting and expanding path with skip connections
of U-Net (Ronneberger et al., MICCAI 2015), residual blocks (He et al., CVPR 2016), and pixel
shuffling at both ends (Shi et al., CVPR 2016), so that no convolution runs at full size: its first
maps have a sixteenth of the image's pixels.
"""
