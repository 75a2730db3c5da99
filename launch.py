"""Trains, evaluates or previews: `python launch.py --config=configs/vit_b16.py --workdir=runs/a`.

It is `jaxvision train` for a clone that is not installed.
"""

import sys

from jaxvision.commands.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
