"""What is known of one part before anything is read: where its picture and its point cloud are. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ast_hf.data.images import ImageSource
from ast_hf.data.reading import ImageFile, source_name

Scan: TypeAlias = "ImageFile | np.ndarray"


@dataclass(frozen=True)
class Sample:
    """One part: its picture, its organised point cloud, or both, as `read_image` and `read_scan` take them."""

    image: ImageSource | None = None
    points: Scan | None = None

    @property
    def name(self) -> str:
        """The file's path, or a stand-in for data without one."""
        return source_name(self.image if self.image is not None else self.points)
