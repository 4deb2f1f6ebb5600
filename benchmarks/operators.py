"""What a product with a forward map costs: ours, SciPy's, PyLops' and scikit-image's, side by side in one run on one thread.

    python benchmarks/operators.py [--quick]

Blurring of an image by a Gaussian of 2 pixels, and projections of the Shepp–Logan phantom. The contestants take turns; a row is
the ratio of CPU times round by round: median, minimum, maximum. PyLops and scikit-image are left out where they are missing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from bayesreg import operators
from bayesreg.datasets import inverse

Products = dict[str, Callable[[], object]]


def blurring(n: int) -> dict[str, Products]:
    """Products with a blur of an n × n image, forward and adjoint, by who computes them; the first is ours."""
    kernel, x = operators.gaussian_kernel(2.0, 2), np.random.default_rng(0).normal(size=(n, n))
    zero, reflect = (operators.Convolution2d(kernel, boundary, shape=(n, n)) for boundary in ("zero", "reflect"))
    field = torch.as_tensor(x)
    forward: Products = {"ours, zero": lambda: zero(field), "ours, reflect": lambda: reflect(field)}
    back: Products = {"ours, zero": lambda: zero.adjoint(field), "ours, reflect": lambda: reflect.adjoint(field)}
    forward["ndimage.gaussian_filter"] = lambda: ndimage.gaussian_filter(x, 2.0)
    try:
        from pylops.signalprocessing import Convolve2D
    except ImportError:
        return {f"blur {n} × {n}": forward}
    theirs, flat = Convolve2D((n, n), kernel.numpy(), offset=(kernel.shape[0] // 2,) * 2), x.ravel()
    forward["PyLops"], back["PyLops"] = lambda: theirs.matvec(flat), lambda: theirs.rmatvec(flat)
    return {f"blur {n} × {n}": forward, f"blur {n} × {n}, adjoint": back}


def projecting(n: int, num_angles: int) -> dict[str, Products]:
    """Projections of the n × n phantom and the adjoint, by who computes them; the first is ours."""
    angles = np.arange(num_angles) * math.pi / num_angles
    ours, image = operators.Radon(angles, (n, n)), inverse.shepp_logan(n)
    field, name = torch.as_tensor(image), f"{num_angles} projections of {n} × {n}"
    b = ours(field)
    forward: Products = {"ours": lambda: ours(field), "ours, made anew": lambda: operators.Radon(angles, (n, n))}
    back: Products = {"ours": lambda: ours.adjoint(b)}
    try:
        from skimage.transform import iradon, radon
    except ImportError:
        return {name: forward}
    degrees = np.rad2deg(angles)
    sinogram = radon(image, degrees, circle=False)
    forward["scikit-image"] = lambda: radon(image, degrees, circle=False)
    back["scikit-image"] = lambda: iradon(sinogram, degrees, circle=False, filter_name=None)
    return {name: forward, f"{name}, adjoint": back}


def measured(products: Products, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each contestant, round by round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(rounds + 1):
        for name, product in products.items():
            started = time.process_time()
            product()
            times[name].append(time.process_time() - started)
    return {name: seconds[1:] for name, seconds in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a peer's
    tasks = {**blurring(256 if quick else 512), **projecting(64 if quick else 128, 60 if quick else 90)}
    print("| product | contestant | ms | CPU time / ours: median | min | max |\n|---|---|---|---|---|---|")
    for task, products in tasks.items():
        times = measured(products, 5 if quick else 20)
        first = next(iter(times.values()))
        for name, seconds in times.items():
            ratios = [one / own for one, own in zip(seconds, first, strict=True)]
            middle = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
            print(f"| {task} | {name} | {1e3 * statistics.median(seconds):.2f} | {middle} |")


if __name__ == "__main__":
    main()
