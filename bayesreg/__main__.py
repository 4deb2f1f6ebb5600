"""`python -m bayesreg` is the command `bayesreg`."""

from bayesreg.cli.start import main

if __name__ == "__main__":
    main()
