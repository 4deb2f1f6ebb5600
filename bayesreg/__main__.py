"""`python -m bayesreg` is the command `bayesreg`."""

from bayesreg._cli_start import main

if __name__ == "__main__":
    main()
