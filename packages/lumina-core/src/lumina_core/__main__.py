"""`python -m lumina_core`: the command line, for torchrun and where scripts are not on the path."""

from lumina_core.cli.main import main

if __name__ == "__main__":
    main()
