"""`python -m spider_bundle.cli`, where the `spider` program is not on the path."""

from spider_bundle.cli import app

if __name__ == "__main__":
    app()
