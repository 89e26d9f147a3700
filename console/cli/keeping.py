"""Commands about what is kept here, for how long, and who gets it."""

import typer

app = typer.Typer()
