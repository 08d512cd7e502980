"""Pictures and scans as people have them: read within limits, kept upright, brought to the networks' sizes.

May import from `ast_hf`: `config`, `errors`, `files` and `nn`. The readers import no torch.
"""

from ast_hf.data.images import read_image, read_mask
from ast_hf.data.point_cloud import DepthProcessor
from ast_hf.data.sample import Sample
from ast_hf.data.scans import read_scan

__all__ = ["DepthProcessor", "Sample", "read_image", "read_mask", "read_scan"]
