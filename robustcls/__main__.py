"""`python -m robustcls` is `robustcls`, and what torchrun starts."""

import os

from robustcls.cli.main import main

if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from robustcls.runtime.world import end_process

            end_process(end.code if isinstance(end.code, int) else 0)
        raise
