"""Data of optical flow: file formats, published data sets, augmentation, generated scenes."""
