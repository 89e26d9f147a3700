"""What people touch: the `hilum` command."""
