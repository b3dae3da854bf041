"""Put faults into the code one at a time, and prove that a named test notices each.

python -m tests.mutations                 all of them, in two processes
python -m tests.mutations --only NAME     one

`prove` is a module of its own, since processes of a pool import no __main__.
"""

import sys

from tests.mutations.prove import main

if __name__ == "__main__":
    sys.exit(main())
