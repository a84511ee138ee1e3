"""Common corruptions: functions (x, severity, *, generator) -> x in four families: noise, blur, weather, digital.

These are the 15 corruptions of Hendrycks and Dietterich (2019, arXiv:1903.12261), implemented from their published definitions.

x: float32 images N,C,H,W in [0, 1] on the CPU, grey or RGB, of 8x8 pixels or more; the result has the same shape. severity: 1
to 5. generator: on the CPU; the same state gives the same images. Raises InputError for other images or severities.

The constants are those of CIFAR-10-C (images of 32 pixels); for images whose shorter side has 128 pixels or more, those of
ImageNet-C (224 pixels). Lengths that were published as a fraction of the side are relative to the shorter side; all others are
in pixels.
"""
