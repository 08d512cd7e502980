"""How a detector does on parts of which it is known whether they are good: figures with their uncertainty, a report.

May import all of `ast_hf` but the command line and the page.
"""

from ast_hf.evaluation.evaluate import Evaluation, evaluate
from ast_hf.evaluation.render import summarize, write_report

__all__ = ["Evaluation", "evaluate", "summarize", "write_report"]
