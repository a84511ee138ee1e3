"""`python -m robustcls` is `robustcls`."""

from robustcls.cli.main import main

if __name__ == "__main__":
    main()
