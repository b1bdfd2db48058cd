"""Run one training from a YAML file of settings, by hand or as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/smoke.yaml

The file holds settings as `secauditai train config` writes them. Inside a Ray job the work goes to Ray workers.
"""

import sys

from secauditai.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train", "start"]
    main()
