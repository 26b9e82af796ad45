"""What the command line shows, loads and asks."""
