"""What starting kernels takes on NVIDIA's cards, and what calls reach on cards whose calls nobody
measured: the same for all, for want of measurements.
"""

from pieria.hardware.specs.quote import assumed, said

LAUNCH = said(
    2.4e-6,
    "s",
    "null kernels on A100 and H100: 2.3 to 2.4 us (arXiv 2504.11750), 2.7 us queued and 6.4 waited"
    " for on an RTX 5070 Ti (github.com/ahrefs/ocannl, issue 488)",
    low=2.2e-6,
    high=6.4e-6,
)
REPLAY = assumed(
    10e-6,
    2.5e-6,
    15e-6,
    "s",
    "15 us of an empty graph on an RTX 5070 Ti laptop (github.com/ahrefs/ocannl, issue 488), of"
    " which the host takes 2.5 us (NVIDIA's blog on constant-time launch)",
)
GAP = assumed(
    0.8e-6,
    0.5e-6,
    1.5e-6,
    "s",
    "0.58 us a kernel of an empty graph on an RTX 5070 Ti laptop (github.com/ahrefs/ocannl, issue"
    " 488); 1.2 us is what an H100 takes for a null kernel (arXiv 2504.11750)",
)

AS_H100 = assumed(
    1.0,
    0.7,
    1.2,
    "",
    "not measured: as an H100's; of those, an H200's products and attention reach 0.69 to 1.16"
    " (tables of aiconfigurator), and an S5000's 0.77 to 1.2",
)
