"""Run the command line as `python -m dynimg_vl`."""

from .cli import main

main()
