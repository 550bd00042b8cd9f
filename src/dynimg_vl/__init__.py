"""DynImg-VL: answer questions about videos from key frames with visual prompts (arXiv 2507.15569)."""

__version__ = "0.1.0"
