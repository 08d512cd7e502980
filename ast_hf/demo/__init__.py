"""The demo page (`app.py` serves it): a module a tab, and what the tabs compute and draw.

May import everything of `ast_hf`; the only place that imports gradio.
"""
