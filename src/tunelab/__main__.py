"""`python -m tunelab`, which torchrun and accelerate launch need."""

import sys

from tunelab.cli.main import main

sys.exit(main())
