"""`python -m enrollment_service`: the commands stand in `cli/`."""

from enrollment_service.cli.main import cli

if __name__ == "__main__":
    cli(prog_name="python -m enrollment_service")
