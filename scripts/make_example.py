"""Write the project's example clip: `python scripts/make_example.py examples/ball.mp4`."""

import sys
from pathlib import Path

from dynimg_vl.motion.example import write_example

if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/ball.mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_example(target)
    print(target)
