"""The ingest process: ``python -m adapters`` is ``feed ingest``, with the same options."""

import sys

from feed.cli import main

if __name__ == "__main__":
    main(["ingest", *sys.argv[1:]], prog_name="feed")
