"""What two rooms must agree on: settings, pixels, the network, the file store, names and UIDs."""

__version__ = "0.1.0"
