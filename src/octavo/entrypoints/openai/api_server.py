"""`python -m octavo.entrypoints.openai.api_server --model MODEL`: the same as `octavo serve MODEL`."""

import sys

from octavo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
