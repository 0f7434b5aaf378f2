"""What this project claims about itself, each claim a command."""
