"""What the demo page (`app.py`) computes and draws, apart from the page itself: nothing here imports gradio."""
