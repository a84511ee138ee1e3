"""Write the arrays of an artefact: logits that a runtime must reproduce, and the reference of drift monitoring."""

import io
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from robustcls.runtime.predict import predict

REFERENCES = 64  # number of images whose logits a runtime must reproduce
BATCH = 32
WINDOW, ALPHA, QUANTILES = 500, 0.01, 101  # of the drift statistic


def write_reference(path: Path, net: nn.Module, images: Tensor) -> None:
    """Write images as pixels (uint8 N,C,H,W) and as concatenated PNG files with their end offsets, and the logits of `net`."""
    from PIL import Image

    pixels = (images * 255).round().to(torch.uint8)
    logits = predict(net, pixels.float() / 255, BATCH)
    files = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
        files.append(buffer.getvalue())
    numpy.savez(
        path,
        pixels=pixels.numpy(),
        logits=logits.numpy(),
        png=numpy.frombuffer(b"".join(files), dtype=numpy.uint8),
        png_ends=numpy.cumsum([len(one) for one in files]),
    )


def write_drift(path: Path, logits: Tensor) -> None:
    """Write the reference of drift monitoring, from logits N,K: quantiles K,Q of each softmax output, and a threshold.

    The threshold is the largest Kolmogorov-Smirnov distance between the outputs for `window` images and these outputs that is
    not significant, asymptotically and with Bonferroni correction over the classes (arXiv:1810.11953).
    """
    probabilities = logits.softmax(1).double().numpy()
    n, classes = probabilities.shape
    quantiles = numpy.quantile(probabilities, numpy.linspace(0, 1, QUANTILES), axis=0).T
    threshold = numpy.sqrt(-numpy.log(ALPHA / classes / 2) / 2 * (n + WINDOW) / (n * WINDOW))
    numpy.savez(path, quantiles=quantiles, n=n, window=WINDOW, alpha=ALPHA, threshold=threshold)
