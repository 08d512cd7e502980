"""A teacher and the student that copies it: the asymmetric pair of AST."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ast_hf.config import ASTDetectorConfig
from ast_hf.nn.flow import build_teacher, positional_encoding
from ast_hf.nn.student import Student


class Pair(nn.Module):
    """Teacher and student over the same map of standardised inputs, conditioned on the same positional encoding.

    Args:
        config: A detector's.
        map_size: (h, w) of the feature map.
        kind: "wide" for the paper's pair, whose convolutions look around a cell; "local" for the second one, of 1 x 1
            convolutions, which judges a cell by its own features and its place (`ASTDetectorConfig.local_channels`).

    Attributes:
        teacher: The flow, `flow.build_teacher`.
        student: The `Student`.
    """

    positional_encoding: Tensor

    def __init__(
        self, config: ASTDetectorConfig, map_size: tuple[int, int], kind: Literal["wide", "local"] = "wide"
    ) -> None:
        super().__init__()
        encoding = torch.empty(config.position_channels, *map_size)
        if not encoding.is_meta:  # where nothing is computed, so that a stranger's configuration costs no memory
            encoding = positional_encoding(*encoding.shape)
        self.register_buffer("positional_encoding", encoding)
        widths = config.teacher_channels, config.student_channels
        sizes, student_size = config.coupling_kernel_sizes, config.student_kernel_size
        if kind == "local":
            assert config.local_channels is not None
            widths, sizes, student_size = config.local_channels, (1,) * config.coupling_blocks, 1
        self.teacher = build_teacher(
            config.network_channels,
            map_size,
            condition_channels=config.position_channels,
            hidden_channels=widths[0],
            kernel_sizes=sizes,
            clamp=config.coupling_clamp,
        )
        self.student = Student(
            config.network_channels,
            condition_channels=config.position_channels,
            hidden_channels=widths[1],
            blocks=config.student_blocks,
            negative_slope=config.student_negative_slope,
            kernel_size=student_size,
        )

    def teacher_forward(self, inputs: Tensor, encoding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The teacher's z (B, C, h, w) and log_jac (B, h, w) for standardised inputs (B, C, h, w).

        Of a crop of the map, `encoding` (P, h, w) is the positional encoding there; by default it is the whole one.
        """
        condition = self._condition(inputs, encoding)
        return self.teacher(inputs, c=None if condition is None else [condition])

    def student_forward(self, inputs: Tensor, encoding: Tensor | None = None) -> Tensor:
        """The student's guess at z (B, C, h, w) for standardised inputs (B, C, h, w), or a crop as the teacher's."""
        return self.student(inputs, self._condition(inputs, encoding))

    def _condition(self, inputs: Tensor, encoding: Tensor | None) -> Tensor | None:
        """The positional encoding for a batch, (B, P, h, w), or None without one."""
        encoding = self.positional_encoding if encoding is None else encoding
        # Not len(inputs): an export would take it for a constant, and the batch size is none.
        return encoding.expand(inputs.shape[0], -1, -1, -1) if len(encoding) else None
