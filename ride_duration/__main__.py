"""`python -m ride_duration` is `ride-duration`."""

from ride_duration.cli import main

if __name__ == "__main__":
    main()
