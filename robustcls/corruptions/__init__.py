"""Common corruptions, (x, severity, *, generator) -> x, in the paper's four families: noise, blur, weather, digital.

The 15 corruptions of Hendrycks and Dietterich (2019, arXiv:1903.12261), written here from their published definitions.
x: float32 images N,C,H,W in [0, 1] on the CPU, grey or RGB, of 8x8 or more; the result has the same shape. severity: 1 to 5.
generator: on the CPU; the same state gives the same images. Raises InputError for other images or severities.

Constants are those of CIFAR-10-C (images of 32 pixels), and those of ImageNet-C (224 pixels) for images whose shorter side
has 128 pixels or more. Lengths published as a share of the side are relative to the shorter side; all others are in pixels.
"""
