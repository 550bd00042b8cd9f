"""Write tests/golden/label_masks.txt anew: `python tests/golden/make_label_masks.py`; then read what it says."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS / "training")]
    from test_chat_tokens import GOLDEN, golden_text

    from tiny import tiny_config, tiny_processor

    GOLDEN.write_text(golden_text(tiny_processor(tiny_config())))
