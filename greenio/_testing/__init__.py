"""What `greenio.testing` is made of."""
