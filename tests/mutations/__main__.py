"""python -m tests.mutations: a module of its own, since processes of a pool import no __main__."""

import sys

from tests.mutations.prove import main

if __name__ == "__main__":
    sys.exit(main())
