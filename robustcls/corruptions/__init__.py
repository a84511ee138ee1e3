"""Common corruptions: (x, severity, *, generator) -> x. One a file; the file's name is the plug-in's name.

The 15 corruptions of Hendrycks and Dietterich (2019, arXiv:1903.12261), written here from their published definitions.
x: float32 images N,C,H,W in [0, 1] on the CPU, grey or RGB, of 8x8 or more; the result is like them. severity: 1 to 5.
generator: of the CPU; the same state gives the same images. Raises InputError for other images or severities.

The strength of a severity is that of CIFAR-10-C (images of 32 pixels), and that of ImageNet-C (224 pixels) for images
whose shorter side has 128 pixels or more. Lengths that were published as a share of the side are taken of the shorter
side; all others are in pixels.
"""
