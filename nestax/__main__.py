"""`python -m nestax` is the command line."""

from nestax_command import main

if __name__ == "__main__":
    main()
