"""`python -m console.cli`, for torchrun and other programs that start modules."""

from console.cli import main

if __name__ == "__main__":
    main()
