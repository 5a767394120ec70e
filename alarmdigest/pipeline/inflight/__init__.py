"""What was made and is not known to be stored: the list, and how confirmations come about."""
