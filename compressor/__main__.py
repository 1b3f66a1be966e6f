"""`python -m compressor`: the command, for launchers such as `accelerate launch -m compressor run RECIPE`."""

from compressor.cli import main

if __name__ == "__main__":
    main(prog_name="compress")
