"""python -m lumina_core: the command line, for torchrun and for machines without scripts on their path."""

from lumina_core.cli.main import main

if __name__ == "__main__":
    main()
