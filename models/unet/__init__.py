"""A small U-Net that corrects a smooth first guess: the network that comes with this package.

None of the papers has it. Its parts are known ones: the contracting and expanding path with skip
connections of U-Net (Ronneberger et al., MICCAI 2015, Fig. 1), residual blocks (He et al., CVPR
2016, Fig. 2), and pixel shuffling at both ends (Shi et al., CVPR 2016, Sec. 3.2), so that no
convolution runs at full size. It is made for CPUs: 12 ms a megapixel and thread for the first
guess, and a sixteenth of the pixels for everything else.
"""
