"""Serve exactly what was trained, in the shape of OpenAI's chat completions."""
