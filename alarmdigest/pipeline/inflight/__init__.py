"""What is in flight (made and not yet confirmed, sent or not), and how confirmations come about."""
