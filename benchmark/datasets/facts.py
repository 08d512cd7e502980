"""What the benchmark knows of each dataset before any of it is there, in one table (facts.json)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset; a user's own data have no categories, no citation and no limit."""

    name: str  # on the command line, and of its folder
    title: str  # in texts
    licence: str  # under what terms the data may be used
    checkpoint_prefix: str  # what stands before the category in the name of a checkpoint, as in "ast-mvtec-bottle"
    citation: str = ""  # the paper to cite, on one line
    download_page: str = ""  # where the data come from
    preset: str = "compact"  # the configuration preset that is used unless another is named
    modalities: Sequence[str] = ("rgb",)  # of `ASTDetectorConfig.modality`; each gets tables of its own
    categories: Sequence[str] = ()  # in their official order
    limit: str = ""  # what AST is weak at on it, as published, with the source

    @property
    def hub_licence(self) -> str:
        """The licence as the Hub spells it."""
        return self.licence.lower().replace(" ", "-") if self.licence.startswith("CC") else "other"


_TABLE = json.loads(Path(__file__).parents[1].joinpath("facts.json").read_bytes())
DATASETS = {name: DatasetFacts(name, **entry) for name, entry in _TABLE.items()}
