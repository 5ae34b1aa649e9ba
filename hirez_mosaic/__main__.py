"""`python -m hirez_mosaic`."""

from hirez_mosaic.cli.main import main

if __name__ == "__main__":
    main(prog_name="hirez-mosaic")
