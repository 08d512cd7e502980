"""Storing: checkpoints on disk, names and where they lead, the Hugging Face Hub, model cards.

May import from `ast_hf`: `config`, `errors`, `files`, `nn`, `data` and `inference`.
"""

from ast_hf.hub.names import available_checkpoints, find_checkpoint, store

__all__ = ["available_checkpoints", "find_checkpoint", "store"]
